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

STEP = 1000  # that the states say: behind the warm-up of the learning rate


def writer_state(system: str, checkpoint: Path) -> dict[str, Tensor]:
    """The state of `Writer`: inverts `regression_export.tensors`."""
    exported = load_file(checkpoint / "model.safetensors")
    state = Writer(SYSTEMS[system], len(exported["lm_head.weight"])).state_dict()
    for name, tensor in state.items():
        if names := list(tensors(system, {name: tensor})):  # several: what is one projection here is three there
            state[name] = torch.cat([exported.pop(one).float() for one in names]).view_as(tensor)
    if exported:
        raise SystemExit(f"{checkpoint} is not the embedded {system}: it holds {sorted(exported)[0]}")
    return state


def visualizer_state(system: str, checkpoint: Path) -> dict[str, Tensor]:
    """The state of `Visualizer`."""
    state = Visualizer(system).state_dict()
    for part in ("adapter", "unet"):
        saved = load_file(checkpoint / "visualizer" / f"{part}_checkpoint.safetensors")
        state |= {f"{part}.{name}": tensor.float() for name, tensor in saved.items()}
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, default="metamorph")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.checkpoint / "tokenizer.json", args.out / "tokenizer.json")
    torch.save({"model": writer_state(args.system, args.checkpoint), "step": STEP}, args.out / "writer.pt")
    torch.save({"model": visualizer_state(args.system, args.checkpoint), "step": STEP}, args.out / "visualizer.pt")


if __name__ == "__main__":
    main()
