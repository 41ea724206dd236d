"""Kernels that a token launches, counted in the CUDA graph of a pretended card; benchmarks/README.md has the table."""

from __future__ import annotations

from typing import Any, cast

import diffusers  # noqa: F401  # looks for CUDA when it is imported
import pytest

from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn.fast import kernels
from janus_app.paths import ASSETS
from janus_app.types import GenerateRequest
from tests.conftest import loaded
from tests.pretended_card import pretended_cards


def launches(precision: str, layers: int, *, triton: bool) -> int:
    """Of a token of one guided picture by the first layers of the embedded model."""
    with pretended_cards(kernels_too=triton) as cards:
        model = cast(JanusModel, loaded(ASSETS / "janus_embedded", precision, "cuda").model)
        decoder: Any = model.network.language_model.model
        decoder.layers = decoder.layers[:layers]
        object.__setattr__(decoder.config, "num_hidden_layers", layers)
        for _ in model.generate(GenerateRequest("a red house", guidance=1.5, seed=3)):
            if cards.recorded:
                break
        names = cards.recorded[0]
        return len(names) + names.count("attend and merge")


@pytest.mark.parametrize(
    ("precision", "triton", "layer", "rest"), [("bf16", True, 6, 22), ("fp32", True, 9, 26), ("bf16", False, 27, 30)]
)
def test_a_layer_launches_few_kernels(
    precision: str, triton: bool, layer: int, rest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attention that is split, as it is for Janus-Pro-1B."""
    monkeypatch.setattr(kernels, "MIN_SPLIT", 1)
    one, two = (launches(precision, layers, triton=triton) for layers in (1, 2))
    assert (two - one, one - (two - one)) == (layer, rest)
