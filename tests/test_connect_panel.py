"""The panel that shows how other programs use the app: what it shows, and to whom."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from janus_app.hub import Hub
from janus_app.outputs.library import library
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.server.api.gate import Access
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models import connect_panel
from janus_app.ui.tabs.models.connect_panel import PROGRAMS, ConnectHandlers, ConnectPanel

URL = "https://example.org/janus"


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    session = ModelSession(load_catalog(), Hub())
    saved = library(tmp_path, tmp_path / "data")
    return PageContext(session, session.catalog, Texts("en"), SavedImages(tmp_path, tmp_path), library=saved)


def shown(page: PageContext, program: str, show_key: bool = False) -> tuple[str, str]:
    """(the text, the note) for a program."""
    with gr.Blocks():
        panel = ConnectPanel(gr.Radio(), gr.Checkbox(), gr.Textbox(), gr.HTML(), gr.Textbox())
    values: dict[Any, Any] = {panel.program: program, panel.show_key: show_key, panel.address: URL}
    updates = ConnectHandlers(page, panel).show(values, gr.Request())
    return updates[panel.text]["value"], re.sub("<.*?>", "", updates[panel.note])


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_the_key_is_hidden_until_it_is_asked_for(page: PageContext, program: str) -> None:
    page = replace(page, access=Access("a-secret"))
    hidden, given = shown(page, program)[0], shown(page, program, show_key=True)[0]
    assert "a-secret" not in hidden and hidden
    if program != "mcp-stdio":  # it needs none
        assert "YOUR_KEY" in hidden and given == hidden.replace("YOUR_KEY", "a-secret") and URL in given


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_a_page_for_strangers_shows_neither_the_key_nor_a_folder(page: PageContext, program: str) -> None:
    strangers = replace(page, access=Access("a-secret"), library=None, shared=True)
    text, note = shown(strangers, program, show_key=True)
    assert "a-secret" not in text and str(page.images.outputs) not in text
    assert "YOUR_KEY" in note and bool(text) == (program != "mcp-stdio")


def test_where_the_api_is_off_the_panel_says_how_to_turn_it_on(page: PageContext) -> None:
    text, note = shown(page, "curl")
    assert not text and "--api-key" in note
    assert URL in shown(replace(page, access=Access(trusting=True)), "curl")[0]


def test_the_address_is_the_visitors_own() -> None:
    assert "location.origin" in connect_panel.ADDRESS
