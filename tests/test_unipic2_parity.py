"""UniPic2 against the published reference: every recorded case and every stage, at the limits of the data's README."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models.common.image_processor import to_pixels
from janus_app.models.common.mllm import ImageFeatures
from janus_app.models.unipic2 import conditioner
from janus_app.models.unipic2 import denoise as denoise_step
from janus_app.models.unipic2.modeling import scheduler
from janus_app.models.unipic2.pipeline import _NEGATIVE_EDIT, resize_longer_side
from janus_app.nn.diffusion import TextImageGuidance, denoise
from janus_app.types import ChatRequest, Finished, GenerateRequest, Turn, drain
from tests.conftest import loaded

GOLDEN = Path(__file__).parent / "golden" / "unipic2"
DRAWINGS = ("t2i", "t2i_wide_neg", "t2i_g1", "t2i_1step", "t2i_50", "t2i_384")
EDITS = ("edit", "edit_resized", "edit_tall_g1", "edit_torchvision")
PIXELS, STATES, LATENTS, FINAL, PICTURE = 1e-6, 2e-5, 2e-5, 1e-4, 1e-4


solver_of = scheduler  # a mistake of test_limits_reveal_a_mistake stands in its place


@cache
def model() -> Any:
    """The tiny checkpoint through the real loader in float32."""
    return loaded(GOLDEN / "ckpt_tiny").model


@cache
def recorded(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8")), load_file(GOLDEN / f"{name}.safetensors")


def relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.detach().float() - expected.float()).abs().max() / expected.float().abs().max())


@contextmanager
def watched(owner: Any, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of the calls of a method."""
    calls: list[tuple[Any, ...]] = []
    method = getattr(owner, name)

    def noted(*given: Any) -> Any:
        calls.append(given)
        return method(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, noted)
        yield calls


def pixels_of(picture: Image.Image) -> Tensor:
    """What the vision tower gets of a picture to change, row by row."""
    with watched(model().reader, "to_device") as calls:
        model().reader.encode_reference(picture)
    pixels: Tensor = calls[0][0]
    return pixels


def texts(meta: dict[str, Any]) -> list[str]:
    """The prompt and the negative text."""
    if meta["kind"] == "t2i":
        return [f"Generate an image: {text or ''}" for text in (meta["prompt"], meta["negative_prompt"])]
    return [meta["prompt"], _NEGATIVE_EDIT if meta["negative_prompt"] is None else meta["negative_prompt"]]


def picture_of(meta: dict[str, Any]) -> Image.Image:
    return resize_longer_side(Image.open(GOLDEN / "images" / meta["image"]).convert("RGB"), meta["image_size"])


def conditions(name: str) -> tuple[Tensor, Tensor]:
    """Captions and pooled ones in the transformer's order of rows, after a look at every stage before them."""
    meta, expected = recorded(name)
    ours, features = model(), list[ImageFeatures]()
    picture = picture_of(meta) if meta["kind"] == "edit" else None
    if picture is not None:
        assert np.array_equal(np.array(picture), expected["resized_u8"].numpy())
        features, pixels = [ours.reader.encode_reference(picture)], pixels_of(picture)
        if meta.get("image_processor_backend") == "torchvision":  # other pixels, so begin behind them
            features = [replace(features[0], features=expected["image_embeds"])]
        elif "pixel_values" in expected:
            assert relative(pixels, expected["pixel_values"]) < PIXELS
        else:
            assert relative(pixels[expected["pixel_rows_index"]], expected["pixel_rows"]) < PIXELS
            assert relative(pixels.mean(1), expected["pixel_row_mean"]) < PIXELS
        assert torch.equal(features[0].grid, expected["image_grid_thw"][0])
        assert relative(features[0].features, expected["image_embeds"]) < STATES
    states = []
    for row, text in enumerate(texts(meta)[: 2 if meta["guidance"] > 1 else 1]):
        ids = ours.prompt_ids(text, picture, features)
        given = expected["attention_mask"][row].bool()
        assert ids == expected["input_ids"][row][given].tolist()
        with watched(ours.reader, "read") as calls:
            states.append(ours.query_states(ids, features))
        count = len(ours.network.conditioner.meta_queries)
        places = expected["position_ids"][row][torch.cat([given, torch.ones(count, dtype=torch.bool)])]
        assert torch.equal(calls[0][1], places.expand(3, 1, -1))
        assert relative(states[-1], expected["query_states"][row]) < STATES
    captions, pooled = ours.condition(torch.stack(states))
    assert relative(captions, expected["prompt_embeds"][: len(states)]) < STATES
    assert relative(pooled, expected["pooled"][: len(states)]) < STATES
    return captions.flip(0), pooled.flip(0)


