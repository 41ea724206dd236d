"""The optimiser: orthogonalised momentum (Muon, Jordan et al. 2024) for matrices inside blocks, AdamW for the rest.

On this small world Muon needs about half as many steps as AdamW. Its Newton-Schulz iterations are batched over all
matrices of one shape; otherwise they would cost as much as the rest of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of [n, rows, columns] towards 1 by five quintic Newton-Schulz iterations."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised as a matrix; parameters with more dimensions are flattened after the first."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                shapes[tuple(update.shape)].append((p, update))  # type: ignore[index]
            for (rows, columns), members in shapes.items():
                updates = orthogonalise(torch.stack([u for _, u in members]))
                scale = 0.2 * max(rows, columns) ** 0.5  # the size of an AdamW step (Liu et al. 2025)
                for (p, _), update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(update.view_as(p), alpha=-group["lr"] * scale)


def optimisers(
    model: nn.Module, in_block: Callable[[str, nn.Parameter], bool], lr: float, other_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the trained parameters for which `in_block(name, parameter)` holds, AdamW for the others."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inside = [p for name, p in trained if in_block(name, p)]
    return muon_and_adamw(inside, [p for name, p in trained if not in_block(name, p)], lr, other_lr)


def muon_and_adamw(
    inside: list[nn.Parameter], outside: list[nn.Parameter], lr: float, outside_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for `inside` (at least two dimensions), AdamW for `outside`; `initial_lr` is kept for `set_lr`."""
    made: list[torch.optim.Optimizer] = [
        Muon(inside, lr),
        torch.optim.AdamW(outside, lr=outside_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimiser in made:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return made


def set_lr(made: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` of its initial one."""
    for optimiser in made:
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor


@torch.enable_grad()
def fit(
    projector: nn.Module, features: Tensor, wanted: Tensor, *, rows: int = 1024, steps: int = 800, lr: float = 3e-3
) -> None:
    """Fit a projector's outputs for features [n, ...] to `wanted` [n, ...], `rows` a step; print what is lost."""
    optimiser = torch.optim.Adam(projector.parameters(), lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        chosen = torch.randint(len(features), (rows,))
        optimiser.zero_grad(set_to_none=True)
        error = (projector(features[chosen]) - wanted[chosen]).square().mean()
        error.backward()
        optimiser.step()
        if step in (0, steps - 1):
            print(f"projector: {100 * float(error.detach() / wanted.var()):.1f} % of the variance is lost", flush=True)
    optimiser.zero_grad(set_to_none=True)
