"""A name in the page's list becomes the loaded model, and nothing is downloaded where it must not be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

import app
from janus_app.cli.common import Asked
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.paths import ROOT
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, GenerateRequest, Notice, Progress, drain
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext, Updates
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models import model_drawer, model_line
from janus_app.ui.tabs.models.model_list import Fit, cached, fits, list_html, own_html, place_of, starters
from janus_app.ui.tabs.models.welcome import welcome_html
from tests.conftest import GOLDEN

ASK = GenerateRequest("a red cat", seed=3)
FOLDER = GOLDEN / "janus_pro_1b" / "checkpoint"


class Recorder(ModelSession):
    """A session that notes what it was asked to load."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(load_catalog(), hub)
        self.asked: list[Variant] = []

    def load(self, name: str, device: str = "auto", precision: str = "auto") -> Any:
        self.asked.append(self.catalog.resolve(name))
        yield Progress("ready", 1, 1)

    def run(self, request: Any) -> Any:
        yield Progress("draw", 1, 1)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("JANUS_APP_MANIFEST", raising=False)
    return Recorder(Hub(tmp_path / "cache", "http://127.0.0.1:9", data=tmp_path / "data"))


def page_of(session: Recorder, folder: Path, shared: bool = False) -> PageContext:
    return PageContext(session, session.catalog, Texts("en"), SavedImages(folder, folder / "served"), shared=shared)


@pytest.fixture
def brought(tmp_path: Path, session: Recorder) -> Variant:
    """A listed folder that holds weights, whose components are on the Hub and not here."""
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "metaquery"}')
    variant = replace(session.catalog["metaquery-b"], id="brought", title="Brought", folder=folder)
    session.catalog.include(variant)
    return variant


def loading(page: PageContext, name: str) -> Iterator[Event]:
    return model_drawer.loading(page, name, "cpu", "auto")


def test_visitor_of_a_shared_page_cannot_start_the_download_of_components(
    session: Recorder, brought: Variant, tmp_path: Path
) -> None:
    page = page_of(session, tmp_path, shared=True)
    with pytest.raises(AppError) as refused:
        drain(loading(page, brought.id))
    assert refused.value.code == "shared_page_download" and not session.asked
    with pytest.raises(AppError) as refused:
        drain(page.job(brought.id, ASK))
    assert refused.value.code == "no_model_loaded" and not session.asked


def test_list_says_of_each_model_what_the_disk_says(session: Recorder, brought: Variant, tmp_path: Path) -> None:
    page = page_of(session, tmp_path)
    assert place_of(page, brought) == "download", "its components are to be downloaded"
    assert place_of(page, session.catalog["janus-embedded"]) == "ready"
    folder = tmp_path / "registered"
    folder.mkdir()
    names = {role: part.repo for role, part in session.catalog["metaquery-l"].components.items()}
    config = {"model_type": "metaquery", "mllm_id": names["mllm"], "diffusion_model_id": names["diffusion"]}
    (folder / "config.json").write_text(json.dumps(config))
    registered = replace(brought, id="registered", folder=folder, components={}, user_supplied=False)
    session.catalog.include(registered)
    assert not cached(page, registered), "its config.json names components that are not here"
    empty = replace(brought, id="empty", title="Empty folder", folder=tmp_path / "empty")
    session.catalog.include(empty)
    assert place_of(page, registered) == "download" and place_of(page, empty) == "own"
    ready, download = list_html(page, "en", {}).split("<h3>Download</h3>")
    assert 'data-model="janus-embedded"' in ready and 'data-model="registered"' in download
    assert "Empty folder" not in ready + download and "Empty folder" in own_html(page, "en")
    shared = list_html(replace(page, shared=True), "en", {})
    assert "janus-embedded" in shared and "Download" not in shared


def test_job_loads_the_folder_whose_path_was_typed(session: Recorder, tmp_path: Path) -> None:
    drain(page_of(session, tmp_path).job(str(FOLDER), ASK))
    assert [variant.folder for variant in session.asked] == [FOLDER.resolve()]


def test_job_of_a_shared_page_loads_no_typed_folder(session: Recorder, tmp_path: Path) -> None:
    drain(page_of(session, tmp_path, shared=True).job(str(FOLDER), ASK))
    assert [variant.id for variant in session.asked] == ["janus-embedded"]


