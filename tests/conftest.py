"""Shared by all tests: where the parity data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Small models on a busy machine: more threads only wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "0")

GOLDEN = Path(__file__).parent / "golden" / "janus"
CASES = ("janus_1_3b", "janus_pro_1b", "janus_pro_7b")


@pytest.fixture
def golden() -> Path:
    return GOLDEN
