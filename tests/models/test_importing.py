"""Packages that read their modules at first use, asked by several threads at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "janus_app" / "models"
LAZY = {"diffusers", "transformers"}
# A page does so when a model is chosen and loaded at once; a fresh program, for an import happens once in each.
TWO_AT_ONCE = """
import json, sys
from threading import Barrier, Thread
import torch
from janus_app.models.common.autoencoder import build_autoencoder

raw = {"_class_name": "AutoencoderKL", "block_out_channels": [32], "latent_channels": 4, "layers_per_block": 1}
raw |= {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
start, made = Barrier(4), []

def build():
    start.wait()
    made.append(type(build_autoencoder(raw, "JanusFlow")).__name__)

threads = [Thread(target=build) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(made))
"""


def test_concurrent_builds_import_their_classes() -> None:
    pytest.importorskip("diffusers")
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], capture_output=True, text=True, timeout=280)
    assert done.stdout.split() == ['["AutoencoderKL",'] + ['"AutoencoderKL",'] * 2 + ['"AutoencoderKL"]'], done.stderr


def test_lazy_packages_are_imported_under_the_lock() -> None:
    for file in MODELS.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        locked = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and any(ast.unparse(item) == "importing" for item in block.items)
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in LAZY for name in names):
                assert id(node) in locked, f"{file}:{node.lineno}"
