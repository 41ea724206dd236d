"""One real Chromium and one real page for the browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_app.types import drain
from tests.page_server import START, Served, serve

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Records all that status lines and preview grids ever show: some of it is visible for one frame only.
WATCH = """() => {
  window.seen = {status: [], sheets: new Set(), answers: new Set()};
  const look = () => {
    for (const id of ["draw-status", "edit-status", "chat-status", "model-work", "model-ended"]) {
      const text = document.getElementById(id)?.innerText.trim();
      if (text && window.seen.status.at(-1) !== text) window.seen.status.push(text);
    }
    const sheets = document.querySelectorAll("#draw-easel img, #edit-easel img, #chat-status img");
    for (const image of sheets) window.seen.sheets.add(image.src);
    const answer = [...document.querySelectorAll("#chat-bot .bot.message")].at(-1)?.innerText;
    if (answer) window.seen.answers.add(answer);
  };
  const { shown } = window.janus;
  window.seen.shown = 0;
  window.janus.shown = () => { window.seen.shown += 1; shown(); };
  const everything = {subtree: true, childList: true, characterData: true, attributes: true};
  new MutationObserver(look).observe(document.body, everything);
}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser test that fails runs again, twice at most, and the summary lists it as rerun.

    The browser, the page's server and the model share two cores with a second process of tests: now and then a click
    or a key comes while the machine is too busy for the browser to take it. Nothing outside this folder is run again.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=2))


def find_chromium() -> str | None:
    chosen = os.environ.get("JANUS_APP_CHROMIUM")
    return chosen or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed here; the browser tests drive a real one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Requests the browser first, so that no model is loaded where there is none."""
    with serve(tmp_path_factory.mktemp("page"), pace=0.04) as page:
        yield page


Opener = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Opener]:
    """Open the page in a fresh browser profile; requests to other sites and script errors fail the test at its end."""
    if served.session.state.variant_id != START:  # the test before this one may have failed with another model
        drain(served.session.load(START, device="cpu"))
    contexts: list[Any] = []
    unexpected: list[str] = []

    ticks = {number for number, handler in served.demo.fns.items() if handler.name == "tick"}

    def asks(request: Any) -> bool:
        """Whether a handler is asked for something, other than the state of the model each second."""
        if "/run/" not in request.url:
            return "/queue/" in request.url
        return request.post_data_json["fn_index"] not in ticks

    def listen(page: Any) -> None:
        page.asking = set()  # open requests to handlers; the stream of the queue is open while an answer is due
        page.errors = []  # what the browser's console shows as errors
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: page.asking.add(r) if asks(r) else None)
        page.on("response", lambda r: page.asking.discard(r.request) if "/run/" in r.url else None)
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda r: page.asking.discard(r))
        page.on(
            "request", lambda r: None if r.url.startswith((served.url, "data:", "blob:")) else unexpected.append(r.url)
        )
        page.on("pageerror", lambda e: unexpected.append(f"script error: {e}"))

    def open_page(query: str = "", script: str = "", **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)  # a busy machine of two cores
        if script:
            page.add_init_script(script)  # runs before the page's own
        listen(page)
        page.goto(served.url + "/" + query)
        page.wait_for_selector(".state-line.ready")
        page.evaluate(WATCH)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not unexpected


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Two pictures of the user, as files."""
    from PIL import Image

    files = []
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 60, 200))):
        Image.new("RGB", (120, 90), colour).save(tmp_path / f"{name}.png")
        files.append(str(tmp_path / f"{name}.png"))
    return files
