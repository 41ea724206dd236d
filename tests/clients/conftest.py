"""The app in its own environment, for clients in theirs: JANUS_APP_PYTHON is the Python that can run the app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
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
    """A running app: its address, and its texts for other programs."""

    url: str
    snippets: dict[str, str]


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
            yield App(line.split()[1], json.loads(server.stdout.readline()))
        finally:
            server.stdin.close()
