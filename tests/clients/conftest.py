"""The app in its own environment, for clients in theirs: JANUS_APP_PYTHON is the Python that can run the app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def is_idle(url: str) -> bool:
    """Whether no job runs or waits."""
    state = json.load(urllib.request.urlopen(f"{url}/sdapi/v1/progress"))["state"]
    return state["job_count"] == 0


@dataclass(frozen=True)
class App:
    """A running app: its address, its texts for other programs, and where it says how jobs ended (held.py)."""

    url: str
    snippets: dict[str, str]
    folder: Path

    def ended(self) -> list[str]:
        """How each job so far has ended."""
        file = self.folder / "ended"
        return file.read_text("utf-8").split() if file.exists() else []


@pytest.fixture
def check_closed(app: App) -> Iterator[Callable[[], None]]:
    """Jobs are held until this is called; then the one that was begun ends, because its client has left."""
    hold, before = app.folder / "hold", len(app.ended())
    hold.touch()
    (app.folder / "begun").unlink(missing_ok=True)

    def check() -> None:
        hold.unlink()
        end = time.monotonic() + 60
        while not (len(app.ended()) > before and is_idle(app.url)):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert set(app.ended()[before:]) == {"closed"}

    yield check
    hold.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def url(app: App) -> str:
    return app.url


@pytest.fixture(scope="session")
def app() -> Iterator[App]:
    python = os.environ.get("JANUS_APP_PYTHON", sys.executable)
    command = [python, "-m", "tests.clients.serve"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            for line in server.stdout:
                if line.startswith("serving "):
                    break
            else:
                raise AssertionError("the app did not start")
            texts, folder = server.stdout.readline(), server.stdout.readline().strip()
            yield App(line.split()[1], json.loads(texts), Path(folder))
        finally:
            server.stdin.close()