def test_job_loads_a_downloaded_variant_and_refuses_an_absent_one(
    session: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(session, tmp_path)
    with pytest.raises(AppError) as refused:
        drain(page.job("janus-pro-1b", ASK))
    assert refused.value.code == "no_model_loaded" and not session.asked
    status = replace(session.hub.status(session.catalog["janus-pro-1b"]), complete=True)
    monkeypatch.setattr(session.hub, "status", lambda variant: status)
    drain(page.job("janus-pro-1b", ASK))
    assert [variant.id for variant in session.asked] == ["janus-pro-1b"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_page_that_opens_later_knows_the_loaded_folder_by_its_name(tmp_path: Path, shared: bool) -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(str(FOLDER), "cpu", "fp32"))
    page = PageContext(session, session.catalog, Texts("en"), SavedImages(tmp_path, tmp_path / "served"), shared=shared)
    loaded = page.variant(None)
    assert loaded.id not in session.catalog and page.resolve(loaded.id) is loaded
    with pytest.raises(AppError):
        page.resolve("folder-of-nobody")


def test_list_and_welcome_say_what_fits_and_offer_the_smallest_that_does(session: Recorder, tmp_path: Path) -> None:
    page, here = page_of(session, tmp_path), Fit("fp32", True, 10**9, 10**10)
    large = Fit("", True, 16_000_000_000, 8_000_000_000)
    judged = {"janus-pro-1b": large, "janusflow-1.3b": here, "janus-pro-7b": replace(here, best="int8", first=False)}
    html = list_html(page, "en", judged)
    assert "Too large: needs 16 GB, 8.0 GB free" in html and 'data-model="janus-pro-1b"' not in html
    assert "fits this machine as int8" in html and 'data-model="janus-pro-7b"' in html
    _, unipic2 = html.split("<b>UniPic2-Metaquery-9B</b>")
    for licence in ("MIT on the model card", "Stability AI Community License", "Qwen2.5-VL-7B-Instruct: Apache-2.0"):
        assert licence in unipic2
    card = welcome_html(page, "en", judged)
    assert "For real pictures get JanusFlow-1.3B (4.4 GB, fits this machine)" in card
    assert 'data-model="janusflow-1.3b">Download 4.4 GB<' in card and "Licence: DeepSeek Model License v1.0" in card
    first = [variant.id for variant in starters(page)][:3]
    assert first == ["janus-pro-1b", "janus-1.3b", "janusflow-1.3b"]
    assert "data-model" not in welcome_html(replace(page, shared=True), "en", judged)
    ((name, fit),) = fits(page, [page.catalog["janus-pro-1b"], page.catalog["janus-embedded"]])
    assert name == "janus-pro-1b" and fit.need > 1e9, "what is here already needs no word"


def test_download_without_a_network_ends_at_once_with_what_to_do(session: Recorder, tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but nobody answers there
        closed.bind(("127.0.0.1", 0))
        session.hub = Hub(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}", offline=False)
        events = loading(page_of(session, tmp_path), "janus-pro-1b")
        with pytest.raises(AppError, match=r"Nothing was downloaded: 127\.0\.0\.1 cannot be reached") as refused:
            for event in events:
                assert isinstance(event, Progress) and event.stage == "connect", event
    assert refused.value.code == "download_unreachable" and not session.asked


def test_result_of_another_model_than_the_chosen_one_says_so(tmp_path: Path) -> None:
    """Another browser tab loaded it, and this one does not know yet."""
    session = ModelSession(load_catalog(), Hub())
    drain(session.load("janus-embedded", "cpu"))
    page = page_of(session, tmp_path)
    for chosen, told in (("janusflow-embedded", ["another_model_loaded"]), ("janus-embedded", []), (None, [])):
        job = page.job(chosen, replace(ASK, count=1))
        assert [event.message.code for event in job if isinstance(event, Notice)] == told


def model_handlers(page: PageContext) -> tuple[model_drawer.ModelHandlers, Any, Any]:
    """The handlers of the model drawer, the model line and the drawer."""
    with gr.Blocks() as demo:
        line = model_line.build(page)
        drawer = model_drawer.build(page, demo, line, gr.HTML(), demo.load())
    files: Any = None
    return model_drawer.ModelHandlers(page, line, drawer, files), line, drawer


def test_other_browser_tabs_show_the_model_that_one_of_them_loaded(tmp_path: Path) -> None:
    session = ModelSession(load_catalog(), Hub())
    page = page_of(session, tmp_path)
    handlers, line, drawer = model_handlers(page)
    shown: Updates = {line.state: "", line.warnings: "", line.seen: "", line.working: False}
    request: Any = None
    for name in ("janus-embedded", "janusflow-embedded"):  # as if another tab did
        drain(session.load(name, "cpu"))
        updates = handlers.tick(shown, request)
        assert updates[drawer.variant]["value"] == updates[line.seen] == name
        assert f"<strong>{session.catalog[name].title}</strong>" in updates[line.state]
        assert updates[drawer.listed].count('aria-current="true"') == 1
        assert f'data-model="{name}"' not in updates[drawer.listed], "the loaded one cannot be chosen again"
        assert handlers.tick(shown, request)[line.state], "a browser that missed an answer is told again"
        shown |= {line.state: updates[line.state], line.seen: updates[line.seen]}


def test_load_of_one_browser_tab_is_shown_and_can_be_cancelled_in_the_others(tmp_path: Path) -> None:
    session, go = ModelSession(load_catalog(), Hub()), threading.Event()
    page = page_of(session, tmp_path)
    handlers, line, _ = model_handlers(page)
    idle: Updates = {line.state: "", line.warnings: "", line.seen: "", line.working: False}
    request: Any = None

    def fetch(share: int) -> Iterator[Event]:
        yield Progress("download", share, 100, "bytes")
        assert go.wait(60)
        yield Progress("download", 99, 100, "bytes")

    load = model_drawer.load_on(page, lambda: fetch(40), ("a",), "en")
    assert model_drawer.load_on(page, lambda: fetch(50), ("a",), "en") is load, "the same is not loaded twice"
    assert any(frame.progress for frame in load.follow())
    shown = handlers.tick(idle, request)
    assert "40" in shown[line.work] and "Downloading" in shown[line.work]
    assert shown[line.cancel]["visible"] and shown[line.cancel]["value"] == "Pause"
    handlers.cancel()  # pressed in the other tab
    go.set()
    load.wait(60)
    ended = handlers.tick({**idle, line.working: shown[line.working]}, request)
    assert "Cancelled" in ended[line.ended] and not ended[line.work]
    assert not ended[line.cancel]["visible"] and not ended[line.working]
    assert line.work not in handlers.tick(idle, request), "a tab that is opened later does not hear of it"
    assert model_drawer.load_on(page, lambda: fetch(50), ("a",), "en") is not load


def test_load_of_the_command_line_is_shown_to_whoever_opens_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = ModelSession(load_catalog(), Hub(tmp_path, offline=True))
    page = page_of(session, tmp_path)
    handlers, line, drawer = model_handlers(page)
    request: Any = None
    for name, precision, place, why in (
        ("janus-pro-1b", "nf4", ("auto", "auto"), "offline"),  # its files are missing
        ("janus-embedded", "int8", ("cpu", "int8"), ""),
        (str(ROOT / "assets" / "janusflow_embedded"), "auto", ("cpu", "auto"), ""),
    ):
        app.load_wanted(page, Asked(name, "cpu", precision, ()))
        load = page.runs.loading(shared=False)
        assert load is not None
        load.wait(60)
        updates = handlers.opened(request)
        assert why in updates[line.ended] and bool(updates[line.ended]) is bool(why)
        assert why in capsys.readouterr().err
        if not why:
            assert (updates[drawer.choice.device], updates[drawer.choice.precision]) == place
            assert session.state.precision == ("fp32" if precision == "auto" else precision)
    drain(session.load("janus-embedded", "cpu"))  # by another program
    updates = handlers.now("en")
    assert (updates[drawer.choice.device], updates[drawer.choice.precision]) == ("auto", "auto")
    for name in ("janus-embedded", "janus-pro-1b"):  # the second fails while another is loaded
        app.load_wanted(page, Asked(name, "cpu", "auto", ()))
        load = page.runs.loading(shared=False)
        assert load is not None
        load.wait(60)
    assert not handlers.opened(request)[line.ended], "that would be said at every opening"
    shared = page_of(session, tmp_path, shared=True)
    app.load_wanted(shared, Asked("janus-embedded", "cpu", "auto", ()))
    with pytest.MonkeyPatch.context() as visitor:
        visitor.setattr(type(shared.runs), "_tab", lambda _: SimpleNamespace(load=None))
        model_handlers(shared)[0].cancel()  # a visitor's
    load = shared.runs.loading(shared=False)
    assert load is not None and not load.stopped
    load.wait(60)


def test_default_model_is_loaded_unless_somebody_chose_one_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "OPENING_SECONDS", 0.0)
    session = ModelSession(load_catalog(), Hub(tmp_path, offline=True))
    page = page_of(session, tmp_path)
    page.shown.set()
    drain(session.load("janusflow-embedded", "cpu"))
    app.warm_up(page, "janus-embedded")
    assert session.state.variant_id == "janusflow-embedded"
    drain(session.unload())
    app.warm_up(page, "janus-embedded")
    assert session.state.variant_id == "janus-embedded"


def test_model_of_the_command_line_is_the_default_one_of_page_and_api(tmp_path: Path) -> None:
    session = ModelSession(load_catalog(), Hub(tmp_path, offline=True))
    page = page_of(session, tmp_path)
    for name in ("janusflow-embedded", str(FOLDER)):  # listed, and not
        wanted = session.catalog.resolve(name)
        session.catalog.start_with(wanted)
        assert page.variant(None) == wanted
        drain(page.job(None, replace(ASK, count=1)))
        assert session.variant == wanted
        drain(session.unload())
