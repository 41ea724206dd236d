"""Make a trainer's state from exported weights, to continue training where no state was saved:

    python -m training.restore --checkpoint assets/janus_embedded --out runs/more
    python -m training.train --out runs/more --minutes 60 --resume

The matrix of the picture head is split into its terms again; optimisers and auxiliary heads start from scratch.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import Words
from training.export import TOKENIZER_FILES
from training.joint import Joint
from training.objects import N_BACKGROUNDS, N_COLOURS
from training.trainer import RESTORED_STEP
from training.world import KINDS, tile_factors


def head_terms(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The kind, colour and background terms whose sums are the rows of the picture head: inverts `export.picture_head`.

    The sums determine the terms up to constants; the smallest solution is taken.
    """
    kind, colour, ground = torch.from_numpy(tile_factors()).unbind(1)
    drawn = (kind > 0).float()[:, None]
    design = torch.cat(
        [F.one_hot(kind, KINDS), drawn * F.one_hot(colour, N_COLOURS), F.one_hot(ground, N_BACKGROUNDS)], dim=1
    )
    rows = torch.cat([weight, bias[:, None]], dim=1).double()
    solution = (torch.linalg.pinv(design.double()) @ rows).float()
    terms = {}
    sizes = (("kind", KINDS), ("colour", N_COLOURS), ("ground", N_BACKGROUNDS))
    for (name, _), part in zip(sizes, solution.split([n for _, n in sizes]), strict=True):
        terms[f"{name}.weight"], terms[f"{name}.bias"] = part[:, :-1].clone(), part[:, -1].clone()
    return terms


def restore(checkpoint: Path, out: Path) -> None:
    weights = {n: t.float() for n, t in load_file(checkpoint / "model.safetensors").items()}
    words = Words(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    vision = "gen_vision_model."
    pictures = {n.removeprefix(vision): weights.pop(n) for n in list(weights) if n.startswith(vision)}
    head = head_terms(weights.pop("gen_head.vision_head.weight"), weights.pop("gen_head.vision_head.bias"))
    joint = Joint(weights["language_model.lm_head.weight"].shape[0], words.names())
    state = joint.state_dict()
    known = {f"net.{n}": t for n, t in weights.items()} | head
    if strange := known.keys() - state.keys():
        raise SystemExit(f"{checkpoint} is not the embedded Janus: it holds {sorted(strange)[0]}")
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state | known, "step": RESTORED_STEP}, out / "joint.pt")
    torch.save({"model": pictures, "step": RESTORED_STEP}, out / "pictures.pt")
    for name in TOKENIZER_FILES:
        shutil.copy(checkpoint / name, out / name)
    (out / "stages.json").write_text(json.dumps(["coarse", "pictures"]), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/janus_embedded"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    restore(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
