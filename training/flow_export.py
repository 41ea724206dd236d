"""Export the flow as a JanusFlow checkpoint folder in bfloat16, with the Hub's names and files.

    python -m training.flow_export --flow runs/flow --vae runs/vae.pt --out assets/janusflow_embedded

The autoencoder is in the subfolder `vae`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from training.export import bfloat16, part, write_folder
from training.export import config as joint_config
from training.flow import config as flow_config
from training.flow_vae import config as vae_config
from training.text_tokenizer import SPECIALS
from training.trainer import load_state
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


def export(flow_folder: Path, vae_file: Path, out: Path) -> None:
    flow, vae = load_state(flow_folder / "flow.pt")["model"], load_state(vae_file)["model"]
    folder = out / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        bfloat16({n.removeprefix("vae."): t for n, t in vae.items() if n.startswith("vae.")}),
        folder / VAE_WEIGHTS,
        metadata={"format": "pt"},
    )
    facts = {"_class_name": "AutoencoderKL", **vae_config()}
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    added = json.loads((flow_folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    begin = next(token["id"] for token in added if token["content"] == SPECIALS[3])
    vocabulary = flow["net.language_model.lm_head.weight"].shape[0]
    write_folder(out, tensors(flow, begin), config(vocabulary), flow_folder)
    write_vocabulary(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", type=Path, required=True, help="the folder of training.flow")
    parser.add_argument("--vae", type=Path, required=True, help="the file of training.flow_vae")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.flow, args.vae, args.out)


if __name__ == "__main__":
    main()
