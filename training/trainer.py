"""What the trainers have in common: options, the loop with its schedule, and states to resume from."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.optim import set_lr

LOG_STEPS = 25  # steps between two lines of the log, which shows means over them
SAVE_SECONDS = 120.0
RESTORED_STEP = 1000  # that a state made from exported weights says
HEADS_FIRST = 75  # steps in which new auxiliary heads learn alone, before they may teach what was exported


def options_parser(description: str | None, *, minutes: float, lr: float, decay: float) -> argparse.ArgumentParser:
    """A parser with the options of every trainer; the values given here are their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument(
        "--decay", type=float, default=decay, help="share of the time in which the step size falls to zero"
    )
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 = its own choice")
    parser.add_argument("--resume", action="store_true", help="continue from the state in --out")
    return parser


def device_of(args: argparse.Namespace) -> str:
    """Apply --threads and --seed and return the device to train on."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_state(file: Path) -> dict[str, Any]:
    """A saved state on the CPU: "model", "step" and, where it was not made from exported weights, "optimisers"."""
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


class Run:
    """The steps of a run that ends after --minutes: step size, weight updates, log and saved states.

    The step size rises over `warmup` steps from the start or from a state without optimisers (after a resume over
    `resumed_warmup` seconds), and falls linearly to `floor` of its value in the last share --decay of the time.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        optimisers: list[torch.optim.Optimizer],
        *,
        warmup: int = 40,
        floor: float = 0.005,
        resumed_warmup: float = 0.0,
    ) -> None:
        self.args = args
        self.optimisers = optimisers
        self.warmup, self.floor, self.resumed_warmup = warmup, floor, resumed_warmup
        self.step = 0
        self._began = 0  # the step from which the step size rises
        self._held: list[torch.nn.Parameter] = []
        self._resumed = False
        self._values: dict[str, list[float]] = {}

    def resume(self, state: dict[str, Any], exported: Iterable[torch.nn.Parameter] = ()) -> None:
        """Continue from a saved state, with the learning rates of this run.

        In a state that was made from exported weights the auxiliary heads are new, and what they would teach at first
        is noise: for `HEADS_FIRST` steps the `exported` parameters stay as they are.
        """
        for optimiser, saved in zip(self.optimisers, state.get("optimisers", ()), strict="optimisers" in state):
            rates = [group["initial_lr"] for group in optimiser.param_groups]
            optimiser.load_state_dict(saved)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["initial_lr"] = rate
        self.step = state["step"]
        if "optimisers" not in state:
            self._held = list(exported)
            self._began = self.step + HEADS_FIRST * bool(self._held)
        self._resumed = True
        print(f"resumed at step {self.step}", flush=True)

    def steps(self, file: Path, state: Callable[[], dict[str, Any]]) -> Iterator[float]:
        """Yield the share of the time that is left (1 to 0) once a step; its caller computes the gradients.

        Then the weights are updated, and every two minutes and at the end `state()` is saved in `file`.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        start = last_save = time.time()
        while True:
            spent = time.time() - start
            left = 1 - spent / (60 * self.args.minutes)
            holds = bool(self._held) and self.step < self._began
            warm = 1.0 if holds else (self.step - self._began + 1) / self.warmup
            if self._resumed and self.resumed_warmup:
                warm = spent / self.resumed_warmup
            set_lr(self.optimisers, min(1.0, warm) * max(self.floor, min(1.0, left / self.args.decay)))
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            yield left
            if holds:
                for parameter in self._held:
                    parameter.grad = None
            for optimiser in self.optimisers:
                optimiser.step()
            self.step += 1
            if self.step % LOG_STEPS == 0:
                line = " ".join(f"{name} {np.mean(values):.4f}" for name, values in self._values.items())
                print(f"step {self.step} {(time.time() - start) / 60:.1f} min {line}", flush=True)
                self._values = {}
            if left <= 0 or time.time() - last_save > SAVE_SECONDS:
                self._save(file, state())
                last_save = time.time()
            if left <= 0:
                return

    def log(self, values: dict[str, float]) -> None:
        """Note numbers of this step for the next line of the log."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def _save(self, file: Path, state: dict[str, Any]) -> None:
        part = file.with_suffix(".tmp")
        torch.save({"optimisers": [o.state_dict() for o in self.optimisers], "step": self.step} | state, part)
        part.replace(file)


def psnr(picture: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1."""
    error = (picture.detach().clamp(-1, 1) - target).square().mean()
    return float(-10 * torch.log10(error / 4))
