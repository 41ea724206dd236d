"""Diffusion and flow models, apart from the network: schedules, guidance, and the loops from noise to a latent.

    integrate_flow   for a velocity field: solvers of dz/dt = v(z, t), t from 0 (noise) to 1 (picture)
    denoise          for any network with a scheduler in diffusers' interface

Rectified flow (Liu et al. 2022, arXiv 2209.03003) trains v on straight lines z = t * picture + (1 - t) * noise, so
dz/dt is picture - noise, and z + (1 - t) v is the picture the model predicts at any time t.

    solver   order   network evaluations for n steps
    euler    1       n
    heun     2       2 n - 1   (the last step is Euler's: v is hardly trained at t = 1; the order stays 2)
    ab2      2       n         (two-step Adams-Bashforth; the first step is Euler's)

Both loops are generators of one step each; closing the generator stops the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from janus_app.errors import AppError
from janus_app.types import SOLVERS

# (z [n, C, h, w] float32, t in 0..1, guidance weight) -> v like z. With weight 1 there is no unconditional row.
Velocity = Callable[[Tensor, float, float], Tensor]
ChangeLatent = Callable[[Tensor, float], Tensor]  # (z, t) -> z
# (latents [n, C, h, w], time) -> outputs [guidance rows, n, C, h, w]
DenoisingNetwork = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowSchedule:
    """Step k of `steps` goes from t = k / steps to (k + 1) / steps; the steps before `first` are skipped.

    The width of all steps is one number, 1 / steps, and times are k / steps in double precision, because the reference
    implementations round in this way.
    """

    steps: int
    first: int = 0

    def time(self, step: int) -> float:
        return step / self.steps

    @property
    def width(self) -> float:
        return 1 / self.steps

    @property
    def start(self) -> float:
        """The time of the first step that is run; 0 is pure noise."""
        return self.time(self.first)

    @property
    def count(self) -> int:
        """How many steps are run."""
        return self.steps - self.first

    @classmethod
    def partial(cls, steps: int, strength: float) -> FlowSchedule:
        """The last `strength` (above 0 to 1) of the way, rounded to whole steps and at least one."""
        return cls(steps, steps - max(1, min(steps, round(steps * strength))))


@dataclass(frozen=True)
class IntervalGuidance:
    """Classifier-free guidance in an interval of time (Kynkaanniemi et al. 2024, arXiv 2404.07724, section 3).

    Every step has one weight, that of its start: `weight` where low <= t <= high, else 1 (no guidance, half the work).
    """

    weight: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def at(self, t: float) -> float:
        low, high = self.interval
        return self.weight if low <= t <= high else 1.0


@dataclass(frozen=True)
class FlowStep:
    """After `done` of `total` steps: the latent at time t, and the final one it predicts (equal at the end)."""

    done: int
    total: int
    t: float
    latent: Tensor = field(repr=False)
    predicted: Tensor = field(repr=False)


@torch.inference_mode()
def integrate_flow(
    velocity: Velocity,
    z: Tensor,
    schedule: FlowSchedule,
    *,
    solver: str = "euler",
    guidance: IntervalGuidance | None = None,
    after_step: ChangeLatent | None = None,
) -> Iterator[FlowStep]:
    """Follow the flow from z [n, C, h, w] float32 at schedule.start to t = 1; yields every step.

    `after_step` may change the latent at the end of every step (masked editing). Raises AppError for a solver that is
    not one of SOLVERS.
    """
    if solver not in SOLVERS:
        raise AppError("solver_unknown", given=solver, known=", ".join(SOLVERS))
    guidance = guidance or IntervalGuidance()
    width = schedule.width
    previous: Tensor | None = None  # the velocity of the step before, and the weight it was computed with
    previous_weight = 0.0
    for step in range(schedule.first, schedule.steps):
        t, end = schedule.time(step), schedule.time(step + 1)
        weight = guidance.at(t)
        v = slope = velocity(z, t, weight)
        if solver == "heun" and step + 1 < schedule.steps:
            slope = (v + velocity(z + width * v, end, weight)) / 2
        elif solver == "ab2" and previous is not None and weight == previous_weight:
            # Where guidance starts or stops, v jumps, and an extrapolation across the jump would be wrong.
            slope = 1.5 * v - 0.5 * previous
        z = z + width * slope
        if after_step is not None:
            z = after_step(z, end)
        previous, previous_weight = v, weight
        done = step + 1 - schedule.first
        yield FlowStep(done, schedule.count, end, z, z + (1 - end) * slope)


@dataclass(frozen=True)
class TextImageGuidance:
    """Guidance weights of the text (Ho and Salimans 2022) and of input pictures (InstructPix2Pix, section 3.2.1)."""

    text: float
    image: float = 1.0

    @property
    def uses_image(self) -> bool:
        """Whether input pictures need a row of their own; up to 1 they do not, as in the reference."""
        return self.image > 1

    def mix(self, rows: Tensor) -> Tensor:
        """Outputs [rows, ...] to [...]. The rows are: caption; or negative, caption; or unconditional, pictures with
        negative, pictures with caption."""
        *others, caption = rows
        if not others:
            return caption
        negative = others[-1]
        # The order of operations is the published one, because of its rounding.
        start = negative if len(others) == 1 else others[0] + self.image * (negative - others[0])
        return start + self.text * (caption - negative)


@dataclass(frozen=True)
class DenoiseStep:
    """After a step: its latents, the final ones they predict, and the network's outputs before and after guidance."""

    latents: Tensor
    predicted: Tensor
    raw: Tensor
    guided: Tensor


