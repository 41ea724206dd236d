"""Make docs/drawing.gif: a prompt is typed, and four pictures appear row by row.

    python docs/make_animation.py

Needs Chromium and requirements-dev.txt. The seed is fixed, and the drawing is slowed down so that it can be seen.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from make_screenshots import NAMES, browser_at, fixed_seed, page_server, visit  # noqa: E402
from PIL import Image  # noqa: E402

from janus_app.runtime.session import ModelSession  # noqa: E402
from janus_app.types import Event, Progress, Request  # noqa: E402

PROMPT = "three purple houses"
SIZE = (720, 540)
COLOURS = 96
PAUSE = 0.6  # seconds after each row of image tokens
ROW = 6  # image tokens
TYPING, DRAWING, END = 90, 220, 2600  # milliseconds a frame is shown


class SlowSession(ModelSession):
    def run(self, request: Request) -> Iterator[Event]:
        for event in super().run(request):
            if isinstance(event, Progress) and event.stage == "draw" and event.done % ROW == 0:
                time.sleep(PAUSE)
            yield event


def main() -> int:
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        print("No Chromium was found. Install one (Debian, Ubuntu: apt-get install chromium) and try again.")
        return 1
    with page_server(SlowSession) as address, browser_at(chromium) as browser:
        page = visit(browser, address, width=1024)
        fixed_seed(page, "draw", 2)
        frames = [*typed(page), *drawn(page)]
    first, *rest = (picture for picture, _ in frames)
    file = ROOT / "docs" / "drawing.gif"
    first.save(file, save_all=True, append_images=rest, duration=[shown for _, shown in frames], loop=0, optimize=True)
    print(file, f"{file.stat().st_size / 1000:.0f} kB, {len(frames)} frames")
    return 0


def frame(page: Any) -> Image.Image:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    return shot.quantize(COLOURS, dither=Image.Dither.NONE)


def typed(page: Any) -> Iterator[tuple[Image.Image, int]]:
    box = page.locator("#draw-prompt textarea")
    box.fill("")
    for end in range(3, len(PROMPT) + 3, 3):
        box.fill(PROMPT[:end])
        yield frame(page), TYPING


def drawn(page: Any) -> Iterator[tuple[Image.Image, int]]:
    page.click("#draw-run")
    while not page.locator("#draw-status .message.done").count():
        yield frame(page), DRAWING
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    yield frame(page), END


if __name__ == "__main__":
    sys.exit(main())
