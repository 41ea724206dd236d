"""Export the flow as a JanusFlow checkpoint folder in bfloat16, with the Hub's names and files.

    python -m training.flow_export --flow runs/flow --vae runs/vae.pt --out assets/janusflow_embedded
    python -m training.flow_export --restore assets/janusflow_embedded --out runs/more

The autoencoder is in the subfolder `vae`; without --vae it stays as it is there. A restored state, to train on, begins
with new optimisers and auxiliary heads.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import Words
from training.export import TOKENIZER_FILES, bfloat16, part, write_folder
from training.export import config as joint_config
from training.flow import Flow, training_state
from training.flow import config as flow_config
from training.flow_vae import config as vae_config
from training.text_tokenizer import SPECIALS
from training.trainer import RESTORED_STEP, load_state
from training.vocabulary import write as write_vocabulary

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


def tensors(state: dict[str, Tensor], begin_of_image: int) -> dict[str, Tensor]:
    """The network's tensors under the Hub's names, without the auxiliary heads.

    The learned begin-of-understanding row is the embedding of begin-of-image.
    """
    out = {n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")}
    out["beg_of_und_embed"] = out["language_model.model.embed_tokens.weight"][begin_of_image, None]
    return bfloat16(out)


def config(vocabulary: int) -> dict[str, Any]:
    """config.json with the fields of the published one, and the sizes of the tower, which that one only names."""
    net = flow_config(vocabulary)
    joint = joint_config(vocabulary)

    both: dict[str, Any] = {
        "block_out_channels": [net.encoder.width],
        "dropout": 0.0,
        "elementwise_affine": True,
        "hidden_size": net.encoder.hidden_size,
        "layers_in_middle": net.encoder.blocks,
        "norm_eps": net.encoder.eps,
        "use_bias": net.encoder.bias,
    }
    return {
        **{name: joint[name] for name in ("architectures", "model_type", "torch_dtype", "language_config")},
        "vision_und_enc_config": {**joint["vision_config"], "model_type": "vision_und_enc"},
        "vision_gen_enc_config": part(
            "vision_gen_enc",
            "ShallowUViTEncoder",
            **both,
            input_channels=net.encoder.in_channels,
            kernel_size=net.encoder.kernel,
            padding=net.encoder.padding,
            stride=net.encoder.stride,
        ),
        "vision_gen_dec_config": part(
            "vision_gen_dec",
            "ShallowUViTDecoder",
            **both,
            in_channels=net.decoder.in_channels,
            kernel_size=net.encoder.kernel,
            out_channels=net.decoder.out_channels,
            upsamples=net.decoder.upsamples,
        ),
    }


def export(flow_folder: Path, vae_file: Path | None, out: Path) -> None:
    flow = load_state(flow_folder / "flow.pt")["model"]
    if vae_file is not None:
        export_autoencoder(vae_file, out / "vae")
    added = json.loads((flow_folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    begin = next(token["id"] for token in added if token["content"] == SPECIALS[3])
    vocabulary = flow["net.language_model.lm_head.weight"].shape[0]
    write_folder(out, tensors(flow, begin), config(vocabulary), flow_folder)
    write_vocabulary(out)


def export_autoencoder(file: Path, folder: Path) -> None:
    vae = load_state(file)["model"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        bfloat16({n.removeprefix("vae."): t for n, t in vae.items() if n.startswith("vae.")}),
        folder / VAE_WEIGHTS,
        metadata={"format": "pt"},
    )
    facts = {"_class_name": "AutoencoderKL", **vae_config()}
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def restore(checkpoint: Path, out: Path) -> None:
    """Write the state of the trainer in `out`: inverts `export`, apart from the autoencoder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(checkpoint / name, out / name)
    words = Words(Tokenizer.from_file(str(out / "tokenizer.json")))
    state = training_state(Flow(words.vocabulary, words.names()))
    known = {f"net.{name}": t.float() for name, t in load_file(checkpoint / "model.safetensors").items()}
    if strange := known.keys() - state.keys():
        raise SystemExit(f"{checkpoint} is not the embedded JanusFlow: it holds {sorted(strange)[0]}")
    torch.save({"model": state | known, "step": RESTORED_STEP}, out / "flow.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--flow", type=Path, help="the folder of training.flow")
    source.add_argument("--restore", type=Path, metavar="CHECKPOINT", help="an exported folder, to train on")
    parser.add_argument("--vae", type=Path, help="the file of training.flow_vae")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.flow:
        export(args.flow, args.vae, args.out)
    else:
        restore(args.restore, args.out)


if __name__ == "__main__":
    main()
