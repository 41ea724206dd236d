"""MetaQuery against the reference, every recorded case and every stage, at the limits of the data's README.

The tiny checkpoints go through the real loader. Rows and prompts are read one by one here and as a padded batch
there, pictures once here and once per row there: the numbers must not tell.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from janus_app.models.metaquery.modeling import scheduler
from janus_app.nn.diffusion import TextImageGuidance, denoise
from janus_app.types import result_of
from tests.metaquery_golden import CASES, Case, model, relative

STATES, LATENTS, PICTURES, PIXELS = 2e-5, 5e-4, 2e-3, 1e-6


def test_golden_cases_are_complete() -> None:
    kinds = {name.split(".")[1] for name in CASES}
    assert kinds >= {"t2i", "t2i_30", "t2i_long", "t2i_batch2", "edit", "edit_n2", "edit_igs1", "multi_image"}
    assert {name.split(".")[0] for name in CASES} == {"llavaov_sana", "llavaov_sd15", "qwen25vl_sana"}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = Case(name)
    ours = model(case.checkpoint)
    for prompt, (caption, pictures) in enumerate(zip(case.captions, case.pictures, strict=True)):
        caption, cut = ours.conditioner.truncate(caption)
        assert cut == name.endswith("long")
        if "input_ids" in case.expected:
            check_prompt(ours, case, prompt, caption)
        guidance = TextImageGuidance(case.meta["gs"], case.meta["igs"])
        conditions = result_of(ours.conditioner.guidance_rows(caption, case.meta["neg"], pictures, guidance))
        skipped = case.rows - len(conditions)  # a weight of 1 needs no negative row; the reference computes it
        assert skipped == (1 if name.endswith("1step") else 0)
        if "prompt_embeds" in case.expected:
            expected = case.of_prompt("prompt_embeds", prompt)
            for result in range(case.meta["n"]):
                assert relative(conditions, expected[skipped:, result]) < STATES
        check_drawing(ours, case, prompt, conditions, guidance, skipped)


@torch.inference_mode()
def check_prompt(ours: Any, case: Case, prompt: int, caption: str) -> None:
    """Pixels, ids and query states of the row that holds caption and pictures."""
    pictures = case.pictures[prompt]
    seen = [ours.reader.encode_image(one, framed=True) for one in pictures]
    ids = ours.conditioner.prompt_ids(caption, pictures, seen)
    mask = case.of_prompt("attention_mask", prompt)[-1, 0].bool()
    assert ids == case.of_prompt("input_ids", prompt)[-1, 0][mask].tolist()
    assert relative(ours.conditioner.query_states(ids, seen), case.of_prompt("query_hidden", prompt)[-1, 0]) < STATES
    for number, one in enumerate(pictures):
        batch = ours.reader.processor([ours.reader._frame(one.convert("RGB"))], return_tensors="pt")
        place = (case.rows - 1) * len(pictures) + number
        if "image_sizes" in case.expected:
            assert torch.equal(batch["image_sizes"][0], case.expected["image_sizes"][place])
            expected = case.expected["pixel_values"][place]
            assert (batch["pixel_values"][0][..., ::7, ::5] - expected).abs().max() < PIXELS
        else:
            grids = case.expected["image_grid_thw"]
            assert torch.equal(batch["image_grid_thw"][0], grids[place])
            check_patches(case, batch["pixel_values"], int(grids[:place].prod(-1).sum()))


def check_patches(case: Case, patches: Tensor, start: int) -> None:
    """The mean of every flattened patch of a picture, and some patches in full."""
    means = case.expected["pixel_row_mean"][start : start + len(patches)]
    assert (patches.mean(-1) - means).abs().max() < PIXELS
    for row, expected in zip(
        case.expected.get("pixel_rows_index", ()), case.expected.get("pixel_rows", ()), strict=True
    ):
        if start <= row < start + len(patches):
            assert (patches[row - start] - expected).abs().max() < PIXELS


def check_drawing(
    ours: Any, case: Case, prompt: int, conditions: Tensor, guidance: TextImageGuidance, skipped: int
) -> None:
    n = case.meta["n"]
    noise = case.noise(ours)[prompt * n : (prompt + 1) * n]
    solver: Any = scheduler(ours.network.config, ours._components)
    ours.denoiser.set_conditioning(conditions)
    steps = list(denoise(ours.denoiser, solver, noise, guidance, case.meta["steps"]))
    if "timesteps" in case.expected:
        assert torch.equal(solver.timesteps, case.expected["timesteps"])
        torch.testing.assert_close(solver.sigmas, case.expected["sigmas"], rtol=1e-6, atol=0)  # libm differs
    if "denoiser_raw_0" in case.expected:
        expected = case.of_prompt("denoiser_raw_0", prompt)
        assert relative(steps[0].raw, expected[skipped:]) < STATES
    latents = steps[-1].latents
    assert relative(latents, case.of_results("final_latents", prompt)) < LATENTS
    pixels = (ours._decode(latents) / 2 + 0.5).clamp(0, 1)[..., ::2, ::2]
    if "image" in case.expected:
        assert (pixels - case.of_results("image", prompt)).abs().max() < PICTURES
    else:
        levels = (pixels * 255).round() - case.of_results("image_u8", prompt).float()
        assert levels.abs().max() <= 1
