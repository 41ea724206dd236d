"""Make the trainers' states from an exported MetaMorph or Pisces, to continue training where no state was saved:

    python -m training.regression_restore --system pisces --checkpoint assets/pisces_embedded --out runs/more
    python -m training.regression --system pisces --out runs/more --minutes 60 --resume

Optimisers and auxiliary heads start from scratch.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.regression import Writer
from training.regression_data import SYSTEMS
from training.regression_export import tensors
from training.regression_paint import Visualizer
from training.trainer import RESTORED_STEP


def writer_state(system: str, checkpoint: Path) -> dict[str, Tensor]:
    """The state of `Writer`: inverts `regression_export.tensors`."""
    exported = load_file(checkpoint / "model.safetensors")
    state = Writer(SYSTEMS[system], len(exported["lm_head.weight"])).state_dict()
    names = {name: list(tensors(system, {name: tensor})) for name, tensor in state.items()}
    _refuse_others(system, checkpoint, set(exported), {one for several in names.values() for one in several})
    for name, several in names.items():  # several: what is one projection here is three there
        if several:
            state[name] = torch.cat([exported[one].float() for one in several]).view_as(state[name])
    return state


def visualizer_state(system: str, checkpoint: Path) -> dict[str, Tensor]:
    """The state of `Visualizer`."""
    state = Visualizer(system).state_dict()
    for part in ("adapter", "unet"):
        saved = load_file(checkpoint / "visualizer" / f"{part}_checkpoint.safetensors")
        found = {f"{part}.{name}": tensor.float() for name, tensor in saved.items()}
        _refuse_others(system, checkpoint, set(found), {name for name in state if name.startswith(f"{part}.")})
        state |= found
    return state


def _refuse_others(system: str, checkpoint: Path, found: set[str], wanted: set[str]) -> None:
    if strange := sorted(found ^ wanted):
        raise SystemExit(f"{checkpoint} is not the embedded {system}: {strange[0]} is missing there, or is too much")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, default="metamorph")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.checkpoint / "tokenizer.json", args.out / "tokenizer.json")
    states = {"writer": writer_state, "visualizer": visualizer_state}
    save_states(args.out, {name: state(args.system, args.checkpoint) for name, state in states.items()})


def save_states(out: Path, states: dict[str, dict[str, Tensor]]) -> None:
    """Save states without optimisers under their names."""
    for name, state in states.items():
        torch.save({"model": state, "step": RESTORED_STEP}, out / f"{name}.pt")


if __name__ == "__main__":
    main()
