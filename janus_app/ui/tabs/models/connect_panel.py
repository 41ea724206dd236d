"""How other programs use this app: a text to copy for each of them, with the address at which this visitor sees it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from janus_app.errors import Message
from janus_app.server.mcp import is_installed
from janus_app.server.snippets import snippets
from janus_app.ui.common.html import message
from janus_app.ui.context import QUICK, PageContext, Updates, Values, attach

PROGRAMS = {  # the names of the snippets
    "Open WebUI": "open-webui",
    "openai (Python)": "openai",
    "curl": "curl",
    "llm": "llm",
    "MCP, HTTP": "mcp-http",
    "MCP, stdio": "mcp-stdio",
}
# The page's own address, which behind a proxy or a shared link is not the one that the app listens on.
ADDRESS = "() => location.origin + location.pathname.replace(/[/]+$/, '')"
HIDDEN_KEY = "YOUR_KEY"


@dataclass(frozen=True)
class ConnectPanel:
    program: gr.Radio
    show_key: gr.Checkbox
    text: gr.Textbox
    note: gr.HTML
    address: gr.Textbox


@dataclass(frozen=True, eq=False)
class ConnectHandlers:
    page: PageContext
    panel: ConnectPanel

    def show(self, values: Values, request: gr.Request) -> Updates:
        """The text for the chosen program, or why there is none. The key is shown only to the page's one user."""
        page, panel, language = self.page, self.panel, self.page.language(request)
        program, access = values[panel.program], page.access
        stdio = program == "mcp-stdio"
        if not (access.key or access.trusting or stdio):
            return {panel.text: gr.update(value="", visible=False), panel.note: _note("api_needs_key", language)}
        key = access.key if page.library and values[panel.show_key] else HIDDEN_KEY if access.key else ""
        outputs = page.images.outputs if page.library else None
        found = snippets(values[panel.address], key, page.variant(None).id, outputs)
        note = "" if is_installed() or not program.startswith("mcp") else _note("mcp_package_missing", language)
        if access.key and not page.library and not note:
            note = message(page.texts.say("connect_ask_key", language))
        return {panel.text: gr.update(value=found.get(program, ""), visible=True), panel.note: note}


def _note(code: str, language: str) -> str:
    return message(Message(code).text(language))


def build(page: PageContext) -> gr.Accordion:
    """One accordion, connected."""
    label, private = page.texts.label, page.library is not None
    choices = [(title, name) for title, name in PROGRAMS.items() if private or name != "mcp-stdio"]
    with gr.Accordion(label("connect"), open=False, elem_id="model-connect") as accordion:
        program = gr.Radio(choices, value="open-webui", label=label("connect_program"), elem_id="connect-program")
        show_key = gr.Checkbox(
            False, label=label("connect_show_key"), visible=private and bool(page.access.key), elem_id="connect-key"
        )
        note = gr.HTML(elem_id="connect-note", padding=False)
        text = gr.Textbox(
            label=label("connect_text"), lines=4, interactive=False, buttons=["copy"], elem_id="connect-text"
        )
        address = gr.Textbox(visible="hidden", elem_id="connect-address", label="connect-address")
    panel = ConnectPanel(program, show_key, text, note, address)
    handlers, given = ConnectHandlers(page, panel), {program, show_key, address}
    opened = accordion.expand(None, None, address, js=ADDRESS, **QUICK)
    for event in (opened.then, program.change, show_key.change):
        attach(event, handlers.show, given, {text, note}, **QUICK)
    return accordion
