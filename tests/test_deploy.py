"""The Dockerfile and docs/deploy.md, as far as they can be checked without Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import app
from janus_app.runtime.gpus import CUDA_12, CUDA_13, TORCH, WHEELS
from tests.page_server import free_port

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "deploy.md", ROOT / "docs" / "deploy.zh-CN.md"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs: the name of an instruction, and its text."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def texts(name: str) -> list[str]:
    return [text for found, text in instructions() if found == name]


def copied() -> list[str]:
    return [source for text in texts("COPY") for source in text.split()[:-1]]


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


def start_command() -> list[str]:
    (entry,) = texts("ENTRYPOINT")
    command: list[str] = json.loads(entry)
    return command


def service() -> dict[str, Any]:
    (compose,) = blocks(PAGES[0], "yaml")
    found: dict[str, Any] = yaml.safe_load(compose)["services"]["studio"]
    return found


def test_copied_files_are_in_the_repository_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert kept == set(copied()) and all((ROOT / name).exists() for name in kept)
    assert not any(fnmatch.fnmatch("outputs", name) or name.startswith(("tests", ".git")) for name in kept)


def test_image_installs_what_the_readme_and_the_doctor_name() -> None:
    runs = " ".join(texts("RUN"))
    assert (
        f'"{TORCH}" --index-url "{WHEELS}/$TORCH"' in runs and "pip install --no-cache-dir -r requirements.txt" in runs
    )
    assert texts("ARG") == [f"TORCH={CUDA_13}"]
    for page in PAGES:
        assert set(re.findall(r"--build-arg TORCH=(\w+)", page.read_text("utf-8"))) == {"cpu", CUDA_12}
    for text in texts("RUN"):
        assert subprocess.run(["sh", "-n", "-c", text]).returncode == 0, text


def test_python_of_the_image_is_supported() -> None:
    from janus_app.runtime.doctor import NEWEST, OLDEST

    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", texts("FROM")[0])
    assert version and OLDEST <= (int(version[1]), int(version[2])) <= NEWEST


def test_page_runs_from_the_copied_files_and_answers_to_the_service_name(tmp_path: Path) -> None:
    place, port = tmp_path / "app", str(free_port())
    place.mkdir()
    for name in copied():
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, place / name)
    variables = dict(word.split("=", 1) for text in texts("ENV") for word in shlex.split(text))
    assert variables["HF_HOME"].startswith("/data/") and variables["JANUS_APP_DATA"].startswith("/data/")
    variables |= {name: str(tmp_path / value[1:]) for name, value in variables.items() if value.startswith("/data")}
    variables |= service()["environment"] | {"HF_HUB_OFFLINE": "1"}
    command = [port if word == "7860" else word for word in [*start_command(), *service()["command"]]]
    command[0] = sys.executable
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=place, env=os.environ | variables, **pipe) as page:
        try:
            printed = ""
            while f":{port}" not in printed and (line := page.stdout.readline()):  # type: ignore[union-attr]
                printed += line
            assert f":{port}" in printed, printed
            for name, status in (("studio:7860", 200), ("127.0.0.1:7860", 200), ("other:7860", 400)):
                answer = httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": name}, trust_env=False)
                assert answer.status_code == status, name
        finally:
            page.kill()


def test_ports_and_volumes_of_the_docs_are_those_of_the_image() -> None:
    (volumes,) = texts("VOLUME")
    (run,) = (line for line in blocks(PAGES[0], "bash")[1].splitlines() if line.startswith("docker run"))
    for folder in json.loads(volumes):
        assert any(mount.endswith(f":{folder}") for mount in service()["volumes"]) and f":{folder} " in run
    assert service()["ports"] == ["127.0.0.1:7860:7860"] and "-p 127.0.0.1:7860:7860" in run
    assert texts("EXPOSE") == ["7860"] and start_command()[-3:-1] == ["--port", "7860"]


def test_both_languages_have_the_same_blocks() -> None:
    for kind in ("bash", "nginx", "yaml"):
        assert blocks(PAGES[0], kind) == blocks(PAGES[1], kind)


@pytest.mark.parametrize(
    "line", [line for block in blocks(PAGES[0], "bash") for line in block.splitlines() if "app.py" in line]
)
def test_commands_of_the_docs_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line)[1:])
    assert app.parse().no_browser