# (a step, the time of the next one or None behind the last) -> the step
ChangeNoised = Callable[[DenoiseStep, Tensor | None], DenoiseStep]


def denoise(
    network: DenoisingNetwork,
    scheduler: Any,
    noise: Tensor,
    guidance: TextImageGuidance,
    steps: int,
    *,
    first: int = 0,
    streams: Sequence[torch.Generator] = (),
    after_step: ChangeNoised | None = None,
) -> Iterator[DenoiseStep]:
    """From noise [n, C, h, w] float32 to latents; yields every step.

    scheduler is a new scheduler of diffusers. `evaluations` says how many steps it makes of `steps`. The steps before
    `first` are skipped: `noise` is then a noised picture. streams: one generator a picture, for a scheduler that adds
    noise in every step. `after_step` may change the latents at the end of every step (masked editing).
    """
    scheduler.set_timesteps(steps)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    times = scheduler.timesteps
    for number in range(first, len(times)):
        step = _denoise_step(network, scheduler, latents, guidance, times[number], streams)
        if after_step is not None:
            step = after_step(step, times[number + 1] if number + 1 < len(times) else None)
        latents = step.latents
        yield step


@torch.inference_mode()
def _denoise_step(
    network: DenoisingNetwork,
    scheduler: Any,
    latents: Tensor,
    guidance: TextImageGuidance,
    time: Tensor,
    streams: Sequence[torch.Generator],
) -> DenoiseStep:
    scaled = scheduler.scale_model_input(latents, time) if hasattr(scheduler, "scale_model_input") else latents
    raw = network(scaled, time)
    guided = guidance.mix(raw)
    stepped = scheduler.step(guided, time, latents, **({"generator": list(streams)} if streams else {}))
    after = stepped.prev_sample
    if hasattr(scheduler, "model_outputs"):
        return DenoiseStep(after, scheduler.model_outputs[-1], raw, guided)
    if getattr(stepped, "pred_original_sample", None) is not None:
        return DenoiseStep(after, stepped.pred_original_sample, raw, guided)
    if hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[scheduler.step_index - 1]  # the share of noise before the step
        return DenoiseStep(after, latents - sigma * guided, raw, guided)
    return DenoiseStep(after, _clean(scheduler, latents, guided, time), raw, guided)


def _clean(scheduler: Any, latents: Tensor, output: Tensor, time: Tensor) -> Tensor:
    """The final latents that an output predicts, where the scheduler does not say (Ho et al. 2020, eq. 15)."""
    kept = scheduler.alphas_cumprod[int(time)].to(latents.device)
    signal, noise = kept.sqrt(), (1 - kept).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return signal * latents - noise * output
    if scheduler.config.prediction_type == "sample":
        return output
    return (latents - noise * output) / signal


def evaluations(scheduler: Any, steps: int) -> int:
    """How many steps `denoise` makes of `steps`: some solvers begin with more than one at the same time."""
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)
