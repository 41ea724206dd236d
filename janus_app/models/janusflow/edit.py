"""Editing with a text-to-image flow that was never trained to edit. Latents here are float32 [n, C, h, w].

    image to image   SDEdit (Meng et al. 2022, arXiv 2108.01073): noise the picture part of the way, draw from there
    masked           known latents put back at every step, as in RePaint (Lugmayr et al. 2022, arXiv 2201.09865) and
                     Blended Latent Diffusion (Avrahami et al. 2023, arXiv 2206.02779); at the end the known pixels too
    flowedit         FlowEdit (Kulikov et al. 2024, arXiv 2412.08629): the difference of two prompts' velocities moves
                     the picture, without noising it first and without inversion

Each is an iterator of solver steps, so the drawing loop shows previews and progress and can be cancelled. Randomness
comes from `streams`, one generator for each picture, so picture i of a batch is the one that its seed draws alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from janus_app.errors import Message
from janus_app.nn.diffusion import FlowSchedule, FlowStep, IntervalGuidance, Velocity, integrate_flow

EDIT_METHODS = {
    "flowedit": Message("edit_method_flowedit"),  # its noise is new at every step, so it knows no solver but Euler
    "masked": Message("edit_method_masked"),
    "image to image": Message("edit_method_image_to_image"),
}


def start_noise(streams: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """One normal latent a stream in the shape of `like` [1, C, h, w], drawn on the CPU and brought to its device."""
    return torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in streams]).to(like.device)


def interpolate(clean: Tensor, noise: Tensor, t: float) -> Tensor:
    """The point at time t of the straight line from noise (0) to the picture (1)."""
    return t * clean + (1 - t) * noise


def image_to_image(
    velocity: Velocity,
    clean: Tensor,
    streams: Sequence[torch.Generator],
    schedule: FlowSchedule,
    *,
    solver: str = "euler",
    guidance: IntervalGuidance | None = None,
) -> Iterator[FlowStep]:
    """SDEdit: from the picture `clean` [1, C, h, w], noised to schedule.start, along the prompt's velocity.

    A schedule that starts at 0 ignores the picture and draws from noise alone.
    """
    z = interpolate(clean, start_noise(streams, clean), schedule.start)
    yield from integrate_flow(velocity, z, schedule, solver=solver, guidance=guidance)


def masked(
    velocity: Velocity,
    clean: Tensor,
    free: Tensor,
    streams: Sequence[torch.Generator],
    schedule: FlowSchedule,
    *,
    solver: str = "euler",
    guidance: IntervalGuidance | None = None,
) -> Iterator[FlowStep]:
    """Draw where `free` [h, w] is true; elsewhere the latent is on the line from its noise to `clean` at each step.

    The noise of the known part is that of the start, so its line is the one that rectified flow was trained on. At
    t = 1 the known latents equal `clean` bit for bit.
    """
    noise = start_noise(streams, clean)

    def known(z: Tensor, t: float) -> Tensor:
        return torch.where(free, z, interpolate(clean, noise, t))

    for step in integrate_flow(velocity, noise, schedule, solver=solver, guidance=guidance, after_step=known):
        yield replace(step, predicted=torch.where(free, step.predicted, clean))


def flow_edit(
    target: Velocity,
    source: Velocity,
    clean: Tensor,
    streams: Sequence[torch.Generator],
    schedule: FlowSchedule,
    *,
    guidance: IntervalGuidance | None = None,
    source_guidance: IntervalGuidance | None = None,
    draws: int = 1,
) -> Iterator[FlowStep]:
    """FlowEdit, algorithm 1: from `clean` along dZ/dt = E_N [v_target(Z + S - clean, t) - v_source(S, t)].

    S = t clean + (1 - t) N is the picture noised with fresh N; the mean is over `draws` noises a step. The paper's
    n_max is schedule.count, its n_min is 0; times there run the other way. Z is a picture at every moment, so it is its
    own preview. Each step costs 2 `draws` network evaluations.
    """
    guidance, source_guidance = guidance or IntervalGuidance(), source_guidance or IntervalGuidance()

    def difference(z: Tensor, t: float, _: float) -> Tensor:
        total = torch.zeros_like(z)
        for _draw in range(draws):
            noised = interpolate(clean, start_noise(streams, clean), t)
            total += target(z + noised - clean, t, guidance.at(t)) - source(noised, t, source_guidance.at(t))
        return total / draws

    start = clean.expand(len(streams), -1, -1, -1)
    for step in integrate_flow(difference, start, schedule):
        yield replace(step, predicted=step.latent)