@pytest.mark.parametrize("name", DRAWINGS + EDITS)
def test_case(name: str) -> None:
    meta, expected = recorded(name)
    ours = model()
    captions, pooled = conditions(name)
    noise = torch.randn(expected["latents_init"].shape, generator=torch.Generator().manual_seed(meta["seed"]))
    assert relative(noise, expected["latents_init"]) < 1e-6
    ours.denoiser.set_conditioning(captions, pooled, reference_latents(name))
    solver = solver_of(ours.folder)
    steps = list(denoise(ours.denoiser, solver, noise, TextImageGuidance(meta["guidance"]), meta["steps"]))
    assert relative(solver.timesteps, expected["timesteps"]) < 1e-6
    assert relative(solver.sigmas, expected["sigmas"]) < 1e-6
    for number in (0, 1) if "velocity_1" in expected else (0,):
        assert relative(steps[number].raw[:, 0], expected[f"velocity_{number}"]) < LATENTS
        assert relative(steps[number].guided, expected[f"guided_{number}"]) < LATENTS
        assert relative(steps[number].latents, expected[f"latents_after_{number}"]) < LATENTS
    assert relative(steps[-1].latents, expected["final_latents"]) < FINAL
    pixels = ours.autoencoder.decode(steps[-1].latents).float() / 2 + 0.5
    if "image" in expected:
        assert (pixels.clamp(0, 1) - expected["image"]).abs().max() < PICTURE
    levels = (pixels[0].clamp(0, 1) * 255).round().permute(1, 2, 0) - expected["image_u8"]
    assert levels.abs().max() <= 1


def swapped_queries(patch: pytest.MonkeyPatch) -> None:
    queries = model().network.conditioner.meta_queries
    patch.setattr(queries, "data", queries.data[[1, 0, *range(2, len(queries))]])


def another_gelu(patch: pytest.MonkeyPatch) -> None:
    exact = torch.nn.functional.gelu
    patch.setattr(conditioner.F, "gelu", lambda x, approximate="none": exact(x))


def one_other_weight(patch: pytest.MonkeyPatch) -> None:
    weight = model().network.conditioner.connector.layers[0].mlp.fc1.weight
    changed = weight.data.clone()
    changed[0, 0] += 1e-2
    patch.setattr(weight, "data", changed)


def swapped_rows(patch: pytest.MonkeyPatch) -> None:
    condition = model().condition
    patch.setattr(model(), "condition", lambda states: tuple(rows.flip(0) for rows in condition(states)))


def mean_in_place_of_a_sample(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model(), "reference", lambda mean, deviation, noise: model().autoencoder.normalize(mean))


def no_shift(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model().autoencoder, "_shift", 0.0)


def other_positions(patch: pytest.MonkeyPatch, place: Callable[[list[int], list[ImageFeatures], int], Tensor]) -> None:
    """Read the queries at the positions [3, 1, T] that `place` gives for ids, pictures and a number of queries."""
    reader = model().reader

    def read_queries(ids: list[int], features: list[ImageFeatures], queries: Tensor) -> Tensor:
        embeds = torch.cat([reader.embed(ids, features), queries[None]], dim=1)
        hidden: Tensor = reader.read(embeds, place(ids, features, len(queries)))
        return hidden[0, -len(queries) :]

    patch.setattr(reader, "read_queries", read_queries)


def positions_of_a_conversation(patch: pytest.MonkeyPatch) -> None:
    def place(ids: list[int], features: list[ImageFeatures], count: int) -> Tensor:
        placed = model().reader.positions(ids, features)
        behind = torch.arange(len(ids), len(ids) + count) + placed.offset
        return torch.cat([placed.positions, behind.expand(3, 1, -1)], dim=-1)

    other_positions(patch, place)


def gap_where_the_padding_was(patch: pytest.MonkeyPatch) -> None:
    def place(ids: list[int], features: list[ImageFeatures], count: int) -> Tensor:
        longest = recorded("edit")[1]["input_ids"].shape[1]
        return torch.cat([torch.arange(len(ids)), torch.arange(longest, longest + count)]).expand(3, 1, -1)

    other_positions(patch, place)


def causal_connector(patch: pytest.MonkeyPatch) -> None:
    attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
    functions = {"gelu": torch.nn.functional.gelu, "scaled_dot_product_attention": attention}
    patch.setattr(conditioner, "F", SimpleNamespace(**functions))


def wrong_half_read_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(denoise_step, "torch", SimpleNamespace(cat=lambda parts, dim: torch.cat(parts[::-1], dim)))


