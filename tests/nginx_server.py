"""A real nginx with the configuration of docs/deploy.md in front of a page of the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.page_server import free_port

DOCUMENTED = Path(__file__).parents[1] / "docs" / "deploy.md"


@dataclass(frozen=True)
class Proxied:
    """The page's address behind nginx, and where nginx writes down what it was asked for."""

    url: str
    log: Path

    def outside(self) -> list[str]:
        """The requests for paths that are not the page's."""
        asked = re.findall(r'"(?:GET|HEAD|POST) (\S+)', self.log.read_text("utf-8"))
        return [path for path in asked if not path.startswith("/janus/") and path not in ("/janus", "/favicon.ico")]


@contextmanager
def nginx(page: str, folder: Path) -> Iterator[Proxied]:
    """Serve `page`, an address, under /janus as documented; skips the test where nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (site,) = re.findall(r"```nginx\n(.*?)```", DOCUMENTED.read_text("utf-8"), flags=re.DOTALL)
    site = site.replace("127.0.0.1:7860", page.removeprefix("http://")).replace("listen 80;", f"listen {port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""  # its workers write the upload into our folder
    log = f"access_log {folder}/access.log;\n"
    text = f"{user}pid {folder}/pid;\nevents {{}}\nhttp {{\n{log}{places}{site}}}\n"
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    command = [program, "-e", str(folder / "log"), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}/janus"
        while server.poll() is None:
            try:
                httpx.get(address, trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert server.poll() is None, (folder / "log").read_text("utf-8")
        yield Proxied(address, folder / "access.log")
    finally:
        server.terminate()
        server.wait(timeout=20)
