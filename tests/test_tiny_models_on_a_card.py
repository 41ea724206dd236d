"""Tiny random models of families and layouts on a pretended CUDA card give the results of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import Capabilities, ChatRequest, EditRequest, GenerateRequest, Request, Turn, drain
from tests import tiny_mixed, tiny_pisces
from tests.pretended_card import pretended_cards
from tests.test_cuda import work

UNIPIC2 = Path(__file__).parent / "golden" / "unipic2" / "ckpt_tiny"
MIXED = ("transfusion", "lmfusion", "llavafusion")
PICTURE = Image.effect_mandelbrot((16, 16), (-2, -1.5, 1, 1.5), 60).convert("RGB")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mixed")
    tiny_mixed.write_all(root)
    pisces = tiny_pisces.write_checkpoint(tmp_path_factory.mktemp("pisces"))
    return {"pisces": pisces, "unipic2": UNIPIC2, **{name: root / name for name in MIXED}}


def requests(capabilities: Capabilities) -> list[Request]:
    """Everything that a model offers; an answer of Pisces contains a picture."""
    asked: list[Request] = [
        GenerateRequest("a cat", count=2, guidance=3.0, seed=3, steps=2),
        ChatRequest((Turn("user", "describe it", (PICTURE,)),), temperature=0, max_new_tokens=3),
    ]
    mask = Image.new("L", PICTURE.size)
    mask.paste(255, (4, 4, 12, 12))
    edits = [EditRequest("a dog", PICTURE, mask, way, guidance=3.0, steps=2) for way in capabilities.edit_methods]
    return [*asked, *edits]


def capabilities(session: ModelSession) -> Capabilities:
    found = session.state.capabilities
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["pisces", "unipic2", *MIXED])
def test_a_tiny_model_draws_edits_and_answers_on_a_card_as_on_the_cpu(name: str, folders: dict[str, Path]) -> None:
    on_cpu = ModelSession(load_catalog(), Hub())
    drain(on_cpu.load(str(folders[name]), "cpu", "fp32"))
    expected = work(on_cpu, requests(capabilities(on_cpu)))
    with pretended_cards(float64=False) as cards:
        on_card = ModelSession(load_catalog(), Hub())
        drain(on_card.load(str(folders[name]), "cuda", "fp32"))
        torch.manual_seed(1)  # a seed of the process changes nothing
        found = work(on_card, requests(capabilities(on_card)), cards)
    found.assert_like(expected)
    assert cards.allocators[0].peak > 0 and found.default_stream
