"""Make the trainer's state from an exported MetaQuery, to continue training where no state was saved:

    python -m training.metaquery_restore --checkpoint assets/metaquery_embedded --out runs/more
    python -m training.metaquery --out runs/more --stage draw --minutes 30 --resume
    python -m training.metaquery_export --run runs/more --vae runs/more/vae.pt --out assets/metaquery_embedded

Optimisers and auxiliary heads start from scratch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.metaquery_export import EMBEDDINGS, LANGUAGE, named
from training.metaquery_model import MetaQuery
from training.trainer import RESTORED_STEP


def restored(checkpoint: Path) -> dict[str, Tensor]:
    """The state of `MetaQuery`: inverts `metaquery_export.tensors`."""
    exported = load_file(checkpoint / "model.safetensors")
    head = load_file(checkpoint / "components" / LANGUAGE / "model.safetensors")["lm_head.weight"]
    vocabulary = len(head)
    state = MetaQuery(vocabulary).state_dict()
    for name, tensor in state.items():
        several = [exported[one].float() for one in named(name, tensor) if "bias" not in one or "bias" in name]
        if several and name != "reader.language.model.embed_tokens.weight":
            state[name] = torch.cat(several).view_as(tensor)  # what is one projection here is three there
    rows = exported[EMBEDDINGS].float()
    state["reader.language.model.embed_tokens.weight"] = rows[:vocabulary]
    state["reader.queries"] = torch.cat([rows[vocabulary : vocabulary + 1], rows[vocabulary + 2 :]])
    state["reader.language.lm_head.weight"] = head.float()
    return state


def restored_decoder(checkpoint: Path) -> dict[str, Tensor]:
    """The autoencoder's decoder, for `metaquery_export`."""
    exported = load_file(checkpoint / "model.safetensors")
    return {name.removeprefix("vae."): tensor for name, tensor in exported.items() if name.startswith("vae.decoder.")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/metaquery_embedded"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state = {"model": restored(args.checkpoint), "step": RESTORED_STEP, "stage": "draw", "aligned": True}
    torch.save(state, args.out / "metaquery.pt")
    torch.save({"model": restored_decoder(args.checkpoint)}, args.out / "vae.pt")


if __name__ == "__main__":
    main()
