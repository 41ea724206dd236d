"""From the start of the app to a picture that is drawn, edited and discussed, in a real browser: seconds and clicks.

    python -m benchmarks.first_minute [--rounds 3] [--width 1440]

Each round starts `app.py` anew and opens the page in a fresh browser profile. Layout shift is the sum of what the page
moves without being asked, of each tab; first paint and largest paint are the browser's own figures. Needs Chromium and
requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
PATIENCE = 180_000  # milliseconds
OBSERVE = """() => {
  window.shift = 0;
  const watch = (type, take) => new PerformanceObserver((list) => list.getEntries().forEach(take)).observe(
    { type, buffered: true });
  watch("layout-shift", (entry) => { if (!entry.hadRecentInput) window.shift += entry.value; });
  watch("largest-contentful-paint", (entry) => { window.largest = entry.startTime; });
  watch("paint", (entry) => { if (entry.name === "first-contentful-paint") window.first = entry.startTime; });
}"""


@contextmanager
def app(port: int) -> Iterator[float]:
    """Start `app.py` on the port; gives the seconds until its page answers."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            while not answers(f"http://127.0.0.1:{port}/"):
                if process.poll() is not None:
                    raise SystemExit(f"app.py ended with {process.returncode}")
                time.sleep(0.05)
            yield time.monotonic() - begun
        finally:
            process.terminate()
            process.wait(30)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=10).is_success
    except httpx.TransportError:
        return False


class Visit:
    """A page in a browser; counts what a person would press, and keeps the seconds of each stage."""

    def __init__(self, page: Any) -> None:
        self.page, self.clicks = page, 0

    def press(self, place: str) -> None:
        self.page.click(place)
        self.clicks += 1

    def write(self, place: str, words: str) -> None:
        self.page.fill(place, words)
        self.clicks += 1

    def draw(self) -> None:
        self.press("#draw-run")
        self.page.wait_for_selector("#draw-status .message.done")

    def edit(self) -> None:
        self.press("#draw-to-edit")
        self.page.wait_for_selector("#edit-undo button.here")
        self.page.wait_for_selector("body:not(.arriving)")
        self.press("#edit-method label >> nth=-1")  # the picture again, a little different: no stroke is needed
        self.write("#edit-prompt textarea", "a blue circle")
        self.press("#edit-run")
        self.page.wait_for_selector("#edit-compare img")

    def ask(self) -> None:
        self.press("#edit-ask")
        self.page.wait_for_selector("#chat-box img")
        self.write("#chat-box textarea", "What is in the picture?")
        self.press("#chat-box .submit-button")
        self.page.wait_for_selector("#chat-context .meter")


def measure(browser: Any, port: int, width: int) -> dict[str, float]:
    """The figures of one round."""
    found: dict[str, float] = {}
    with app(port) as found["start to page (s)"]:
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE)
        begun = time.monotonic()
        page.goto(f"http://127.0.0.1:{port}/")
        page.evaluate(OBSERVE)
        page.wait_for_selector("#draw-run:visible")
        found["address to usable page (s)"] = time.monotonic() - begun
        page.wait_for_selector(".state-line.ready")
        found["address to ready model (s)"] = time.monotonic() - begun
        page.wait_for_timeout(1000)
        found["first paint (s)"], found["largest paint (s)"] = (
            page.evaluate(f"window.{name}") / 1e3 for name in ("first", "largest")
        )
        for tab in ("draw", "edit", "chat", "history", "compare"):
            page.evaluate("window.shift = 0" if tab != "draw" else "0")
            page.click(f"#tab-{tab}-button")
            page.wait_for_timeout(1500)
            found[f"layout shift, {tab}"] = page.evaluate("window.shift")
        page.click("#tab-draw-button")
        visit = Visit(page)
        stages: dict[str, Callable[[], None]] = {"drawn": visit.draw, "edited": visit.edit, "discussed": visit.ask}
        for name, act in stages.items():
            begun = time.monotonic()
            act()
            found[f"{name} (s)"], found[f"{name} (presses so far)"] = time.monotonic() - begun, visit.clicks
        page.context.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=1440)
    args = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    rows: dict[str, list[float]] = defaultdict(list)
    with sync_playwright() as playwright:
        path = next((path for name in NAMES if (path := shutil.which(name))), None)
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        for _ in range(args.rounds):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            for name, value in measure(browser, port, args.width).items():
                rows[name].append(value)
        browser.close()
    print(f"\n{platform.platform()}, Python {platform.python_version()}, {args.width} pixels wide\n")
    print("| | median | largest |\n|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.3g} | {max(values):.3g} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
