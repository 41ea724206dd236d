"""The app in its own environment, for clients in theirs: JANUS_APP_PYTHON is the Python that can run the app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def is_idle(url: str) -> bool:
    """Whether no job runs or waits."""
    state = json.load(urllib.request.urlopen(f"{url}/sdapi/v1/progress"))["state"]
    return state["job_count"] == 0


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
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
            yield line.split()[1]
        finally:
            server.stdin.close()
