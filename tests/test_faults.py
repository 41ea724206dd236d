"""Real failures: memory runs out under a limit of the system, numbers overflow, decoders are damaged.

A limit applies to a whole process, so each such case runs in its own (tests/faults_child.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.types import ChatRequest, Finished, GenerateRequest, Notice, Turn
from tests.conftest import GOLDEN, loaded

ROOT = Path(__file__).parent.parent
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory are enforced on Linux")
OLD = GOLDEN / "janus_1_3b" / "checkpoint"


def in_a_process(case: str, *, timeout: int = 300) -> dict[str, object]:
    """The report of one case of tests/faults_child.py."""
    command = [sys.executable, "-m", "tests.faults_child", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


@LINUX
def test_out_of_memory_draws_the_same_pictures_in_smaller_batches() -> None:
    report = in_a_process("turns")
    assert "at a time" in str(report["notices"])
    assert report["pictures"] == report["expected"] and report["batch"] < report["count"]  # type: ignore[operator]


@LINUX
def test_job_out_of_memory_is_explained_and_the_next_job_works() -> None:
    report = in_a_process("job")
    assert "ran out of memory" in str(report["error"]) and "still loaded" in str(report["error"])
    assert report["phase"] == "ready" and report["answer"] == report["expected"]


@LINUX
def test_load_out_of_memory_offers_the_next_smaller_precision() -> None:
    report = in_a_process("load")
    assert "bf16" in str(report["error"]) and report["offer"] == "bf16"
    assert report["phase"] == "empty" and report["after"] == "ready"


def overflowing(folder: Path) -> Path:
    """The checkpoint with an MLP whose output no half-precision number can hold, while float32 can."""
    folder.mkdir()
    for file in OLD.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(OLD / "model.safetensors")
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    tensors[name] = (tensors[name].float() * 60000).to(tensors[name].dtype)
    for part in ("gate_proj", "up_proj"):
        tensors[f"language_model.model.layers.0.mlp.{part}.weight"] *= 50
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_overflow_in_fp16_is_an_error_and_not_a_picture(tmp_path: Path) -> None:
    folder = overflowing(tmp_path / "hot")
    draw = GenerateRequest("A small red house.", guidance=1)
    ask = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=4)
    full, half = loaded(folder).model, loaded(folder, "fp16").model
    assert isinstance(list(full.generate(draw))[-1], Finished) and isinstance(list(full.chat(ask))[-1], Finished)
    for act in (half.generate(draw), half.chat(ask)):
        with pytest.raises(AppError, match=r"range of fp16.*Load it in bf16"):
            list(act)


def test_damaged_picture_decoder_draws_nothing() -> None:
    model = loaded(OLD).model
    model.network.gen_vision_model.decoder.conv_out.bias[0] = torch.nan  # type: ignore[attr-defined]
    with pytest.raises(AppError, match="weights may be damaged"):
        list(model.generate(GenerateRequest("A small red house.", guidance=1)))


def test_preview_out_of_memory_does_not_end_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    from janus_app.models.janus import row_previews as janus

    model = loaded(OLD).model
    request = GenerateRequest("A small red house.", guidance=1, seed=4)
    expected = list(model.generate(request))[-1].pictures[0].image_tokens
    monkeypatch.setattr(model, "_decode_seconds", None)  # a busy machine may have made it long
    decode, calls = janus.decode_tokens, []

    def first_fails(network: object, tokens: torch.Tensor) -> torch.Tensor:
        calls.append(tokens)
        if len(calls) == 1:
            torch.empty(1 << 60, dtype=torch.uint8)  # a real failure of the allocator
        return decode(network, tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(janus, "decode_tokens", first_fails)
    events = list(model.generate(request))
    assert any(isinstance(e, Notice) and "previews" in e.text for e in events)
    assert events[-1].pictures[0].image_tokens == expected and len(calls) == 1, "tried again"
