"""Take docs/screenshot*.png anew: the page in a real Chromium over the embedded models.

    python docs/make_screenshots.py                 the published ones
    python docs/make_screenshots.py --all FOLDER    every tab at three widths, two themes and two languages, to look at

Needs Chromium and requirements-dev.txt. The seeds are fixed, so the pictures change only when page or weights do.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
WIDTHS = {1440: 900, 1024: 768, 390: 844}  # width: height
TABS = ("draw", "edit", "chat", "history", "compare")
PATIENCE = 180_000  # milliseconds
# Nothing fades or moves any more, every picture in the window is there, and the line of the model says that it is done.
STILL = """async () => {
  const frame = () => new Promise((next) => requestAnimationFrame(next));
  const moving = () => document.getAnimations().some((a) => a.playState === "running"
    && Number.isFinite(a.effect.getComputedTiming().endTime));
  const coming = () => [...document.images].some((i) => !i.complete && i.loading !== "lazy");
  const busy = () => document.querySelector(".state-line.busy");
  do { await frame(); await frame(); } while (moving() || coming() || busy());
}"""
EDITOR_SECONDS = 2  # the editor fits its picture into its frame without saying when it is done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", metavar="FOLDER", type=Path, help="a folder for the whole page, instead of docs/")
    parser.add_argument("--tabs", nargs="+", choices=TABS, default=TABS, help="with --all: these tabs only")
    parser.add_argument("--languages", nargs="+", choices=("en-US", "zh-CN"), default=("en-US", "zh-CN"))
    args = parser.parse_args()
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        print("No Chromium was found. Install one (Debian, Ubuntu: apt-get install chromium) and try again.")
        return 1
    with browser_at(chromium) as browser:
        if args.all:
            args.all.mkdir(parents=True, exist_ok=True)
            take_all(browser, args.all, args.tabs, args.languages)
        else:
            with page_server() as address:
                take_published(browser, address)
    return 0


@contextmanager
def page_server(session_type: Any = None) -> Iterator[str]:
    """The page's address, with the embedded model loaded and nothing drawn yet. `session_type`: a ModelSession's."""
    from janus_app.hub import Hub
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import drain
    from janus_app.ui.app import launch

    catalog = load_catalog()
    session = (session_type or ModelSession)(catalog, Hub())
    drain(session.load(catalog.default().id, device="cpu"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        saved, kept = Path(folder) / "outputs", Path(folder) / "data"
        demo = launch(session, catalog, port=port, outputs=saved, data=kept, prevent_thread_lock=True)
        yield f"http://127.0.0.1:{port}/"
        demo.close()


@contextmanager
def browser_at(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def visit(browser: Any, address: str, theme: str = "light", width: int = 1440, language: str = "en-US") -> Any:
    """The page in a fresh browser profile, without the welcome."""
    size = {"width": width, "height": WIDTHS[width]}
    page = browser.new_context(viewport=size, locale=language, reduced_motion="reduce").new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script("localStorage.setItem('janus-welcome', 'done')")
    page.goto(f"{address}?__theme={theme}")
    page.wait_for_selector(".state-line.ready")
    page.wait_for_selector("#draw-run:visible")
    return page


def shoot(page: Any, file: Path, whole: bool = False) -> None:
    page.evaluate("document.activeElement?.blur()")
    page.mouse.move(0, 0)
    page.evaluate(STILL)
    page.screenshot(path=file, full_page=whole)
    print(file)


def go(page: Any, tab: str) -> None:
    page.click(f"#tab-{tab}-button")
    page.evaluate("window.scrollTo(0, 0)")
    if tab == "edit":
        page.wait_for_selector("#edit-editor canvas", state="attached")  # the comparison may hide it
        page.wait_for_timeout(1_000 * EDITOR_SECONDS)


def take_all(browser: Any, folder: Path, tabs: tuple[str, ...], languages: tuple[str, ...]) -> None:
    """Every tab as it opens, and after something was done in it; each language and theme begins with a new page."""
    for language, theme in itertools.product(languages, ("light", "dark")):
        with page_server() as address:
            page = visit(browser, address, theme, language=language)
            for state in ("opened", "used"):
                if state == "used":
                    for tab, act in ACTS.items():
                        if tab in tabs:
                            act(page)
                for width, height in WIDTHS.items():
                    page.set_viewport_size({"width": width, "height": height})
                    for tab in tabs:
                        go(page, tab)
                        shoot(page, folder / f"{tab}-{state}-{width}-{theme}-{language[:2]}.png")
                page.set_viewport_size({"width": 1440, "height": 900})
            page.context.close()


def take_published(browser: Any, address: str) -> None:
    for name, theme, width, language in (
        ("screenshot", "light", 1440, "en-US"),
        ("screenshot-dark", "dark", 1440, "en-US"),
        ("screenshot-zh", "light", 1440, "zh-CN"),
        ("screenshot-phone", "light", 390, "en-US"),
    ):
        page = visit(browser, address, theme, width, language)
        draw(page)
        page.evaluate("window.scrollTo(0, 0)")
        shoot(page, ROOT / "docs" / f"{name}.png")
        if name == "screenshot":
            for other, act in (("tokens", tokens), ("edit", edit), ("chat", chat), ("compare", compare)):
                act(page)
                page.evaluate("window.scrollTo(0, 0)")
                shoot(page, ROOT / "docs" / f"screenshot-{other}.png", whole=other in ("tokens", "compare"))
        page.context.close()


def fixed_seed(page: Any, tab: str, seed: int) -> None:
    """Set the seed in a tab's settings; a closed drawer is opened for it and closed again."""
    opener = {"draw": "#draw-drawer-open", "edit": "#edit-settings > .label-wrap"}.get(tab)
    if opener:
        page.click(opener)
    page.locator(f"#{tab}-fresh input").uncheck()
    page.fill(f"#{tab}-seed input", str(seed))
    page.press(f"#{tab}-seed input", "Tab")
    if opener:
        page.click("#draw-drawer-close" if tab == "draw" else opener)


