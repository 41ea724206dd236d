"""From noise to a picture's latent: numerical solvers of the flow dz/dt = v(z, t), t from 0 (noise) to 1 (picture).

Rectified flow (Liu et al. 2022, arXiv 2209.03003) trains v on straight lines z = t * picture + (1 - t) * noise, so
dz/dt is picture - noise and z + (1 - t) v is the picture the model expects at any moment.

    solver   order   network evaluations for n steps
    euler    1       n
    heun     2       2 n - 1   (the last step is Euler's: v is hardly trained at t = 1; the order stays 2)
    ab2      2       n         (two-step Adams-Bashforth; the first step is Euler's)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from janus_app.errors import AppError
from janus_app.types import SOLVERS

# (z [n, C, h, w] float32, t in 0..1, guidance weight) -> v like z. Weight 1 needs no unconditional row.
Velocity = Callable[[Tensor, float, float], Tensor]
Change = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Step k of `steps` goes from t = k / steps to (k + 1) / steps; those before `first` are left out.

    The step width is one number, 1 / steps, and times are k / steps in double precision: the reference rounds so too.
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
        """The time of the first step: 0 at noise."""
        return self.time(self.first)

    @property
    def run(self) -> int:
        """How many steps are run."""
        return self.steps - self.first

    @classmethod
    def partial(cls, steps: int, strength: float) -> Schedule:
        """The last `strength` (above 0 to 1) of the way, rounded to whole steps and at least one."""
        return cls(steps, steps - max(1, min(steps, round(steps * strength))))


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance in an interval of the way (Kynkaanniemi et al. 2024, arXiv 2404.07724).

    A step has one weight, that of its start: `weight` where low <= t <= high, else 1 (no guidance, half the work).
    """

    weight: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def at(self, t: float) -> float:
        low, high = self.interval
        return self.weight if low <= t <= high else 1.0


@dataclass(frozen=True)
class Step:
    """After `done` of `total` steps: the latent at time t, and the final one it points to (equal at the end)."""

    done: int
    total: int
    t: float
    latent: Tensor = field(repr=False)
    predicted: Tensor = field(repr=False)


@torch.inference_mode()
def integrate(
    velocity: Velocity,
    z: Tensor,
    schedule: Schedule,
    *,
    solver: str = "euler",
    guidance: Guidance | None = None,
    after: Change | None = None,
) -> Iterator[Step]:
    """Follow the flow from z at schedule.start to t = 1, one Step each; closing the iterator stops the work.

    z float32 [n, C, h, w]. `after` (z, t) -> z may change the latent at the end of every step (masked editing).
    Raises AppError for a solver that is not one of SOLVERS.
    """
    if solver not in SOLVERS:
        raise AppError(f"There is no solver called {solver!r}. Choose one of {', '.join(SOLVERS)}.")
    guidance = guidance or Guidance()
    width = schedule.width
    before: Tensor | None = None  # the last step's velocity, and the weight it was made with
    weight_before = 0.0
    for step in range(schedule.first, schedule.steps):
        t, end = schedule.time(step), schedule.time(step + 1)
        weight = guidance.at(t)
        v = slope = velocity(z, t, weight)
        if solver == "heun" and step + 1 < schedule.steps:
            slope = (v + velocity(z + width * v, end, weight)) / 2
        elif solver == "ab2" and before is not None and weight == weight_before:
            # Where guidance starts or stops v jumps, and a line through both sides of a jump points nowhere.
            slope = 1.5 * v - 0.5 * before
        z = z + width * slope
        if after is not None:
            z = after(z, end)
        before, weight_before = v, weight
        done = step + 1 - schedule.first
        yield Step(done, schedule.run, end, z, z + (1 - end) * slope)
