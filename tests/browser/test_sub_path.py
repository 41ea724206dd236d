"""The whole page behind a real nginx under a sub-path, with a login, in a real Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import WATCH
from tests.browser.steps import answer, captions, draw, go, into_editor, newest, wait_done
from tests.nginx_server import nginx
from tests.page_server import serve

pytestmark = pytest.mark.browser


def loaded(page: Any, place: str) -> None:
    """Wait until the first picture in `place` is decoded."""
    page.wait_for_function(f"document.querySelector('{place} img')?.naturalWidth > 0")


def test_page_is_fully_usable_behind_nginx_under_a_sub_path(browser: Any, tmp_path: Path, pictures: list[str]) -> None:
    login, failed = ("visitor", "secret"), []
    with (
        serve(tmp_path, pace=0.04, root_path="/janus", auth=login) as served,
        nginx(served.url, tmp_path) as proxied,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(90_000)
        page.on("pageerror", lambda e: failed.append(str(e)))
        page.on("response", lambda r: failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(f"{proxied.url}/")
        page.fill("input[type=text], input:not([type])", login[0])
        page.fill("input[type=password]", login[1])
        failed.clear()  # Gradio asks for the page's parts before there is a login
        page.keyboard.press("Enter")
        page.wait_for_selector(".state-line.ready")
        page.evaluate(WATCH)
        devtools = page.context.new_cdp_session(page)
        manifest = devtools.send("Page.getAppManifest")
        assert manifest["url"].endswith("/janus/app.webmanifest") and not manifest["errors"]
        refused = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert {one["errorId"] for one in refused} <= {"in-incognito"}, "only this browser cannot install it"

        go(page, "chat")
        page.set_input_files("#chat-box input[type=file]", pictures[0])
        page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
        assert answer(page, "What is it?", 1)
        assert page.evaluate("window.seen.answers.size") >= 3, "the answer did not stream"
        loaded(page, "#chat-bot .user")

        go(page, "draw")
        draw(page, "a red circle", 2, 70)
        wait_done(page)
        assert page.evaluate("window.seen.sheets.size") >= 2, "no rows appeared"
        assert captions(page) == ["seed 70", "seed 71"]
        loaded(page, "#draw-picture")
        drawn = newest(served.outputs)

        into_editor(page, lambda: page.click("#draw-to-edit"))

        go(page, "history")
        loaded(page, "#history-runs")
        page.locator("#history-runs .tile").first.click()
        loaded(page, "#history-picture")
        with page.expect_download() as saved:
            page.click("#history-save")
        assert Path(saved.value.path()).read_bytes() == drawn.read_bytes()

        page.reload()  # the login is kept under the sub-path
        page.wait_for_selector(".state-line.ready")
        page.context.close()
        assert not failed and not proxied.outside()
