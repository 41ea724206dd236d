"""The commands, run in this process or one of their own."""

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


def run_command(*arguments: str, program: tuple[str, ...] = ("-m", "janus_app"), **how: Any) -> Any:
    """A command in a process of its own."""
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **how)


def results(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def draw_json(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> list[dict[str, Any]]:
    assert main(["generate", "--json", "--out", str(folder), *flags]) == 0
    return results(capsys)
