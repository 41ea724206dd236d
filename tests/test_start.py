"""The page opens before anything is imported that only a model or a host of tools needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT

START = """
import json, socket, sys, urllib.request
from pathlib import Path
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.ui.app import launch

LATER = {"torch", "transformers", "diffusers", "bitsandbytes", "accelerate", "scipy", "matplotlib", "mcp", "mcp_types"}
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
session, folder = ModelSession(load_catalog(), Hub()), Path(sys.argv[1])
at_opening = []
demo = launch(
    session, session.catalog, port=port, outputs=folder, data=folder, prevent_thread_lock=True,
    opened=lambda page: at_opening.extend(LATER & set(sys.modules)),
)
question = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18",
    "capabilities": {}, "clientInfo": {"name": "host", "version": "1"}}}
headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
answers = []
for number in range(2):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/mcp", json.dumps(question).encode(), headers)
    answers.append("Janus Studio" in urllib.request.urlopen(request, timeout=60).read().decode())
demo.close()
from gradio import component_meta
print(json.dumps([at_opening, answers, "mcp" in sys.modules, component_meta.create_or_modify_pyi(object, "", [])]))
"""


def test_page_is_open_before_torch_and_the_tools_are_imported_and_a_host_is_answered_all_the_same(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JANUS_APP_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=180
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == "[[], [true, true], true, null]"
