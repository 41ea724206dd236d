"""Editing methods on a flow with a known solution: Gaussian pictures, whose best velocity is a formula.

For pictures x ~ N(mu, s^2) the velocity E[x - noise | z] is mu + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (z - t mu).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models.common.image_processor import masked_cells, paste_back
from janus_app.models.janusflow.edit import flow_edit, image_to_image, masked, start_noise
from janus_app.nn.diffusion import FlowSchedule, FlowStep, IntervalGuidance, Velocity, integrate_flow
from janus_app.nn.sampling import generators

SPREAD = 0.2
CLEAN = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(99))


def pictures_around(mu: float) -> Velocity:
    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        slope = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
        return weight * mu + slope * (z - t * weight * mu)

    return velocity


def final(steps: Iterator[FlowStep]) -> Tensor:
    *_, end = steps
    return end.latent


def test_start_noise_depends_on_the_seed_alone() -> None:
    three = start_noise(generators(7, 3), CLEAN)
    for i in range(3):
        assert torch.equal(three[i : i + 1], start_noise(generators(7 + i, 1), CLEAN))


def test_image_to_image_with_full_strength_is_a_drawing_from_noise() -> None:
    flow = pictures_around(2.0)
    drawn = final(integrate_flow(flow, start_noise(generators(5, 2), CLEAN), FlowSchedule(20)))
    assert torch.equal(final(image_to_image(flow, CLEAN, generators(5, 2), FlowSchedule.partial(20, 1.0))), drawn)


def test_image_to_image_moves_further_with_strength() -> None:
    flow = pictures_around(2.0)
    moved = [
        float((final(image_to_image(flow, CLEAN, generators(5, 1), FlowSchedule.partial(20, s))) - CLEAN).norm())
        for s in (0.1, 0.4, 0.7, 1.0)
    ]
    assert moved == sorted(moved) and moved[0] < moved[-1] / 4
    all_of_it = final(image_to_image(flow, CLEAN, generators(5, 1), FlowSchedule(20)))
    assert float(all_of_it.mean()) == pytest.approx(2.0, abs=0.1), "the prompt's pictures are around 2"


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_masked_keeps_known_latents_bit_for_bit_and_draws_the_rest(solver: str) -> None:
    free = torch.zeros(6, 6, dtype=torch.bool)
    free[2:4, 1:5] = True
    seen: list[Tensor] = []

    def flow(z: Tensor, t: float, weight: float) -> Tensor:
        seen.append(z)
        return pictures_around(3.0)(z, t, weight)

    steps = list(masked(flow, CLEAN, free, generators(1, 2), FlowSchedule(16), solver=solver))
    for picture in steps[-1].latent:
        assert torch.equal(picture[:, ~free], CLEAN[0][:, ~free])
        assert float(picture[:, free].mean()) == pytest.approx(3.0, abs=0.15)
    assert not torch.equal(steps[-1].latent[0][:, free], steps[-1].latent[1][:, free])
    for step in steps:
        assert torch.equal(step.predicted[0][:, ~free], CLEAN[0][:, ~free]), "a preview shows the known part as it is"
    # What the network sees of the known part at a step's start is the picture noised to that time, never the clean one.
    noise = start_noise(generators(1, 2), CLEAN)
    if solver != "heun":
        assert torch.allclose(seen[8][:, :, ~free], (0.5 * CLEAN + 0.5 * noise)[:, :, ~free])


def test_a_mask_over_everything_is_a_drawing_from_noise() -> None:
    everything = torch.ones(6, 6, dtype=torch.bool)
    flow = pictures_around(1.0)
    drawn = final(integrate_flow(flow, start_noise(generators(5, 1), CLEAN), FlowSchedule(8)))
    assert torch.equal(final(masked(flow, CLEAN, everything, generators(5, 1), FlowSchedule(8))), drawn)


def test_flowedit_moves_the_picture_by_the_difference_of_the_velocities() -> None:
    """For two Gaussians of one spread the exact answer is clean + (mu_target - mu_source), whatever the noise."""
    for steps, draws in ((4, 1), (25, 3)):
        found = final(
            flow_edit(
                pictures_around(3.0), pictures_around(1.0), CLEAN, generators(8, 2), FlowSchedule(steps), draws=draws
            )
        )
        assert torch.allclose(found, CLEAN + 2.0, atol=1e-4)


def test_flowedit_with_equal_prompts_changes_nothing() -> None:
    same = pictures_around(1.0)
    for step in flow_edit(same, same, CLEAN, generators(8, 1), FlowSchedule.partial(12, 0.7)):
        assert torch.allclose(step.latent, CLEAN, atol=1e-5)
        assert torch.equal(step.predicted, step.latent), "a picture at every moment is its own preview"


def test_flowedit_guides_each_prompt_by_its_own_weight() -> None:
    """With weights 2 and 0.5 the means are 6 and 0.5, so the picture moves by 5.5."""
    found = final(
        flow_edit(
            pictures_around(3.0),
            pictures_around(1.0),
            CLEAN,
            generators(8, 1),
            FlowSchedule(10),
            guidance=IntervalGuidance(2.0),
            source_guidance=IntervalGuidance(0.5),
        )
    )
    assert torch.allclose(found, CLEAN + 5.5, atol=1e-3)


def test_flowedit_moves_less_with_less_strength() -> None:
    moved = [
        float(
            (
                final(
                    flow_edit(
                        pictures_around(3.0),
                        pictures_around(1.0),
                        CLEAN,
                        generators(8, 1),
                        FlowSchedule.partial(20, strength),
                    )
                )
                - CLEAN
            ).mean()
        )
        for strength in (0.1, 0.5, 1.0)
    ]
    assert 0 < moved[0] < moved[1] < moved[2] == pytest.approx(2.0, abs=1e-4)


def test_more_draws_mean_less_noise_and_more_evaluations() -> None:
    asked: list[float] = []

    def narrow(z: Tensor, t: float, weight: float) -> Tensor:
        asked.append(t)
        return 1.0 - z * (1 - t)  # another slope than the source's, so that the noise does not cancel

    def spread(draws: int) -> float:
        ends = final(flow_edit(narrow, pictures_around(1.0), CLEAN, generators(0, 16), FlowSchedule(5), draws=draws))
        return float(ends.std(0).mean())

    assert spread(16) < spread(1) / 2
    assert len(asked) == 5 * 17


@pytest.mark.parametrize("method", ["image", "masked", "flowedit"])
def test_picture_of_a_batch_equals_the_one_drawn_alone(method: str) -> None:
    """Bit for bit here, because this flow works on each number by itself."""
    flow, other = pictures_around(2.0), pictures_around(-1.0)

    def run(seed: int, count: int) -> Tensor:
        streams = generators(seed, count)
        if method == "image":
            return final(image_to_image(flow, CLEAN, streams, FlowSchedule(10, 4)))
        if method == "masked":
            return final(masked(flow, CLEAN, CLEAN[0, 0] > 0, streams, FlowSchedule(10)))
        return final(flow_edit(flow, lambda z, t, w: z.tanh() - other(z, t, w), CLEAN, streams, FlowSchedule(10, 4)))

    batch = run(40, 3)
    for i in range(3):
        assert torch.equal(batch[i], run(40 + i, 1)[0])
    assert not torch.equal(batch[0], batch[1])


def test_paste_back_restores_unpainted_pixels_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    original, drawn = (Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(2))
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (5, 9, 20, 31))
    result = np.asarray(paste_back(drawn, original, mask))
    painted = np.asarray(mask) > 0
    assert np.array_equal(result[painted], np.asarray(drawn)[painted])
    assert np.array_equal(result[~painted], np.asarray(original)[~painted])


def test_a_latent_is_free_where_any_of_its_pixels_is_painted() -> None:
    mask = Image.new("L", (48, 48), 0)
    mask.putpixel((15, 8), 255)  # x 15 lies in column 1, y 8 in row 1
    free = masked_cells(mask, 6).view(6, 6)
    assert free.nonzero().tolist() == [[1, 1]]
    with pytest.raises(AppError, match="covers nothing"):
        masked_cells(Image.new("L", (48, 48), 100), 6)
