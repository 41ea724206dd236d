"""The loop that all trainers share."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from training import (
    flow,
    flow_vae,
    joint,
    metaquery,
    metaquery_vae,
    mixed_diffusion,
    picture_tokenizer,
    planner,
    regression,
    regression_paint,
    trainer,
)
from training.optim import optimisers
from training.trainer import Run, load_state, options_parser


@pytest.fixture(autouse=True)
def clock_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at it is a second later, so that a run of no time ends after one step."""
    seconds = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(time=lambda: float(next(seconds))))


REQUIRED = {flow: ["--joint", "x"], metaquery: ["--stage", "read"]}


def run_of(model: nn.Module, *arguments: str, lr: float = 1e-2) -> Run:
    args = options_parser("", minutes=1e-9, lr=lr, decay=0.5).parse_args(["--out", "unused", *arguments])
    return Run(args, optimisers(model, lambda name, p: p.ndim == 2, args.lr, 0.5 * args.lr))


def train_one_step(run: Run, model: nn.Module, file: Path) -> None:
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        model(torch.ones(1, 4)).sum().backward()


def test_resumed_run_continues_the_step_with_its_own_learning_rates(tmp_path: Path) -> None:
    model, file = nn.Linear(4, 4), tmp_path / "deep" / "state.pt"
    train_one_step(run_of(model), model, file)
    state = load_state(file)
    assert state["step"] == 1 and torch.equal(state["model"]["weight"], model.weight)
    again = run_of(model, lr=3e-2)
    again.resume(state)
    assert again.step == 1 and again.optimisers[0].state, "the momentum is kept"
    assert [group["initial_lr"] for o in again.optimisers for group in o.param_groups] == [3e-2, 1.5e-2]


def test_state_without_optimisers_can_be_resumed(tmp_path: Path) -> None:
    run = run_of(nn.Linear(4, 4))
    run.resume({"model": {}, "step": 1000})
    assert run.step == 1000 and not run.optimisers[0].state


def test_new_heads_learn_before_what_was_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "HEADS_FIRST", 2)
    model, file = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), tmp_path / "state.pt"
    exported, head = model[0].weight, model[1].weight
    run = run_of(model)
    run.resume({"model": {}, "step": 1000}, model[0].parameters())
    moved = []
    for _ in range(3):
        before = [one.detach().clone() for one in (exported, head)]
        train_one_step(run, model, file)
        moved.append([not torch.equal(*pair) for pair in zip(before, (exported, head), strict=True)])
    assert moved == [[False, True], [False, True], [True, True]]
    again = run_of(model)
    again.resume(load_state(file), model[0].parameters())
    before = exported.detach().clone()
    train_one_step(again, model, file)
    assert not torch.equal(before, exported), "a state with optimisers has heads that know what they say"


def test_log_shows_means_since_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "LOG_STEPS", 1)
    model = nn.Linear(4, 4)
    run = run_of(model)
    run.log({"loss": 1.0})
    run.log({"loss": 2.0})
    train_one_step(run, model, tmp_path / "state.pt")
    assert "step 1 " in (line := capsys.readouterr().out) and line.endswith("loss 1.5000\n")


@pytest.mark.parametrize(
    "module",
    [
        flow,
        flow_vae,
        joint,
        metaquery,
        metaquery_vae,
        mixed_diffusion,
        picture_tokenizer,
        planner,
        regression,
        regression_paint,
    ],
)
def test_every_trainer_has_the_common_options(module: object) -> None:
    arguments = [
        "--out",
        "o",
        "--minutes",
        "2",
        "--decay",
        "0.1",
        "--lr",
        "1",
        "--seed",
        "3",
        "--threads",
        "1",
        "--resume",
    ]
    args = module.options([*REQUIRED.get(module, []), *arguments])  # type: ignore[attr-defined, call-overload]
    assert (args.out, args.minutes, args.decay, args.lr, args.seed, args.threads) == (Path("o"), 2, 0.1, 1, 3, 1)
    assert args.resume
