"""The page as a whole: the bar, the tabs, what they hand each other, and how it is served."""

from __future__ import annotations

import os
from pathlib import Path

# Before gradio is imported: it must not call home, and neither may the Hub client.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_PIXELS
from janus_app.outputs.library import library
from janus_app.paths import ASSETS
from janus_app.registry.catalog import Catalog, data_folder
from janus_app.runtime.session import ModelSession
from janus_app.server.security import HostGuard, QuietLogin, answers_one_person, host_rules, new_login, serving_folder
from janus_app.ui.common import actions, browser_settings, restore, welcome
from janus_app.ui.common.html import message
from janus_app.ui.common.invitation import invitation, printed_invitation
from janus_app.ui.common.links import Places, link
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.chat import tab as chat_tab
from janus_app.ui.tabs.chat.transcript import latest_print
from janus_app.ui.tabs.compare import tab as compare_tab
from janus_app.ui.tabs.compare.sides import seat_print
from janus_app.ui.tabs.draw import tab as draw_tab
from janus_app.ui.tabs.edit import tab as edit_tab
from janus_app.ui.tabs.history import tab as history_tab
from janus_app.ui.tabs.models import model_bar
from janus_app.ui.theme import theme

MAX_UPLOAD = "20mb"
KEEP_SECONDS = 86_400  # what a browser tab uploaded stays for a day
THREADS = 100  # a waiting job holds one, and nearly all of them do nothing else
WAITING = 200  # jobs that may wait in Gradio's own queue before it refuses more


def build(
    session: ModelSession,
    catalog: Catalog,
    *,
    lang: str = "auto",
    outputs: Path | None = None,
    data: Path | None = None,
    share: bool = False,
    private: bool = True,
) -> gr.Blocks:
    """The page over `studio`. Drawn pictures are saved under `outputs` (default: ./outputs).

    With `private`, conversations are kept too, under `data` (default: the user's data folder), and everything kept is
    listed; a shared page is never private.
    """
    outputs = (outputs or Path("outputs")).absolute()
    kept = library(outputs, data or data_folder()) if private and not share else None
    page = PageContext(session, catalog, Texts(lang), SavedImages(outputs, serving_folder()), share, kept)
    label = page.texts.label
    with gr.Blocks(title="Janus Studio", analytics_enabled=False, delete_cache=(3_600, KEEP_SECONDS)) as demo:
        with gr.Row(elem_id="masthead"):
            gr.HTML("<h1>Janus Studio</h1>", padding=False, elem_id="brand")
            tagline = gr.HTML("", padding=False, elem_id="tagline")
        banner = gr.HTML("", padding=False, elem_id="banner")
        tour = gr.HTML("", padding=False, elem_id="tour")
        bar = model_bar.build(page, demo)
        sink, stored = actions.sink(), browser_settings.stored()
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(label("tab_chat"), id="chat", elem_id="tab-chat"):
                chat = chat_tab.build(page, bar.variant, bar.seen, demo, sink)
            with gr.Tab(label("tab_draw"), id="draw", elem_id="tab-draw"):
                drawing = draw_tab.build(page, bar.variant, bar.seen, demo, sink, stored)
            with gr.Tab(label("tab_edit"), id="edit", elem_id="tab-edit"):
                editing = edit_tab.build(page, bar.variant, bar.seen, demo)
            places = Places(drawing, chat, editing, tabs, sink)
            if page.library:
                with gr.Tab(label("tab_history"), id="history", elem_id="tab-history") as tab:
                    history = history_tab.build(page, page.library.album, tab, sink)
                link(page, history.row, [history.opened], lambda opened: opened.print, places)
            with gr.Tab(label("tab_compare"), id="compare", elem_id="tab-compare") as tab:
                seats = compare_tab.build(page, bar.variant, bar.seen, demo, tab, drawing)
            link(page, seats.row, [seats.match, seats.chosen], seat_print, places)
        keys = gr.HTML("", padding=False, elem_id="keys")

        def opened(request: gr.Request) -> tuple[str, ...]:
            language = page.language(request)
            failed = share and demo.is_running and not demo.share_url
            banner = message(page.texts.say("share_failed", language), "warning") if failed else ""
            if share and demo.share_url:
                said = [page.texts.say(key, language) for key in ("share_link", "share_code")]
                banner = invitation(demo.share_url, *said)
            return (
                page.texts.say("tagline", language),
                banner,
                welcome.tour_html(page, language),
                welcome.foot_html(page, language),
            )

        demo.load(opened, None, [tagline, banner, tour, keys], **QUICK)
        for part in (drawing, editing):
            link(
                page,
                part.row,
                [part.gallery_items, part.chosen],
                lambda gallery_items, index: gallery_items[index],
                places,
            )
        link(page, chat.row, [chat.talk], latest_print, places)
        restore.build(page, places)
    demo.queue(max_size=WAITING, default_concurrency_limit=20)
    return demo


def launch(
    session: ModelSession,
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
    prevent_thread_lock: bool = False,
) -> gr.Blocks:
    """Serve the page until interrupted, or at once give it back with `prevent_thread_lock`.

    A shared page always has a login: `auth`, or one made and printed here. Raises AppError where the port is taken.
    """
    # Gradio opens uploads before we see them; Pillow refuses pictures above twice this number.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    made = new_login() if share and auth is None else None
    private = answers_one_person(host, share, auth is not None)
    demo = build(session, catalog, lang=lang, outputs=outputs, data=data, share=share, private=private)
    texts = Texts(lang)
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth or made,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=MAX_UPLOAD,
            max_threads=THREADS,
            allowed_paths=[],
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            i18n=texts.browser_table(),
            theme=theme(),
            css_paths=[ASSETS / "style.css"],
            head=f"<script>{(ASSETS / 'page.js').read_text(encoding='utf-8')}</script>",
            app_kwargs={
                "middleware": [Middleware(HostGuard, **host_rules(host, share)), Middleware(QuietLogin)],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )
    except OSError as error:
        raise AppError(f"The page cannot use {host}:{port}: {error}. Choose another port with --port.") from None
    print(f"Open {demo.local_url}")
    if share:
        print(
            printed_invitation(demo.share_url)
            if demo.share_url
            else "No public link could be made; only this machine has the page."
        )
    if made:
        print(f"Login: user {made[0]}, password {made[1]}")
    if not private and not share:
        print("Others can open this page, so it keeps no history. With --auth USER:PASSWORD it does.")
    print("Stop with Ctrl+C.", flush=True)
    if not prevent_thread_lock:
        demo.block_thread()
    return demo