def draw(page: Any) -> None:
    """Draw the first example, four at once."""
    go(page, "draw")
    fixed_seed(page, "draw", 0)
    page.click("#draw-run")
    page.wait_for_selector("#draw-status .message.done")


def edit(page: Any) -> None:
    """Say what to change: the page offers the model that follows instructions."""
    go(page, "edit")
    page.locator("#edit-method label").first.click()
    page.wait_for_selector("#edit-switch:visible")
    page.click("#edit-switch")
    page.wait_for_selector(".state-line.ready:has-text('MetaQuery')")
    page.wait_for_selector("#edit-run:visible")
    fixed_seed(page, "edit", 5)
    page.click("#edit-run")
    page.wait_for_selector("#edit-status .message.done")
    page.wait_for_selector("#edit-compare img")


def chat(page: Any) -> None:
    """Ask about the picture that was drawn."""
    go(page, "draw")
    page.click("#draw-ask")
    page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
    page.locator("#chat-examples button:visible").first.click()  # sends it
    page.wait_for_selector("#chat-context .meter")


def compare(page: Any) -> None:
    """The two sides, before the vote."""
    go(page, "compare")
    fixed_seed(page, "compare", 2)
    page.click("#compare-run")
    page.wait_for_selector("#compare-votes:visible")


def tokens(page: Any) -> None:
    """Inspect the tokens of the picture that was drawn."""
    go(page, "draw")
    page.click("#draw-menu-open")
    page.click("#draw-tokens")
    page.wait_for_selector("#tokens-others .caption-label")


ACTS = {"draw": draw, "edit": edit, "chat": chat, "compare": compare}  # in this order: each goes on from the last


if __name__ == "__main__":
    sys.exit(main())
