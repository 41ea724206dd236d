"""Downloads through the page: pause, kill and restart of the app, resume, load, verify, convert, delete."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.browser import steps
from tests.conftest import GOLDEN
from tests.fake_hub import COUNTS, FakeHub, Fault
from tests.hub_cases import sha256
from tests.page_server import free_port
from tests.test_cli_files import row

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
PADDING = 100_000_000  # bytes of a tensor that is allowed in every Janus checkpoint and read by nothing
WEIGHTS = "pytorch_model.bin"
SHOTS = os.environ.get("JANUS_APP_SHOTS")  # a folder for screenshots


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The tiny checkpoint, padded to 100 MB."""
    import io

    folder = GOLDEN / "janus_pro_1b" / "checkpoint"
    state = torch.load(folder / WEIGHTS, weights_only=True)
    state["vision_model.vision_tower.attn_pool.padding"] = torch.randint(0, 255, (PADDING,), dtype=torch.uint8)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {file.name: file.read_bytes() for file in folder.iterdir()} | {WEIGHTS: buffer.getvalue()}


class App:
    """The app as a user starts it, with its own home folder."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "HF_HUB_CACHE"}
        own = {
            "HF_HOME": str(folder / "home"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "0",
            "JANUS_APP_DATA": str(folder / "data"),
            "JANUS_APP_MANIFEST": str(folder / "models.yaml"),
        }
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(self.port), "--no-browser"]
        log = (folder / "app.log").open("ab")
        self.process = subprocess.Popen(command, cwd=folder, env=clean | own, stdout=log, stderr=log)
        for _ in range(2_500):
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        raise AssertionError(f"the app did not start: {(folder / 'app.log').read_text()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path) -> Iterator[FakeHub]:
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"variants": [row(files)]}))
    with FakeHub(files) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the tiny checkpoint, not padded."""
    files = {file.name: file.read_bytes() for file in (GOLDEN / "janus_pro_1b" / "checkpoint").iterdir()}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"variants": [row(files)]}))
    with FakeHub(files) as server:
        yield server


@pytest.fixture
def started() -> Iterator[list[App]]:
    """Apps started by a test; they are killed at its end."""
    apps: list[App] = []
    yield apps
    for app in apps:
        app.kill()


def visit(browser: Any, app: App, **options: Any) -> Any:
    page: Any = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)).new_page()
    page.set_default_timeout(120_000)
    page.goto(app.url)
    page.wait_for_selector(".state-line")
    steps.open_drawer(page)
    return page


def get(page: Any) -> None:
    """Click the button of Tiny Janus, which downloads and loads it."""
    page.locator("#model-list li:has-text('Tiny Janus') button").click()


def open_files(page: Any, section: str = "Files on this machine") -> None:
    """Open the section of files and choose Tiny Janus there, which is not loaded."""
    page.get_by_text(section, exact=True).click()
    steps.settle(page)
    page.locator("#files-model input").click()
    page.get_by_role("option", name="Tiny Janus").click()


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def kept(folder: Path) -> int:
    found = list((folder / "home").rglob("*.janus-partial"))
    return found[0].stat().st_size if found else 0


def until(condition: Any, page: Any) -> None:
    steps.until(condition, page, lambda: f"timed out; the drawer shows: {page.inner_text('#model-drawer')}")


