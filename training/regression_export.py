"""Export the embedded MetaMorph or Pisces in bfloat16, each in its own layout (docs/metamorph.md, docs/pisces.md).

    python -m training.regression_export --system metamorph --run runs/metamorph --out assets/metamorph_embedded

The visualiser is in the subfolder `visualizer`. The files of its base, whose autoencoder is that of the embedded
JanusFlow, are in the folder `components` beside the checkpoint.
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
from training.metaquery_export import tower_tensors
from training.regression import CODE, LAYERS, WIDTH
from training.regression_data import CELLS, SYSTEMS
from training.regression_paint import ADAPTERS, SCHEDULER, UNETS
from training.trainer import load_state
from training.vocabulary import write as write_vocabulary

BASES = {"metamorph": "picture-world-unet", "pisces": "picture-world-unet-with-sizes"}
CONTEXT = 512
PAINTED = {"guidance": 1.0, "steps": 10}
_TOWER_PREFIX = "model.vision_tower.vision_tower."
_NAMES = {  # ours -> those of the two layouts
    "metamorph": {"projector": "model.mm_projector", "head": "vision_head"},
    "pisces": {
        "projector": "model.understanding_projector",
        "write_projector": "model.generation_projector",
        "head": "generation_head",
    },
}


def tensors(system: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of the system's layout."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "language":
            out[rest] = tensor
        elif part == "tower":
            out |= tower_tensors(_TOWER_PREFIX, rest, tensor)
        elif part in _NAMES[system]:
            out[f"{_NAMES[system][part]}.{rest}"] = tensor
    return bfloat16(out)


def config(system: str, vocabulary: int) -> dict[str, Any]:
    """config.json."""
    sizes = joint_config(vocabulary).language
    language = {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "num_attention_heads": sizes.num_attention_heads,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_key_value_heads": sizes.num_key_value_heads,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_theta": sizes.rope_theta,
        "tokenizer_model_max_length": CONTEXT,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }
    if system == "pisces":
        seen = {"num_image_tokens": CELLS, "select_layer": -1, "vision_config": tower_config(vocabulary)}
        drawn = {"width": CODE, "num_image_tokens": CELLS}
        return language | {"model_type": "pisces", "understanding": seen, "generation": drawn}
    return language | {
        "architectures": ["MetaMorphLlamaForCausalLM"],
        "image_aspect_ratio": "square",
        "image_token_reduction": "none",
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -1,
        "model_type": "metamorph_llama",
        "normalize_vision": True,
        "num_image_tokens": CELLS,
        "vision_head_type": "mlp",
    }


def tower_config(vocabulary: int) -> dict[str, Any]:
    """The config of the vision encoder."""
    vision = joint_config(vocabulary).vision
    return {
        "hidden_act": "gelu",
        "hidden_size": vision.width,
        "image_size": vision.image_size,
        "intermediate_size": int(vision.width * vision.mlp_ratio),
        "num_attention_heads": vision.heads,
        "num_hidden_layers": LAYERS,
        "patch_size": vision.patch_size,
    }


def export(system: str, run: Path, flow: Path, out: Path) -> None:
    """`run` holds writer.pt, visualizer.pt and the tokenizer."""
    state, visualizer = (load_state(run / name)["model"] for name in ("writer.pt", "visualizer.pt"))
    vocabulary = len(state["language.lm_head.weight"])
    folder = out / "visualizer"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(system, state), out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(run / "tokenizer.json", out / "tokenizer.json")
    for part in ("adapter", "unet"):
        own = {name.removeprefix(f"{part}."): t for name, t in visualizer.items() if name.startswith(f"{part}.")}
        save_file(bfloat16(own), folder / f"{part}_checkpoint.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", config(system, vocabulary))
    if system == "metamorph":
        tower = {"model_type": "siglip", "vision_config": tower_config(vocabulary)}
        write_json(out / "components" / TOWER / "config.json", tower)
    write_json(folder / "model_config.json", ADAPTERS[system] | {"base_model": BASES[system]} | PAINTED)
    write_base(system, flow / "vae", out.parent / "components" / BASES[system])
    write_vocabulary(out, edits=SYSTEMS[system].edits)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def write_base(system: str, autoencoder: Path, out: Path) -> None:
    """The folder of the visualiser's base: the autoencoder's decoder, and the configs of U-Net and scheduler."""
    write_json(out / "unet" / "config.json", UNETS[system])
    write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER)
    decoder = load_file(autoencoder / VAE_WEIGHTS)
    kept = {name: t for name, t in decoder.items() if not name.startswith(("encoder.", "quant_conv."))}
    (out / "vae").mkdir(parents=True, exist_ok=True)
    save_file(kept, out / "vae" / VAE_WEIGHTS, metadata={"format": "pt"})
    shutil.copy(autoencoder / "config.json", out / "vae" / "config.json")


def write_json(file: Path, fields: dict[str, Any]) -> None:
    """Write a config, and make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, default="metamorph")
    parser.add_argument("--run", type=Path, required=True, help="the folder of both trainings")
    parser.add_argument("--flow", type=Path, default=Path("assets/janusflow_embedded"), help="for its autoencoder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.system, args.run, args.flow, args.out)


if __name__ == "__main__":
    main()
