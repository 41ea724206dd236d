"""`python app.py --cluster local:2`, started, used and ended as its user does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from mcp import Client

from janus_app.cli import main
from tests.cluster.conftest import MODEL, PATIENCE, ROOT, TwoMachines
from tests.entrances import PROMPT, SEED, by_a1111, by_mcp, by_openai, by_the_page, pixels
from tests.page_server import free_port


@contextmanager
def started_app(folder: Path, **environment: str) -> Iterator[str]:
    """The address of an app that serves two replicas from `folder`. It ends by Ctrl+C, and nothing of it stays."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ["--cluster", "local:2", "--model", MODEL, "--device", "cpu", "--precision", "fp32", "--port", str(port)]
    command = [sys.executable, "-u", str(ROOT / "app.py"), *options, "--no-browser"]
    environment = {**os.environ, **environment}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        lines = []
        try:
            for line in app.stdout:
                lines.append(line)
                if url in line:
                    break
            else:
                raise AssertionError(f"the app did not start: {lines}")
            yield url
        finally:
            begun = psutil.Process(app.pid).children(recursive=True) if app.poll() is None else []
            strangers = {
                process.pid
                for process in begun
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN and "127.0.0.1" not in connection.laddr.ip
            }
            replicas = {process.pid for process in begun if "ServeReplica" in " ".join(process.cmdline())}
            app.send_signal(signal.SIGINT)
            app.wait(PATIENCE)
    assert not psutil.wait_procs(begun, timeout=PATIENCE)[1]
    assert strangers <= replicas  # Serve gives each replica one port on all interfaces; all others are loopback's


def test_every_entrance_of_an_app_with_replicas_draws_what_the_command_line_draws(
    machines: TwoMachines, tmp_path: Path
) -> None:
    model = ["--model", MODEL, "--device", "cpu", "--precision", "fp32", "--guidance", "5", "--temperature", "1"]
    file = tmp_path / "alone.png"
    assert main(["generate", *model, "--prompt", PROMPT, "--seed", str(SEED), "--out", str(file)]) == 0
    with started_app(tmp_path, RAY_ADDRESS=machines.address) as url:  # another cluster on this machine is left alone
        drawn = {
            "page": pixels(by_the_page(url)),
            "/v1": pixels(by_openai(url)),
            "/sdapi": pixels(by_a1111(url)),
            "/mcp": pixels(by_mcp(Client(f"{url}/mcp"))),
        }
    assert set(drawn.values()) == {pixels(file.read_bytes())}, {name: hash(found) for name, found in drawn.items()}
    assert len(list((tmp_path / "outputs").rglob("*.png"))) == 4