def test_download_resumes_after_pause_and_kill(
    browser: Any, hub: FakeHub, started: list[App], files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.fault(WEIGHTS, Fault(times=10_000, pause=0.3, step=1 << 20))
    started.append(App(tmp_path, hub.endpoint))
    page = visit(browser, started[-1])
    page.wait_for_selector("#model-list button:has-text('Download 103 MB')")
    get(page)
    page.wait_for_selector("#model-cancel:has-text('Pause')")
    until(lambda: kept(tmp_path) > 20_000_000, page)
    line = page.inner_text("#model-work")
    assert re.search(r"Downloading · [\d.]+( MB)? of 103 MB · [\d.]+ [kM]B/s · .* left · pytorch_model\.bin", line), (
        line
    )
    page.click("#model-cancel")
    page.wait_for_selector("#model-ended .message:has-text('are downloaded and kept')")
    page.wait_for_selector("#model-list button:has-text('Resume')")
    paused = kept(tmp_path)
    assert re.search(r"\d+( MB)? of 103 MB are downloaded and kept", page.inner_text("#model-ended"))
    open_files(page)
    page.wait_for_selector("#files-facts:has-text('is partly downloaded')")
    assert kept(tmp_path) == paused, "the download continues while paused"

    get(page)  # resume, then kill the app
    until(lambda: kept(tmp_path) > paused + 10_000_000, page)
    started[-1].kill()
    COUNTS.kills += 1
    page.context.close()
    left = kept(tmp_path)

    before = len(hub.requests)
    started.append(App(tmp_path, hub.endpoint))
    page = visit(browser, started[-1])
    page.wait_for_selector("#model-list button:has-text('Resume')")
    open_files(page)
    page.wait_for_selector("#files-facts:has-text('is partly downloaded')")
    get(page)
    until(lambda: kept(tmp_path) > left + 5_000_000, page)
    shot(page, "download-resumed")
    hub.clear_faults()
    page.wait_for_selector(".state-line.ready:has-text('Tiny Janus')")
    starts = [int(re.sub(r"bytes=(\d+)-.*", r"\1", r[2]["Range"])) for r in hub.requests[before:] if "Range" in r[2]]
    assert min(starts) == left, "the download did not continue where the killed app stopped"
    blob = next((tmp_path / "home").rglob(sha256(files[WEIGHTS])))
    assert blob.read_bytes() == files[WEIGHTS]
    COUNTS.checked += 1


def test_download_goes_on_through_a_refresh_and_can_be_paused_after(
    browser: Any, small: FakeHub, started: list[App], tmp_path: Path
) -> None:
    size, slow = len(small.files[WEIGHTS]), Fault(times=10, pause=1.0, step=1 << 14)
    small.fault(WEIGHTS, slow)
    started.append(App(tmp_path, small.endpoint))
    page = visit(browser, started[-1])

    def refreshed() -> None:
        reached = kept(tmp_path)
        page.reload()
        page.wait_for_selector("#model-cancel:has-text('Pause')")  # without opening the drawer
        until(lambda: size > kept(tmp_path) > reached, page)
        done, total = re.search(
            r"Downloading · ([\d.]+) \S*B? ?of ([\d.]+) MB", page.inner_text("#model-work")
        ).groups()
        assert float(total) > 2.6 and float(done)
        steps.open_drawer(page)

    get(page)
    until(lambda: kept(tmp_path), page)
    refreshed()
    page.click("#model-cancel")
    page.wait_for_selector("#model-ended .message:has-text('are downloaded and kept')")
    steps.wait_nothing_runs(page)
    paused = kept(tmp_path)
    page.reload()
    steps.open_drawer(page)
    page.wait_for_selector("#model-list button:has-text('Resume')")
    assert kept(tmp_path) == paused and not page.is_visible("#model-cancel")

    get(page)
    until(lambda: kept(tmp_path) > paused, page)
    refreshed()
    slow.pause = 0
    page.wait_for_selector(".state-line.ready:has-text('Tiny Janus')")
    page.wait_for_selector("#model-cancel", state="hidden")
    steps.wait_nothing_runs(page)


def test_files_panel_verifies_converts_and_deletes(
    browser: Any, small: FakeHub, started: list[App], tmp_path: Path
) -> None:
    started.append(App(tmp_path, small.endpoint))
    page = visit(browser, started[-1])
    get(page)
    page.wait_for_selector(".state-line.ready:has-text('Tiny Janus')")
    blob = next((tmp_path / "home").rglob(sha256(small.files[WEIGHTS])))
    open_files(page)
    page.wait_for_selector("#files-facts:has-text('All hashes were verified')")
    page.click("#files-verify")
    page.wait_for_selector("#files-work:has-text('every file has the right hash')")
    page.click("#files-convert")
    page.wait_for_selector("#files-work:has-text('read from safetensors')")
    page.wait_for_selector("#files-facts:has-text('safetensors copy')")
    shot(page, "files-panel")
    page.click("#files-delete")
    page.wait_for_selector("#files-question:has-text('Delete Tiny Janus')")
    page.click("#files-keep")
    page.wait_for_selector("#files-question", state="hidden")
    assert blob.exists()
    page.click("#files-delete")
    page.click("#files-really")
    page.wait_for_selector("#files-work:has-text('was deleted')")
    assert not blob.exists() and not list((tmp_path / "home").rglob("*.safetensors"))
    page.wait_for_selector("#model-list button:has-text('Download')")


def test_download_fits_a_phone_and_is_all_chinese(
    browser: Any, hub: FakeHub, started: list[App], files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.fault(WEIGHTS, Fault(times=10_000, pause=0.6, step=1 << 20))
    started.append(App(tmp_path, hub.endpoint))
    page = visit(browser, started[-1], locale="zh-CN", viewport={"width": 390, "height": 844})
    page.wait_for_selector("#model-list button:has-text('下载 103 MB')")
    get(page)
    until(lambda: kept(tmp_path) > 5_000_000, page)
    open_files(page, "本机文件")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    line = page.inner_text("#model-work")
    assert "正在下载" in line and "个文件" in line and not re.search(r"\b(?:of|files|done|left)\b", line), line
    shot(page, "download-phone-zh")
    page.click("#model-cancel")
    page.wait_for_selector("#model-ended .message:has-text('会保留')")
    page.wait_for_selector("#model-list button:has-text('继续下载')")
    hub.clear_faults()
    hub.fault("*", Fault(times=99, status=403, code="GatedRepo"))
    get(page)
    page.wait_for_selector("#model-ended .message.error:has-text('同意')")
    hub.clear_faults()
    english = re.findall(r"[A-Za-z]{4,} [A-Za-z]{2,} [A-Za-z]{2,}", page.inner_text("#model-drawer"))
    assert set(english) <= {"DeepSeek Model License"}, english  # a proper name
