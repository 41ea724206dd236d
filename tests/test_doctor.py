"""The doctor tells the truth about this machine, keeps private things to itself, and survives broken parts."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from janus_app.hub import Hub
from janus_app.runtime import doctor

ROOT = Path(__file__).parent.parent


def run_doctor(*flags: str, **environment: str) -> Any:
    command = [sys.executable, "-m", "janus_app", "doctor", *flags]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=120)


def found(check: Any) -> list[tuple[str, str]]:
    return [(f.level, f.what) for f in check]


def test_the_whole_examination_as_json(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        out = str(Path.home() / "pictures")
        done = run_doctor("--json", "--port", str(port), "--out", out, HF_TOKEN="hf_verysecret")
    findings = {f["what"]: f for f in map(json.loads, done.stdout.splitlines())}
    assert {"Python", "gradio", "PyTorch", "int8", "nf4", "Triton", "Outputs folder", "Hub", "Port"} <= findings.keys()
    assert findings["Port"]["level"] == "WARN" and "--port" in findings["Port"]["remedy"]
    assert findings["Hub"]["level"] == "OK" and "offline" in findings["Hub"]["detail"]
    assert findings["Outputs folder"]["detail"].startswith("~")
    assert done.returncode == int(any(f["level"] == "FAIL" for f in findings.values()))
    assert "hf_verysecret" not in done.stdout + done.stderr and str(Path.home()) + "/" not in done.stdout
    assert all(f["remedy"] for f in findings.values() if f["level"] != "OK")
    assert done.stderr == ""


def test_lines_for_people() -> None:
    done = run_doctor()
    lines = done.stdout.splitlines()
    assert any(line.startswith("OK    Python: 3.") for line in lines)
    assert all(line.startswith(("OK  ", "WARN", "FAIL", "      ")) for line in lines)


def test_a_hub_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)  # an answer all the same

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:password@127.0.0.1:{server.server_port}"
        open_hub = Hub(endpoint=address.replace("user:password@", ""), offline=False)
        assert found(doctor._hub(open_hub, 5)) == [("OK", "Hub")]
        server.shutdown()
    (finding,) = doctor._hub(Hub(endpoint=address, offline=False), 2)
    assert finding.level == "WARN" and "password" not in finding.detail and finding.remedy


def test_a_check_that_breaks_does_not_end_the_examination(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Any:
        raise RuntimeError(f"{Path.home()}/secret is odd")
        yield

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_hub", lambda hub, timeout: iter(()))
    findings = {f.what: f for f in doctor.examine(tmp_path)}
    assert findings["PyTorch"].level == "FAIL" and str(Path.home()) not in findings["PyTorch"].detail
    assert "Port" in findings


def test_old_python_and_missing_or_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert found(doctor._python()) == [("FAIL", "Python")]

    def version(package: str) -> str:
        if package == "safetensors":
            raise doctor.metadata.PackageNotFoundError
        return "7.0.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    levels = {what: level for level, what in found(doctor._packages())}
    assert levels["safetensors"] == "FAIL" and levels["gradio"] == "WARN" and levels["pillow"] == "OK"


def test_a_full_disk_is_warned_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {level for level, _ in found(doctor._disk(tmp_path / "not" / "there" / "yet", tmp_path))} <= {"OK", "WARN"}
    monkeypatch.setattr(doctor, "LOW_DISK", 1e18)
    assert {level for level, _ in found(doctor._disk(tmp_path, tmp_path))} == {"WARN"}


def test_quantised_products_are_really_computed() -> None:
    pytest.importorskip("bitsandbytes")
    findings = list(doctor._quantisation())
    assert [f.what for f in findings] == ["int8", "nf4"]
    assert all(f.level == "OK" and "error of a product" in f.detail for f in findings)


def test_port_is_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not doctor.port_is_free("127.0.0.1", listener.getsockname()[1])
    assert not doctor.port_is_free("no.such.host.invalid", 80)
    assert not doctor.port_is_free("127.0.0.1", 99_999)


def test_a_page_asks_without_the_port_and_gets_text_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_hub", lambda hub, timeout: iter(()))
    findings = list(doctor.examine(tmp_path, port=None))
    names = {f.what for f in findings}
    assert "Port" not in names and {"Memory", "Offload", "int8", "nf4"} <= names
    text = doctor.as_text(findings)
    assert len(text.splitlines()) == len(findings) + sum(bool(f.remedy) for f in findings)
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize(("built_for", "remedy"), [(None, "pytorch.org"), ("13.0", "supports CUDA 13.0")])
def test_a_driver_without_a_fitting_pytorch(
    built_for: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for the program of the driver: no card is here."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '| NVIDIA-SMI 550.54 Driver Version: 550.54.14   CUDA Version: 12.4 |'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a card is here and works")
    monkeypatch.setattr(torch.version, "cuda", built_for)
    (card,) = (f for f in doctor._torch() if f.what == "Graphics card")
    assert card.level == "WARN" and "550.54.14 for CUDA up to 12.4" in card.detail and remedy in card.remedy


def test_bitsandbytes_that_is_absent_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    absent = list(doctor._quantisation())
    assert all(f.level == "WARN" and "not installed" in f.detail and "pip install" in f.remedy for f in absent)
