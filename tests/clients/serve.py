"""Serves the app for tests/clients from the app's own environment, and prints the address. Stops when stdin ends."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from janus_app.server.snippets import snippets
from tests.clients.held import hold_jobs
from tests.page_server import serve

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), pace=0.02) as page:
        print(f"serving {page.url}")
        print(json.dumps(dict(snippets(page.url, "a-key", "tiny-a", page.outputs))))
        hold_jobs(Path(folder))
        print(folder, flush=True)
        sys.stdin.read()