def positions_from_the_corner(patch: pytest.MonkeyPatch) -> None:
    embed = model().network.transformer.pos_embed

    def corner(height: int, width: int) -> Tensor:
        table = embed.pos_embed.view(embed.pos_embed_max_size, embed.pos_embed_max_size, -1)
        part: Tensor = table[: height // embed.patch_size, : width // embed.patch_size].flatten(0, 1)[None]
        return part

    patch.setattr(embed, "cropped_pos_embed", corner)


def positions_computed_anew(patch: pytest.MonkeyPatch) -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    embed, config = model().network.transformer.pos_embed, model().network.transformer.config
    side, base = embed.pos_embed_max_size, config.sample_size // config.patch_size
    table = get_2d_sincos_pos_embed(embed.pos_embed.shape[-1], side, base_size=base, output_type="pt")
    patch.setattr(embed.pos_embed, "data", table.float()[None])


def no_second_attention(patch: pytest.MonkeyPatch) -> None:
    for block in model().network.transformer.transformer_blocks:
        if block.use_dual_attention:
            for part in block.attn2.to_out[0].parameters():
                patch.setattr(part, "data", torch.zeros_like(part))


def sigmas_that_end_before_zero(patch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> Any:
        solver = scheduler(folder)
        set_timesteps = solver.set_timesteps
        solver.set_timesteps = lambda steps, **named: set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), **named)
        return solver

    patch.setattr("tests.test_unipic2_parity.solver_of", other)


def time_from_one_to_zero(patch: pytest.MonkeyPatch) -> None:
    projection = model().network.transformer.time_text_embed.time_proj
    forward = projection.forward
    patch.setattr(projection, "forward", lambda time: forward(time / 1000))


# The negative controls of the data's README.
MISTAKES = [
    positions_of_a_conversation, gap_where_the_padding_was, causal_connector, swapped_queries, swapped_rows,
    wrong_half_read_out, positions_from_the_corner, positions_computed_anew, no_second_attention,
    mean_in_place_of_a_sample, no_shift, sigmas_that_end_before_zero, time_from_one_to_zero, another_gelu,
    one_other_weight,
]  # fmt: skip


@pytest.mark.parametrize("make", MISTAKES)
def test_limits_reveal_a_mistake(make: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    make(monkeypatch)
    with pytest.raises(AssertionError):
        test_case("edit")


def reference_latents(name: str) -> Tensor | None:
    """Latents of the picture to change, with the recorded noise in place of the request's."""
    meta, expected = recorded(name)
    if meta["kind"] == "t2i":
        return None
    ours = model()
    mean, deviation = ours.autoencoder.moments(to_pixels(picture_of(meta))[None])
    assert relative(mean, expected["vae_mean"]) < 1e-5
    assert relative(deviation, expected["vae_std"]) < 1e-5
    latents = ours.reference(mean, deviation, expected["vae_noise"])
    assert relative(latents, expected["image_latents"]) < 1e-5
    return latents


@pytest.mark.parametrize("name", ["t2i", "t2i_wide_neg", "t2i_1step"])
def test_the_request_draws_the_recorded_picture(name: str) -> None:
    meta, expected = recorded(name)
    request = GenerateRequest(
        meta["prompt"],
        negative=meta["negative_prompt"] or "",
        guidance=meta["guidance"],
        seed=meta["seed"],
        steps=meta["steps"],
        size=(meta["width"], meta["height"]),
    )
    finished = drain(model().generate(request))
    assert isinstance(finished, Finished)
    levels = np.array(finished.pictures[0].image).astype(int) - expected["image_u8"].numpy().astype(int)
    assert abs(levels).max() <= 1


def test_sizes_of_edits_match_the_table() -> None:
    rows = json.loads((GOLDEN / "sizes.json").read_text("utf-8"))["rows"]
    for row in rows:
        if "error" in row:
            with pytest.raises(AppError, match="too long and narrow"):
                resize_longer_side(Image.new("RGB", (row["w"], row["h"])), row["image_size"])
            continue
        made = resize_longer_side(Image.new("RGB", (row["w"], row["h"])), row["image_size"])
        assert made.size == (row["out_w"], row["out_h"])


def test_chat_answers_the_recorded_words() -> None:
    meta, expected = recorded("chat")
    picture = Image.open(GOLDEN / "images" / meta["image"])
    ours = model()
    features = [ours.reader.encode_image(picture, framed=False)]
    turn = Turn("user", meta["prompt"], (picture,))
    ids = ours.reader.tokenizer.encode(ours.template.pieces([turn], [len(features[0].features)]), begin=False)
    assert ids == expected["input_ids"][0].tolist()
    placed = ours.reader.positions(ids, features)
    assert torch.equal(placed.positions, expected["position_ids3"][1:])
    with torch.inference_mode():
        hidden = ours.reader.read(ours.reader.embed(ids, features), placed.positions)
        logits = torch.nn.functional.linear(hidden[:, -1], ours.network.head)
    assert relative(logits, expected["first_logits"]) < STATES
    finished = drain(ours.chat(ChatRequest((turn,), temperature=0, max_new_tokens=2)))
    assert isinstance(finished, Finished) and finished.token_ids[0] == int(expected["generated_ids"][0, 0])


def test_connector_norms_have_the_epsilon_of_the_published_code() -> None:
    norms = [module for module in model().network.conditioner.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 6 and {norm.eps for norm in norms} == {1e-6}
