"""Flow solvers on flows with known exact solutions, and their rounding against the reference implementation's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from janus_app.errors import AppError
from janus_app.nn.diffusion import FlowSchedule, FlowStep, IntervalGuidance, integrate_flow
from janus_app.types import SOLVERS

START = torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]])


def curved(z: Tensor, t: float, weight: float) -> Tensor:
    """dz/dt = z cos(4 t): z(1) = z(0) exp(sin(4) / 4). Double precision, so that the only error is the method's."""
    return z.double() * math.cos(4 * t)


EXACT = START.double() * math.exp(math.sin(4) / 4)


def last(steps: int, solver: str, first: int = 0) -> FlowStep:
    *_, end = integrate_flow(curved, START.double(), FlowSchedule(steps, first), solver=solver)
    return end


def error(steps: int, solver: str) -> float:
    return float((last(steps, solver).latent - EXACT).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver: str, order: int) -> None:
    orders = [math.log2(error(steps, solver) / error(2 * steps, solver)) for steps in (80, 160, 320)]
    assert orders == pytest.approx([order] * 3, abs=0.15)


def test_every_solver_is_exact_on_a_straight_flow() -> None:
    target = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for solver in SOLVERS:
        for steps in (1, 7):
            *_, end = integrate_flow(
                lambda z, t, w: target, torch.zeros_like(target), FlowSchedule(steps), solver=solver
            )
            assert torch.allclose(end.latent, target, atol=1e-12), solver


@pytest.mark.parametrize("steps", [1, 3, 7, 30, 100])
def test_euler_rounds_as_the_reference_implementation(steps: int) -> None:
    """z + dt * v with a float32 tensor dt, and t = step / steps * 1000 before it is rounded once."""
    times: list[float] = []

    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        times.append(t * 1000.0)
        return torch.sin(3 * z) + t

    z = START.clone()
    width = torch.full_like(z, 1.0 / steps)
    for step in range(steps):
        z = z + width * (torch.sin(3 * z) + step / steps)
    *_, end = integrate_flow(velocity, START, FlowSchedule(steps))
    assert torch.equal(end.latent, z) and end.latent.dtype == torch.float32
    assert times == [step / steps * 1000.0 for step in range(steps)]


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 9), ("heun", 17), ("ab2", 9)])
def test_solvers_evaluate_the_network_as_often_as_documented_and_never_at_one(solver: str, evaluations: int) -> None:
    asked: list[float] = []

    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        asked.append(t)
        return z

    list(integrate_flow(velocity, START, FlowSchedule(9), solver=solver))
    assert len(asked) == evaluations and min(asked) == 0 and max(asked) == 8 / 9


def test_steps_report_progress_and_predict_the_end() -> None:
    steps = list(integrate_flow(lambda z, t, w: torch.ones_like(z), torch.zeros(1, 1, 1, 1), FlowSchedule(10, 6)))
    assert [(s.done, s.total) for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [s.t for s in steps] == [0.7, 0.8, 0.9, 1.0]
    assert all(float(s.predicted) == pytest.approx(0.4) for s in steps)
    assert torch.equal(steps[-1].predicted, steps[-1].latent)


def test_steps_are_computed_on_demand_and_closing_stops_them() -> None:
    asked: list[float] = []

    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        asked.append(t)
        return z

    walk = integrate_flow(velocity, START, FlowSchedule(10))
    assert not asked
    next(walk)
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert asked == [0.0, 0.1] and list(walk) == []
    assert not torch.is_inference_mode_enabled()


def test_guidance_is_applied_within_its_interval_only() -> None:
    seen: dict[str, list[float]] = {}
    for solver in SOLVERS:
        weights = seen.setdefault(solver, [])

        def velocity(z: Tensor, t: float, weight: float, weights: list[float] = weights) -> Tensor:
            weights.append(weight)
            return z

        list(
            integrate_flow(velocity, START, FlowSchedule(4), solver=solver, guidance=IntervalGuidance(3.0, (0.25, 0.5)))
        )
    assert seen == {
        "euler": [1, 3, 3, 1],
        "heun": [1, 1, 3, 3, 3, 3, 1],  # both evaluations of a step have the weight of its start
        "ab2": [1, 3, 3, 1],
    }


@pytest.mark.parametrize("solver", ["heun", "ab2"])
def test_second_order_is_kept_across_the_ends_of_the_guidance_interval(solver: str) -> None:
    """v = weight * t: z(1) = (1 + 2 (0.75^2 - 0.25^2)) / 2 with weight 3 from 0.25 to just before 0.75."""

    def velocity(z: Tensor, t: float, weight: float) -> Tensor:
        return torch.full_like(z, weight * t)

    exact = (1 + 2 * (0.75**2 - 0.25**2)) / 2
    found = []
    for steps in (40, 80):
        *_, end = integrate_flow(
            velocity,
            torch.zeros(1, 1, 1, 1, dtype=torch.float64),
            FlowSchedule(steps),
            solver=solver,
            guidance=IntervalGuidance(3.0, (0.25, 0.7499)),
        )
        found.append(abs(float(end.latent) - exact))
    assert found[0] / found[1] == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(
    ("steps", "strength", "first"), [(30, 1.0, 0), (30, 0.5, 15), (30, 0.01, 29), (1, 0.3, 0), (10, 0.66, 3)]
)
def test_strength_is_the_share_of_steps_that_are_run(steps: int, strength: float, first: int) -> None:
    assert FlowSchedule.partial(steps, strength).first == first


def test_after_step_may_change_the_latent() -> None:
    times: list[float] = []

    def pin(z: Tensor, t: float) -> Tensor:
        times.append(t)
        return torch.full_like(z, t)

    *_, end = integrate_flow(lambda z, t, w: z, START, FlowSchedule(4), after_step=pin)
    assert times == [0.25, 0.5, 0.75, 1.0] and torch.equal(end.latent, torch.ones_like(START))


def test_an_unknown_solver_raises_an_error() -> None:
    with pytest.raises(AppError, match="no solver called 'rk4'"):
        next(integrate_flow(curved, START, FlowSchedule(4), solver="rk4"))
