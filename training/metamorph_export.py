"""Export the embedded MetaMorph in bfloat16, in the layout of the published training code.

    python -m training.metamorph_export --run runs/metamorph --out assets/metamorph_embedded

The visualiser is in the subfolder `visualizer`; the autoencoder, which is that of the embedded JanusFlow, and the files
of the U-Net's base are in the subfolder `components`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_app.models.regression.config import TOWER
from training.export import bfloat16
from training.flow_export import VAE_WEIGHTS
from training.joint import config as joint_config
from training.metamorph import LAYERS, WIDTH
from training.metamorph_data import CELLS
from training.metamorph_paint import ADAPTER, SCHEDULER, UNET
from training.metaquery_export import tower_tensors
from training.trainer import load_state
from training.vocabulary import write as write_vocabulary

BASE = "picture-world-unet"
CONTEXT = 512


def tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of the published training code."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "language":
            out[rest] = tensor
        elif part == "tower":
            out |= tower_tensors("model.vision_tower.vision_tower.", rest, tensor)
        elif part == "projector":
            out[f"model.mm_projector.{rest}"] = tensor
        elif part == "head":
            out[f"vision_head.{rest}"] = tensor
    return bfloat16(out)


def config(vocabulary: int) -> dict[str, Any]:
    """config.json."""
    sizes = joint_config(vocabulary).language
    return {
        "architectures": ["MetaMorphLlamaForCausalLM"],
        "hidden_size": sizes.hidden_size,
        "image_aspect_ratio": "square",
        "image_token_reduction": "none",
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -1,
        "model_type": "metamorph_llama",
        "normalize_vision": True,
        "num_attention_heads": sizes.num_attention_heads,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_image_tokens": CELLS,
        "num_key_value_heads": sizes.num_key_value_heads,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_theta": sizes.rope_theta,
        "tokenizer_model_max_length": CONTEXT,
        "torch_dtype": "bfloat16",
        "vision_head_type": "mlp",
        "vocab_size": vocabulary,
    }


def tower_config(vocabulary: int) -> dict[str, Any]:
    """config.json of the vision encoder."""
    vision = joint_config(vocabulary).vision
    return {
        "model_type": "siglip",
        "vision_config": {
            "hidden_act": "gelu",
            "hidden_size": vision.width,
            "image_size": vision.image_size,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_attention_heads": vision.heads,
            "num_hidden_layers": LAYERS,
            "patch_size": vision.patch_size,
        },
    }


def export(run: Path, flow: Path, out: Path) -> None:
    """`run` holds metamorph.pt, visualizer.pt and the tokenizer."""
    state, visualizer = (load_state(run / name)["model"] for name in ("metamorph.pt", "visualizer.pt"))
    vocabulary = len(state["language.lm_head.weight"])
    base, folder = out / "components" / BASE, out / "visualizer"
    for place in (folder, out / "components" / TOWER, base / "unet", base / "vae", base / "scheduler"):
        place.mkdir(parents=True, exist_ok=True)
    save_file(tensors(state), out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(run / "tokenizer.json", out / "tokenizer.json")
    for part in ("adapter", "unet"):
        own = {name.removeprefix(f"{part}."): t for name, t in visualizer.items() if name.startswith(f"{part}.")}
        save_file(bfloat16(own), folder / f"{part}_checkpoint.safetensors", metadata={"format": "pt"})
    decoder = load_file(flow / "vae" / VAE_WEIGHTS)
    kept = {name: t for name, t in decoder.items() if not name.startswith(("encoder.", "quant_conv."))}
    save_file(kept, base / "vae" / VAE_WEIGHTS, metadata={"format": "pt"})
    shutil.copy(flow / "vae" / "config.json", base / "vae" / "config.json")
    files = {
        out / "config.json": config(vocabulary),
        out / "components" / TOWER / "config.json": tower_config(vocabulary),
        folder / "model_config.json": ADAPTER | {"base_model": BASE, "guidance": 1.0, "steps": 10},
        base / "unet" / "config.json": UNET,
        base / "scheduler" / "scheduler_config.json": SCHEDULER,
    }
    for file, fields in files.items():
        file.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    write_vocabulary(out, edits=True)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder of training.metamorph and metamorph_paint")
    parser.add_argument("--flow", type=Path, default=Path("assets/janusflow_embedded"), help="for its autoencoder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.run, args.flow, args.out)


if __name__ == "__main__":
    main()
