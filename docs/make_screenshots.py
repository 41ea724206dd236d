"""Draw docs/screenshot*.png anew: the page in a real Chromium over the embedded model.

    python docs/make_screenshots.py [--model ID_OR_FOLDER]

Needs Chromium and requirements-dev.txt. The seeds are fixed, so the pictures change only when page or weights do.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
DESK = {"width": 1280, "height": 900}
SHOTS = (  # file, options of the browser, query
    ("screenshot", {"viewport": DESK}, ""),
    ("screenshot-dark", {"viewport": DESK}, "?__theme=dark"),
    ("screenshot-zh", {"viewport": DESK, "locale": "zh-CN"}, ""),
    ("screenshot-phone", {"viewport": {"width": 390, "height": 844}}, ""),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a variant's id or a checkpoint folder; default: the embedded one")
    args = parser.parse_args()
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        print("No Chromium was found. Install one (Debian, Ubuntu: apt-get install chromium) and try again.")
        return 1

    from playwright.sync_api import sync_playwright

    from janus_app.hub import Hub
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import drain
    from janus_app.ui.app import launch

    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    drain(session.load(args.model or catalog.default().id, device="cpu"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as outputs, sync_playwright() as playwright:
        demo = launch(session, catalog, port=port, outputs=Path(outputs), prevent_thread_lock=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, options, query in SHOTS:
            page = browser.new_context(**options).new_page()
            page.add_init_script("localStorage.setItem('janus-tour', 'done')")
            page.goto(f"http://127.0.0.1:{port}/{query}")
            page.wait_for_selector(".state-line.ready")
            draw(page)
            page.screenshot(path=ROOT / "docs" / f"{name}.png", full_page=name.endswith("phone"))
            print(f"docs/{name}.png")
            for other, show in OTHERS.items() if name == "screenshot" else ():
                show(page)
                page.evaluate("window.scrollTo(0, 0)")
                page.wait_for_timeout(1_000)
                page.screenshot(path=ROOT / "docs" / f"screenshot-{other}.png", full_page=True)
                print(f"docs/screenshot-{other}.png")
        browser.close()
        demo.close()
    return 0


def draw(page: Any) -> None:
    """Draw the variant's first example, four at once, with a fixed seed."""
    page.get_by_role("tab").nth(1).click()
    examples = page.locator("#draw-examples button:visible")
    examples.first.wait_for()
    examples.first.click()
    count = page.locator("#draw-count input[type=number]")
    count.fill("4")
    count.press("Tab")
    page.locator("#draw-fresh input").uncheck()
    page.fill("#draw-seed input", "2")
    page.wait_for_timeout(500)
    page.click("#draw-run")
    page.wait_for_selector("#draw-status .message.done", timeout=600_000)
    page.wait_for_timeout(1_000)
    page.evaluate("window.scrollTo(0, 0)")


def chat(page: Any) -> None:
    """Ask about the picture just drawn."""
    page.click("#draw-to-chat")
    examples = page.locator("#chat-examples button:visible")
    examples.first.click()
    page.wait_for_timeout(1_000)
    page.click("#chat-box .submit-button")
    page.wait_for_selector("#chat-context .meter", timeout=600_000)


def tokens(page: Any) -> None:
    """Look into the picture just drawn."""
    page.get_by_role("tab").nth(1).click()
    page.click("#draw-tokens")
    page.wait_for_selector("#tokens-others .caption-label", timeout=600_000)


def edit(page: Any) -> None:
    """Paint over a part of the picture just drawn, and draw that part anew."""
    page.click("#draw-to-edit")
    canvas = page.locator("#edit-editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(3_000)  # the editor fits the picture into its frame, without saying when it is done
    page.locator("#edit-editor button[aria-label=Brush]").click()
    box = canvas.bounding_box()
    left, top = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3
    page.mouse.move(left, top)
    page.mouse.down()
    for row in range(8):
        page.mouse.move(left + (80 if row % 2 else 0), top + 10 * row, steps=4)
    page.mouse.up()
    page.locator("#edit-fresh input").uncheck()
    page.fill("#edit-seed input", "5")
    page.click("#edit-run")
    page.wait_for_selector("#edit-status .message.done", timeout=600_000)
    page.wait_for_selector("#edit-compare img")


def compare(page: Any) -> None:
    """The two embedded models against each other, before the vote."""
    page.get_by_role("tab").nth(4).click()
    page.locator("#compare-fresh input").uncheck()
    page.fill("#compare-seed input", "3")
    page.click("#compare-run")
    page.wait_for_selector("#compare-votes:visible", timeout=600_000)


OTHERS = {"chat": chat, "tokens": tokens, "edit": edit, "compare": compare}  # in this order: each goes on from the last


if __name__ == "__main__":
    sys.exit(main())
