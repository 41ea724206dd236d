"""MetaMorph against the published code: every recorded case and every stage, at the limits of the data's README."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.metamorph_speed import network_of, ours, published
from janus_app.models.common.answering import WordRule
from janus_app.models.regression.adapter import Adapter
from janus_app.models.regression.answer import Word, Writing, answer
from janus_app.models.regression.config import PLACE, parse_adapter
from janus_app.models.regression.modeling import reduced
from janus_app.nn.prefill import prefill
from janus_app.types import Turn
from tests.conftest import loaded

GOLDEN = Path(__file__).parent / "golden" / "metamorph"
STORED = load_file(GOLDEN / "golden.safetensors")
TEXTS = {
    "t2i": "Generate an image of a cat",
    "edit": "Make this a rainy day.",
    "vqa": "What is the animal in the image?",
    "two": "Compare the two pictures.",
}
PICTURES = {"t2i": (), "edit": ("image",), "vqa": ("image",), "two": ("image", "image2")}
CASES = tuple(TEXTS)
FEATURES, LOGITS = 1e-5, 5e-4


@cache
def model() -> Any:
    """The tiny checkpoint through the real loader in float32."""
    return loaded(GOLDEN / "checkpoint").model


def close(actual: Tensor, name: str, limit: float = FEATURES) -> None:
    expected = STORED[name]
    assert actual.shape == expected.shape, name
    assert float((actual.detach() - expected).abs().max()) <= limit, name


def picture(name: str) -> Image.Image:
    return Image.fromarray(STORED[f"{name}.rgb_uint8"].numpy())


def ids_of(case: str) -> list[int]:
    return model().prompts.conversation([Turn("user", TEXTS[case], tuple(map(picture, PICTURES[case])))])


def embeds_of(case: str) -> Tensor:
    network = model().network
    pixels = [STORED[f"{name}.pixel_values"] for name in PICTURES[case]]
    with torch.inference_mode():
        return network.prompt_embeds(ids_of(case), network.picture_embeds(torch.cat(pixels)) if pixels else None)


@pytest.mark.parametrize("name", ["image", "image2"])
def test_a_picture_is_resized_and_normalised_as_published(name: str) -> None:
    close(model().pixels(picture(name))[None], f"{name}.pixel_values", 1e-6)


def test_the_tower_is_read_before_its_last_norm() -> None:
    with torch.inference_mode():
        hidden = model().network.tower(STORED["image.pixel_values"])
    close(hidden, "siglip.hidden_last")
    assert float((hidden - STORED["siglip.post_layernorm"]).abs().max()) > 0.1


def test_the_grid_is_reduced_without_antialiasing_and_each_vector_has_length_one() -> None:
    config = model().network.config
    vectors = reduced(STORED["siglip.hidden_last"], config.read, config.reduction)
    close(vectors, "image.features")
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(1, 64))


def test_vectors_become_inputs_of_the_language_model() -> None:
    with torch.inference_mode():
        close(model().network.mm_projector(STORED["image.features"]), "image.projected")
        close(model().network.picture_embeds(STORED["image.pixel_values"]), "image.projected")


@pytest.mark.parametrize("case", CASES)
def test_prompts_have_the_published_ids(case: str) -> None:
    ids, collapsed = ids_of(case), list[int]()
    for id_, before in zip(ids, [None, *ids], strict=False):
        if id_ != PLACE or before != PLACE:
            collapsed.append(-200 if id_ == PLACE else id_)
    assert collapsed == STORED[f"{case}.input_ids"][0].tolist()
    assert ids.count(PLACE) == 64 * len(PICTURES[case])
    written = json.loads((GOLDEN / "prompts.json").read_text("utf-8"))[case]
    assert written["images"] == len(PICTURES[case]) and TEXTS[case] in written["prompt"]


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_logits_of_a_prompt_are_the_published_ones(case: str) -> None:
    embeds, network = embeds_of(case), model().network
    if PICTURES[case]:
        close(embeds[None], f"{case}.inputs_embeds")
    with torch.inference_mode():
        hidden, _ = prefill(network, [embeds], 0)
        close(network.language_model.lm_head(hidden), f"{case}.logits", LOGITS)


@pytest.mark.parametrize("case", CASES)
def test_the_answer_has_the_published_words_and_vectors(case: str) -> None:
    prompts = model().prompts
    rule = WordRule(prompts.ends, prompts.picture_start)
    words, pictures = list[int](), list[Tensor]()
    for part in answer(model().network, embeds_of(case), rule, words=512, room=4096):
        if isinstance(part, Word):
            words.append(part.id)
        elif isinstance(part, Writing) and part.vectors is not None:
            pictures.append(part.vectors)
    expected = [token for token in STORED[f"{case}.generated_ids"].flatten().tolist() if token not in prompts.ends]
    assert words == expected
    if f"{case}.image_embeds" in STORED:
        assert len(pictures) == 1
        close(pictures[0], f"{case}.image_embeds")
    else:
        assert not pictures


def test_a_cache_writes_the_vectors_that_the_published_loop_writes_without_one() -> None:
    network, prompt = network_of(2, 64), torch.randn(5, 64)
    assert float((published(network, prompt) - ours(network, prompt)).abs().max()) < 1e-5


@pytest.mark.parametrize(("layers", "out"), [(2, "adapter.out"), (3, "adapter3.out")])
def test_the_visualiser_s_projector_gives_the_published_conditions(layers: int, out: str) -> None:
    folder = GOLDEN / "visualizer"
    raw = json.loads((folder / f"adapter{layers}_model_config.json").read_text("utf-8"))
    adapter = Adapter(parse_adapter(raw))
    adapter.load_state_dict(load_file(folder / f"adapter{layers}_model_state_dict.safetensors"))
    with torch.inference_mode():
        conditions = adapter(STORED["t2i.image_embeds"][None])
    close(conditions[:, :64], out)
    if layers == 2:
        close(conditions, "adapter.prompt_embeds")


@pytest.mark.parametrize("mode", ["xattn", "xattnffn"])
def test_attending_projectors_equal_pytorch_s_own_attention(mode: str) -> None:
    raw = {"input_dim": 12, "output_dim": 16, "num_tokens": 5, "num_layers": 2, "num_heads": 4, "mode": mode}
    adapter, width = Adapter(parse_adapter(raw)), 16
    torch.manual_seed(0)
    state = {name: torch.randn_like(tensor) * 0.3 for name, tensor in adapter.state_dict().items()}
    adapter.load_state_dict(state)
    vectors = torch.randn(2, 7, 12)
    tokens = state["token_embeddings"].expand(2, -1, -1)

    def part(name: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{name}."): t for n, t in state.items() if n.startswith(f"{name}.")}

    def apply(module: torch.nn.Module, name: str, *inputs: Tensor, **options: Any) -> Any:
        module.load_state_dict(part(name))
        return module.eval()(*inputs, **options)

    seen = apply(torch.nn.Linear(12, width), "proj", vectors)
    seen = apply(torch.nn.LayerNorm(width), "input_norm", seen)
    for number in range(2):
        block = f"cross_attn_layers.{number}"
        attention = torch.nn.MultiheadAttention(width, 4, batch_first=True)
        out, _ = apply(attention, f"{block}.cross_attn", tokens, key=seen, value=seen)
        tokens = apply(torch.nn.LayerNorm(width), f"{block}.norm1", tokens + out)
        if mode == "xattnffn":
            layers = [torch.nn.Linear(width, 4 * width), torch.nn.ReLU(), torch.nn.Linear(4 * width, width)]
            out = apply(torch.nn.Sequential(*layers), f"{block}.ffn", tokens)
            tokens = apply(torch.nn.LayerNorm(width), f"{block}.norm2", tokens + out)
    with torch.inference_mode():
        assert float((adapter(vectors) - tokens).abs().max()) < 1e-5


def test_the_mean_of_a_grid_is_taken_of_equal_squares() -> None:
    config = replace(model().network.config.read, count=4, normalized=False)
    grid = torch.arange(16.0)[None, :, None]
    expected = np.arange(16.0).reshape(2, 2, 2, 2).mean((1, 3)).ravel()
    assert reduced(grid, config, "mean")[0, :, 0].tolist() == expected.tolist()
