"""Export an embedded Transfusion, LMFusion or LLaVAFusion in bfloat16, or make a trainer's state of one again.

    python -m training.mixed_export --run runs/transfusion --out assets/transfusion_embedded
    python -m training.mixed_export --restore assets/transfusion_embedded --out runs/more

The layout is that of docs/mixed_diffusion.md. The autoencoder is that of the embedded JanusFlow; a language half that
was not trained stays in the folder of its base, which config.json names. A restored state begins with new optimisers
and auxiliary heads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from janus_app.models.common.components import AUTOENCODER
from janus_app.models.mixed_diffusion.config import IMAGE, LANGUAGE
from janus_app.models.mixed_diffusion.layouts import SIZES
from training.export import TOKENIZER_FILES, bfloat16
from training.mixed_model import SYSTEMS, Mixed, config, trained_state
from training.trainer import RESTORED_STEP, load_state
from training.vocabulary import write as write_vocabulary


def export(run: Path, janus: Path, vae: Path, out: Path) -> None:
    """`run` holds mixed.pt and, without a base, the tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    state = load_state(run / "mixed.pt")
    system, own = SYSTEMS[state.get("system", "transfusion")], state["model"]
    weights = {name.removeprefix("net."): tensor for name, tensor in own.items() if name.startswith("net.")}
    save_file(bfloat16(weights), out / "model.safetensors", metadata={"format": "pt"})
    fields = {name: value for name, value in config(janus, vae, system).items() if name != AUTOENCODER}
    fields[IMAGE] = {**fields[IMAGE], AUTOENCODER: os.path.relpath(vae, out).replace(os.sep, "/")}
    if system.base:
        fields[LANGUAGE] = {name: fields[LANGUAGE][name] for name in SIZES}
    for name in () if system.base else TOKENIZER_FILES:
        shutil.copy(run / name, out / name)
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    write_vocabulary(out, edits=system.reads)
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


def restore(checkpoint: Path, janus: Path, vae: Path, out: Path) -> None:
    """Write the state of the trainer in `out`: inverts `export`."""
    out.mkdir(parents=True, exist_ok=True)
    base = Path(json.loads((checkpoint / "config.json").read_text("utf-8")).get("base", "")).name
    name = next(name for name, system in SYSTEMS.items() if system.base == base)
    for file in () if base else TOKENIZER_FILES:
        shutil.copy(checkpoint / file, out / file)
    state = trained_state(Mixed(config(janus, vae, SYSTEMS[name])))
    state |= {f"net.{key}": t.float() for key, t in load_file(checkpoint / "model.safetensors").items()}
    torch.save({"model": state, "step": RESTORED_STEP, "system": name}, out / "mixed.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="the folder of the training")
    source.add_argument("--restore", type=Path, metavar="CHECKPOINT", help="an exported folder, to train on")
    parser.add_argument("--janus", type=Path, default=Path("assets/janus_embedded"), help="for its sizes")
    parser.add_argument("--vae", type=Path, default=Path("assets/janusflow_embedded/vae"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.run:
        export(args.run, args.janus, args.vae, args.out)
    else:
        restore(args.restore, args.janus, args.vae, args.out)


if __name__ == "__main__":
    main()
