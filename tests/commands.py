"""Runs commands, in this process or in a new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from janus_app.cli import main

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "tests" / "golden" / "janus" / "janus_pro_1b" / "checkpoint")
PICTURE = str(ROOT / "tests" / "golden" / "janus" / "images" / "rgb.png")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"}


def run_command(*arguments: str, program: tuple[str, ...] = ("-m", "janus_app"), **environment: str) -> Any:
    """Run a command in a new process with these environment variables changed."""
    command = [sys.executable, *program, *arguments]
    env = {**ENVIRONMENT, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=120)


def results(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def draw_json(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> list[dict[str, Any]]:
    assert main(["generate", "--json", "--out", str(folder), *flags]) == 0
    return results(capsys)
