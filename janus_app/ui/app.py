"""The page as a whole: builds the model bar and the tabs, connects them, and serves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import gradio as gr
from fastapi import FastAPI
from gradio.components import Component
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware

from janus_app.errors import AppError, Message, system_language
from janus_app.hub.proxies import page_environment
from janus_app.outputs.image_io import MAX_PIXELS
from janus_app.outputs.library import library
from janus_app.outputs.store import OutputStore
from janus_app.paths import data_folder
from janus_app.registry.catalog import Catalog
from janus_app.runtime.face import Session
from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext
from janus_app.server.api.gate import Access, ApiGate, api_access
from janus_app.server.page_files import PageFiles
from janus_app.server.security import (
    LOOPBACK,
    HostGuard,
    PageText,
    SubPath,
    allowed_names,
    allowed_origins,
    answers_one_person,
    host_rules,
    new_login,
    serving_folder,
    sub_path,
)
from janus_app.ui import dropped_files, endpoints, picture_links
from janus_app.ui.assets import FAVICON, MANIFEST, gradio_files, mark, opening_script, script, styles
from janus_app.ui.common import actions, browser_tab
from janus_app.ui.common.help import foot_html, help_html
from janus_app.ui.common.html import message
from janus_app.ui.common.invitation import invitation, printed_invitation
from janus_app.ui.common.pictures import lightbox
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.picture_links import Places
from janus_app.ui.tabs.chat import tab as chat_tab
from janus_app.ui.tabs.compare import tab as compare_tab
from janus_app.ui.tabs.draw import browser_settings
from janus_app.ui.tabs.draw import tab as draw_tab
from janus_app.ui.tabs.edit import tab as edit_tab
from janus_app.ui.tabs.history import tab as history_tab
from janus_app.ui.tabs.models import model_drawer, model_line
from janus_app.ui.tabs.models.model_line import ModelLine
from janus_app.ui.tabs.models.model_list import ON_CLICK
from janus_app.ui.theme import theme

MAX_UPLOAD = "20mb"
UPLOAD_SECONDS = 86_400  # uploaded files and generated copies are deleted after a day
MAX_THREADS = 100  # each waiting job occupies one, nearly always idle
MAX_QUEUE = 200  # jobs in Gradio's own queue before it refuses more


@dataclass(frozen=True)
class Frame:
    """The parts of the page around the tabs."""

    line: ModelLine
    help: gr.HTML
    banner: gr.HTML
    welcome: gr.HTML


def page_context(
    session: Session,
    catalog: Catalog,
    *,
    lang: str = "auto",
    outputs: Path | None = None,
    data: Path | None = None,
    share: bool = False,
    private: bool = True,
    access: Access | None = None,
) -> PageContext:
    """What a page for `session` shares. Pictures are saved under `outputs` (default: ./outputs).

    With `private`, conversations are saved too, under `data` (default: the user's data folder), and earlier
    conversations and pictures are listed. A shared page is never private.
    """
    outputs = (outputs or Path("outputs")).absolute()
    return PageContext(
        session,
        catalog,
        Texts(lang),
        SavedImages(outputs, serving_folder()),
        shared=share,
        library=library(outputs, data or data_folder()) if private and not share else None,
        access=access or Access(),
    )


def build(page: PageContext) -> gr.Blocks:
    """Build the page that a context describes."""
    with gr.Blocks(title="Janus Studio", analytics_enabled=False, delete_cache=(3_600, UPLOAD_SECONDS)) as demo:
        frame = _header(page)
        _tabs(page, demo, frame)
        footer = gr.HTML("", padding=False, elem_id="foot")

        def opened(request: gr.Request) -> dict[Component, str]:
            language = page.language(request)
            return {
                frame.help: help_html(page, language),
                frame.banner: _banner(page, demo, language),
                footer: foot_html(page, language),
            }

        demo.load(opened, None, [frame.help, frame.banner, footer], **QUICK)
    demo.queue(max_size=MAX_QUEUE, default_concurrency_limit=20)
    return demo


def _header(page: PageContext) -> Frame:
    """The bar at the top: the name, the line about the model, and buttons for the theme and the help."""
    with gr.Row(elem_id="topbar"):
        gr.HTML(f"<h1>{mark()}<span>Janus Studio</span></h1>", padding=False, elem_id="brand")
        line = model_line.build(page)
        buttons = gr.HTML("", padding=False, elem_id="help")
    banner = gr.HTML("", padding=False, elem_id="banner")
    line.render_told()
    return Frame(line, buttons, banner, gr.HTML("", padding=False, elem_id="welcome", js_on_load=ON_CLICK))


def _banner(page: PageContext, demo: gr.Blocks, language: str) -> str:
    """The public link of a shared page, or a warning if there is none."""
    say = page.texts.say
    if page.shared and demo.share_url:
        return invitation(demo.share_url, say("share_link", language), say("share_code", language))
    return message(say("share_failed", language), "warning") if page.shared and demo.is_running else ""


def _tabs(page: PageContext, demo: gr.Blocks, frame: Frame) -> None:
    """The drawer of the model and the tabs, and the buttons that carry a picture from one tab to another."""
    label = page.texts.label
    joined = browser_tab.join(page, demo)
    drawer = model_drawer.build(page, demo, frame.line, frame.welcome, joined)
    variant, seen = drawer.variant, frame.line.seen
    browser, stored = actions.browser_download(), browser_settings.browser_state()
    with gr.Tabs(elem_id="tabs") as tabs:
        with gr.Tab(label("tab_draw"), id="draw", elem_id="tab-draw"):
            drawing = draw_tab.build(page, variant, seen, joined, browser, stored)
        with gr.Tab(label("tab_edit"), id="edit", elem_id="tab-edit"):
            editing = edit_tab.build(page, variant, seen, joined, browser)
        with gr.Tab(label("tab_chat"), id="chat", elem_id="tab-chat"):
            chat = chat_tab.build(page, variant, seen, demo, joined, browser)
        drawn, edited = drawing.right.wall, editing.panels.right
        sources = {"draw": drawn.source, "edit": edited.shown, "chat": chat.source}
        if page.library:
            with gr.Tab(label("tab_history"), id="history", elem_id="tab-history") as tab:
                sources["history"] = history_tab.build(page, page.library.gallery, tab, browser).source
        with gr.Tab(label("tab_compare"), id="compare", elem_id="tab-compare") as tab:
            sources["compare"] = compare_tab.build(page, variant, seen, joined, tab, drawing).source
    places = Places(drawing, chat, editing, tabs, browser)
    picture_links.build(page, sources, places)
    lightbox.build(page, demo)
    dropped_files.build(page, places)
    endpoints.build(page, drawer.choice, chat, drawing)


def launch(
    session: Session,
    catalog: Catalog,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    lang: str = "auto",
    open_browser: bool = False,
    outputs: Path | None = None,
    data: Path | None = None,
    allow_hosts: Iterable[str] = (),
    root_path: str | None = None,
    api_key: str = "",
    allow_origins: Iterable[str] = (),
    fetch_images: bool = False,
    opened: Callable[[PageContext], None] | None = None,
    prevent_thread_lock: bool = False,
) -> gr.Blocks:
    """Serve the page and the API until they are interrupted; with `prevent_thread_lock`, return at once.

    `opened` is called with the page's context when the page can be reached.

    A shared page always has a login: `auth`, or one that is generated and printed. `allow_hosts` are the names by which
    a proxy reaches the page, `root_path` is the sub-path it serves it under. Raises AppError if the port is in use, for
    a malformed name, and for a malformed path.

    The API needs `api_key`, or one that is generated for a shared page, unless only this machine can reach it.
    `allow_origins` are the web sites that may use it from a browser. `fetch_images` lets it read the pictures that a
    client names by a web address.
    """
    names, path, origins = allowed_names(allow_hosts), sub_path(root_path), allowed_origins(allow_origins)
    # Gradio opens uploads before this code sees them; Pillow refuses pictures above twice this number of pixels.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    generated = new_login() if share and auth is None else None
    proxied = bool(names or path)
    private = answers_one_person(host, share, auth is not None, proxied)
    access, made_key = api_access(api_key, host, share, auth is not None, proxied, origins)
    page = page_context(
        session, catalog, lang=lang, outputs=outputs, data=data, share=share, private=private, access=access
    )
    demo = build(page)
    api = api_app(
        ApiContext(session, OutputStore(outputs or "outputs"), page.limiter if share else None, path, fetch_images)
    )
    try:
        with page_environment(host, share):
            demo.launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=auth or generated,
                inbrowser=open_browser,
                root_path=path,
                **_launch_options(lang),
                app_kwargs=_app_options(host_rules(host, share, names), path, api, access),
            )
    except OSError as error:
        raise AppError("page_address_unusable", host=host, port=port, reason=error) from None
    if names:
        print(Message("page_names_allowed", names=", ".join(sorted(names))).text(system_language()))
    elif host not in LOOPBACK and not share:
        print(Message("page_names_hint").text(system_language()))
    if opened:  # before anybody knows the address
        opened(page)
    _print_addresses(demo, share, generated, private)
    _print_api(demo, access, made_key)
    if not prevent_thread_lock:
        demo.block_thread()
    return demo


def _launch_options(lang: str) -> dict[str, Any]:
    """The arguments of `gr.Blocks.launch` that follow from how this app is served."""
    return {
        "prevent_thread_lock": True,
        "quiet": True,
        "show_error": False,
        "_frontend": False,  # no second look, of three seconds at most, at a server that has just answered
        "max_file_size": MAX_UPLOAD,
        "max_threads": MAX_THREADS,
        "allowed_paths": [],
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,  # its manifest knows no path that the page is served under; see PageText
        "mcp_server": False,
        "footer_links": [],
        "i18n": Texts(lang).browser_table(),
        "theme": theme(),
        "css_paths": styles(),
        "head": f"<script>{script()}</script>",
        "favicon_path": FAVICON,
    }


def _app_options(rules: dict[str, Any], path: str, api: Starlette, access: Access) -> dict[str, Any]:
    """The arguments of Gradio's FastAPI application."""

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[Any]:
        # Outside of Gradio's own middleware, which lets any web site read the answers of a page that has a name.
        inside = ApiGate(app.middleware_stack, api, access)
        files = PageFiles(inside, gradio_files(), own=(MANIFEST, FAVICON))
        app.middleware_stack = HostGuard(SubPath(files, urlsplit(path).path), **rules)
        return api.router.lifespan_context(api)

    return {
        "middleware": [Middleware(PageText, opening=opening_script(), manifest=MANIFEST.name)],
        "lifespan": lifespan,
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
    }


def _print_addresses(demo: gr.Blocks, share: bool, login: tuple[str, str] | None, private: bool) -> None:
    """Print where the page is, who can log in, and what it does not save."""
    print(f"Open {urljoin(str(demo.local_url), demo.root_path)}")
    if share and demo.share_url:
        print(printed_invitation(demo.share_url))
    elif share:
        print("No public link could be made; the page can be opened on this machine only.")
    if login:
        print(f"Login: user {login[0]}, password {login[1]}")
    if not private and not share:
        print("Others can open this page, so it keeps no history. With --auth USER:PASSWORD it does.")


def _print_api(demo: gr.Blocks, access: Access, made_key: str) -> None:
    """Print the API's address, if it is on, and a key that was made for it."""
    if access.key or access.trusting:
        public = demo.share_url or urljoin(str(demo.local_url), demo.root_path)
        print(f"API for other programs: {public.rstrip('/')}/v1" + (f", key {made_key}" if made_key else ""))
    print("Stop with Ctrl+C.", flush=True)
