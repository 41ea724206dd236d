"""Pisces in this project's own layout: a tiny random checkpoint, its two kinds of vectors, and guidance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from janus_app.errors import AppError
from janus_app.models.registry import detect_family
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import variant_of_folder
from janus_app.runtime.fit import plan_load
from janus_app.types import ChatRequest, EditRequest, Finished, GenerateRequest, Turn, drain
from tests.conftest import loaded
from tests.test_metamorph_parity import picture
from tests.tiny_pisces import BASE, SDXL, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pisces"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return loaded(folder).model


def finish(events: Any) -> Finished:
    last = drain(events)
    assert isinstance(last, Finished)
    return last


def test_it_chats_draws_and_does_not_claim_to_edit(model: Any, folder: Path) -> None:
    assert model.capabilities.verbs == {"chat", "generate"} and not model.capabilities.edit_methods
    drawn = finish(model.generate(GenerateRequest("a cat", steps=2))).pictures[0]
    assert drawn.vectors is not None and len(drawn.vectors.rows) == 4 and drawn.vectors.width == 12
    assert any(abs(sum(x * x for x in row) - 1) > 0.01 for row in drawn.vectors.rows)  # not normalised
    model.chat_settings = (5.0, 1)
    asked = ChatRequest((Turn("user", "What is it?", (picture("image"),)),), temperature=0, max_new_tokens=1)
    assert len(finish(model.chat(asked)).pictures) == 1
    with pytest.raises(AppError) as refused:
        finish(model.edit(EditRequest("make it blue", picture("image"), method="instruct")))
    assert refused.value.code == "edit_method_unknown"
    variant = variant_of_folder(folder)
    assert (variant.size, variant.settings["guidance"].default, variant.context) == ((16, 16), 5.0, 256)


def test_seen_and_written_vectors_have_projections_of_their_own(model: Any) -> None:
    network = model.network
    assert network.mm_projector[0].in_features == 16 and network.write_projector[0].in_features == 12
    with torch.inference_mode():
        pixels = model.pixels(picture("image"))[None]
        assert network.features(pixels).shape == (1, 16, 16) and network.picture_embeds(pixels).shape == (1, 16, 32)


def test_guidance_leads_away_from_an_empty_caption_as_stable_diffusion_xl_does(model: Any, folder: Path) -> None:
    base, network = folder.parent / "components" / BASE, model.network
    drawn = finish(model.generate(GenerateRequest("a cat", steps=3, guidance=5.0, seed=4))).pictures[0]
    assert drawn.vectors is not None
    vectors = torch.tensor([drawn.vectors.rows])
    nothing = model._unconditional(5.0)[None]
    assert model._unconditional(1.0) is None and float((nothing - vectors).abs().max()) > 1e-4
    pipe = StableDiffusionXLPipeline(
        AutoencoderKL.from_pretrained(base / "vae"),
        *[None] * 4,
        network.unet,
        EulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler"),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 8, 8, generator=torch.Generator("cpu").manual_seed(4))[None]
    fresh = UNet2DConditionModel.from_config(SDXL)
    fresh.load_state_dict(network.unet.state_dict())  # the app's own attention keeps its conditions
    pipe.unet = fresh
    adapter = network.adapter
    with torch.inference_mode():
        theirs = pipe(
            prompt_embeds=adapter(vectors),
            negative_prompt_embeds=adapter(nothing),
            pooled_prompt_embeds=adapter.pooled(vectors),
            negative_pooled_prompt_embeds=adapter.pooled(nothing),
            latents=noise,
            num_inference_steps=3,
            guidance_scale=5.0,
            output_type="np",
        ).images[0]
    levels = torch.from_numpy(theirs * 255).round().flatten()
    assert float((torch.tensor(list(drawn.image.tobytes())) - levels).abs().max()) <= 1


@pytest.mark.parametrize(
    ("name", "parameters", "unet"),
    [("metamorph-8b", 9_399_219_403, 859_520_964), ("pisces-8b", 11_127_088_011, 2_567_463_684)],
)
def test_the_real_sizes_are_built_without_memory(name: str, parameters: int, unet: int) -> None:
    config = json.loads((ASSETS / "checkpoints" / f"{name}.json").read_text("utf-8"))["config"]
    network = detect_family(config).meta_network(config)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == parameters
    assert sum(tensor.numel() for tensor in network.unet.state_dict().values()) == unet


def test_the_fit_advisor_knows_the_size_before_any_file_is_there() -> None:
    variant = load_catalog()["metamorph-8b"]
    need = {precision: plan_load(variant, None, "cpu").plan(precision).need for precision in ("bf16", "nf4")}
    # The picture decoder is in bfloat16 too where the processor multiplies that.
    assert need["bf16"].weights in (18_897_419_204, 18_798_438_806) and need["nf4"].weights < need["bf16"].weights
    assert need["bf16"].work > 0
