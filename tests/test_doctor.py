"""The doctor: findings about this machine, without private data, also where parts are broken."""

from __future__ import annotations

import http.server
import json
import os
import re
import runpy
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from janus_app.cli import main
from janus_app.errors import Message
from janus_app.hub import Hub
from janus_app.runtime import doctor
from janus_app.runtime.doctor import Finding
from tests.commands import run_command


def run_doctor(*options: str, **environment: str) -> Any:
    return run_command("doctor", *options, HF_HUB_OFFLINE="1", **environment)


def levels(findings: Any) -> list[tuple[str, str]]:
    return [(finding.level, str(finding.what)) for finding in findings]


def named(findings: Any, what: str) -> Finding:
    return next(finding for finding in findings if str(finding.what) == what)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hub_findings", lambda hub, timeout: iter(()))


def test_json_has_every_check_and_no_private_data(tmp_path: Path) -> None:
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
    assert all(f.keys() == {"level", "what", "detail", "remedy"} for f in findings.values())
    assert all(f["remedy"] for f in findings.values() if f["level"] in ("WARN", "FAIL"))
    absent = [f for f in findings.values() if re.search("not on this machine|not downloaded", f["detail"])]
    assert len(absent) > 5 and {f["level"] for f in absent} == {"SKIP"}, "what is not there is not said to be fine"
    assert done.stderr == ""


def test_lines_are_in_the_language_of_the_system() -> None:
    done = run_doctor(LC_ALL="zh_CN.UTF-8")
    lines = done.stdout.splitlines()
    assert any(line.startswith("OK    Python: 版本 3.") for line in lines)
    assert all(line.startswith(("OK  ", "SKIP", "WARN", "FAIL", "      ")) for line in lines)


def test_hub_is_ok_if_it_answers_and_a_warning_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)  # any answer counts

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:password@127.0.0.1:{server.server_port}"
        hub = Hub(endpoint=address.replace("user:password@", ""), offline=False)
        assert levels(doctor.hub_findings(hub, 5)) == [("OK", "Hub")]
        server.shutdown()
    (finding,) = doctor.hub_findings(Hub(endpoint=address, offline=False), 2)
    assert finding.level == "WARN" and "password" not in str(finding.detail) and finding.remedy


def test_check_that_raises_becomes_a_fail_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_network: None
) -> None:
    def broken() -> Any:
        raise RuntimeError(f"{Path.home()}/secret is odd")
        yield

    monkeypatch.setattr(doctor, "_torch", broken)
    findings = list(doctor.examine(tmp_path))
    failed = named(findings, "PyTorch")
    assert failed.level == "FAIL" and str(Path.home()) not in failed.texts()["detail"]
    assert named(findings, "Port")


def test_unsupported_python_and_packages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert levels(doctor._python()) == [("FAIL", "Python")]

    def version(package: str) -> str:
        if package == "safetensors":
            raise doctor.metadata.PackageNotFoundError
        return "7.0.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = {what: level for level, what in levels(doctor._packages())}
    assert found["safetensors"] == "FAIL" and found["gradio"] == "WARN" and found["pillow"] == "OK"


def test_file_in_the_place_of_a_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert next(doctor._disk(tmp_path / "file" / "sub", tmp_path)).level == "WARN"


def test_little_disk_space_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {level for level, _ in levels(doctor._disk(tmp_path / "not" / "there" / "yet", tmp_path))} <= {"OK", "WARN"}
    monkeypatch.setattr(doctor, "LOW_DISK", 1e18)
    assert {level for level, _ in levels(doctor._disk(tmp_path, tmp_path))} == {"WARN"}


def test_quantized_products_are_computed() -> None:
    pytest.importorskip("bitsandbytes")
    findings = list(doctor._quantization())
    assert levels(findings) == [("OK", "int8"), ("OK", "nf4")]
    assert all("error of a product" in str(finding.detail) for finding in findings)


def test_port_is_free_only_if_a_server_can_listen_there() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not doctor.port_is_free("127.0.0.1", port)
    assert doctor.port_is_free("127.0.0.1", port)
    assert not doctor.port_is_free("no.such.host.invalid", 80)
    assert not doctor.port_is_free("127.0.0.1", 99_999)


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_page_gets_text_to_paste_without_the_port(tmp_path: Path, no_network: None, language: str) -> None:
    findings = list(doctor.examine(tmp_path, port=None))
    names = {str(finding.what) for finding in findings}
    assert "Port" not in names and {"Memory", "Offload", "int8", "nf4"} <= names
    text = doctor.as_text(findings, language)
    assert len(text.splitlines()) == len(findings) + sum(finding.remedy is not None for finding in findings)
    assert str(Path.home()) + "/" not in text and ("内存" in text) == (language == "zh-CN")


@pytest.mark.parametrize(("built_for", "remedy"), [(None, "pytorch.org"), ("13.0", "supports CUDA 13.0")])
def test_driver_without_a_matching_pytorch_is_a_warning(
    built_for: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script stands in for the driver's nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '| NVIDIA-SMI 550.54 Driver Version: 550.54.14   CUDA Version: 12.4 |'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a working card")
    monkeypatch.setattr(torch.version, "cuda", built_for)
    card = named(doctor._torch(), "Graphics card")
    assert card.level == "WARN" and "550.54.14 for CUDA up to 12.4" in str(card.detail) and remedy in str(card.remedy)


def test_warnings_of_libraries_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(*_: object) -> Any:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        yield Finding("OK", "PyTorch", Message("doctor_works", version="2.13"))

    monkeypatch.setattr(doctor, "examine", warned)
    assert main(["doctor"]) == 0 and "2.13" in capsys.readouterr().out
    assert not list(recwarn)


def test_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for finding in doctor._quantization():
        assert finding.level == "WARN" and "not installed" in str(finding.detail)
        assert "pip install" in str(finding.remedy)


def test_page_of_the_docs_is_what_its_script_writes() -> None:
    docs = Path(__file__).parents[1] / "docs"
    before = dict(os.environ)
    page = runpy.run_path(str(docs / "make_doctor_page.py"))["page"]()
    assert page == (docs / "doctor.md").read_text("utf-8"), "run python docs/make_doctor_page.py"
    assert page.count("\n## ") == 10 and "password" not in page and str(Path.home()) + "/" not in page
    assert dict(os.environ) == before
