"""Export a MetaQuery checkpoint folder in bfloat16, in the layout of the reference's trainer.

    python -m training.metaquery_export --run runs/metaquery --vae runs/metaquery/vae.pt --out assets/metaquery_embedded

The folder `components` has what the repositories named in config.json would provide: configs, tokenizer, chat template
and scheduler. The language model's output head, which the reference drops, is with the language model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from janus_app.models.common.prompts import SYSTEM
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig
from training.export import TOKENIZER_FILES, bfloat16
from training.joint import config as joint_config
from training.metaquery_model import FLOW_SHIFT, LAYERS, QUERIES, sana_config
from training.metaquery_vae import CHANNELS
from training.metaquery_vae import config as vae_config
from training.pictures import TILE, TOWER_SIDE
from training.text_tokenizer import SPECIALS
from training.trainer import load_state
from training.vocabulary import write as write_vocabulary
from training.world import GRID

BOS, EOS, PAD, BOI, IMAGE, _, USER, ASSISTANT, EOI = SPECIALS
LANGUAGE, DIFFUSER = "picture-world-llava-onevision", "picture-world-sana"  # ids of the parts
INNER = "model.mllm_backbone."
EMBEDDINGS = f"{INNER}language_model.model.embed_tokens.weight"
END = "<|im_end|>"  # after the queries; its state is not used
LIMIT = 96  # most tokens of a caption
TEMPLATE = (
    f"{{{{ '{BOS}' }}}}"
    f"{{% if messages[0]['role'] != 'system' %}}{{{{ '{SYSTEM}\n\n' }}}}{{% endif %}}"
    "{% for message in messages %}"
    "{% set texts = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join %}"
    "{% if message['role'] == 'system' %}{{ texts + '\n\n' }}"
    "{% elif message['role'] == 'user' %}"
    f"{{{{ '{USER}: ' }}}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    f"{{{{ '{BOI}{IMAGE}{EOI}\n' }}}}{{% endfor %}}"
    "{{ texts + '\n\n' }}"
    f"{{% else %}}{{{{ '{ASSISTANT}: ' + texts + '{EOS}' }}}}{{% endif %}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{ASSISTANT}:' }}}}{{% endif %}}"
)


def tensors(state: dict[str, Tensor], decoder: dict[str, Tensor], end_of_image: int) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names the reference's trainer gives them."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        out |= named(name, tensor)
    table, queries = state["reader.language.model.embed_tokens.weight"], state["reader.queries"]
    out[EMBEDDINGS] = torch.cat([table, queries[:1], table[end_of_image, None], queries[1:]])
    out |= {f"vae.{n}": t for n, t in decoder.items() if n.startswith("decoder.")}
    return bfloat16(out)


def named(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What the checkpoint has for one tensor of the state; nothing for auxiliary heads and queries."""
    if name.startswith("reader.language.model."):
        return _language(f"{INNER}language_model.{name.removeprefix('reader.language.')}", tensor)
    if name.startswith("reader.tower."):
        return tower_tensors(f"{INNER}vision_tower.vision_model.", name.removeprefix("reader.tower."), tensor)
    if name.startswith("reader.projector."):
        layer, kind = name.removeprefix("reader.projector.").split(".")
        return {f"{INNER}multi_modal_projector.linear_{1 + int(layer) // 2}.{kind}": tensor}
    if name == "reader.newline":
        return {f"{INNER}image_newline": tensor}
    if name.startswith("connector."):
        return {f"model.{name}": tensor}
    if name.startswith("sana."):
        return {f"model.transformer.{name.removeprefix('sana.')}": tensor}
    return {}


def _language(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A Qwen2's projections to queries, keys and values have biases."""
    found = {name: tensor}
    if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
        found[name.replace("weight", "bias")] = torch.zeros(len(tensor))
    return found


def tower_tensors(prefix: str, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Names and shapes of transformers' SigLIP, which has three projections where ours has one."""
    if name == "pos_embed":
        return {f"{prefix}embeddings.position_embedding.weight": tensor[0]}
    if name.startswith("patch_embed.proj."):
        return {f"{prefix}embeddings.patch_embedding.{name.rsplit('.', 1)[1]}": tensor}
    if name.startswith("norm."):
        return {f"{prefix}post_layernorm.{name.rsplit('.', 1)[1]}": tensor}
    _, number, part, *rest = name.split(".")
    layer = f"{prefix}encoder.layers.{number}."
    if part == "attn" and rest[0] == "qkv":
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{layer}self_attn.{letter}_proj.{rest[1]}": one for letter, one in parts}
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn": "self_attn", "mlp": "mlp"}
    own = ["out_proj", rest[1]] if part == "attn" else rest
    return {layer + ".".join([names[part], *own]): tensor}


def config() -> dict[str, Any]:
    return {
        "architectures": ["MetaQuery"],
        "connector_num_hidden_layers": LAYERS,
        "diffusion_model_id": DIFFUSER,
        "in_channels": CHANNELS,
        "input_size": GRID,
        "loss_type": "flow",
        "max_input_text_tokens": LIMIT,
        "mllm_id": LANGUAGE,
        "model_type": "metaquery",
        "modules_to_freeze": ["vae", "model.mllm_backbone"],
        "modules_to_unfreeze": ["model.mllm_backbone.language_model.model.embed_tokens"],
        "noise_scheduler_id": DIFFUSER,
        "num_metaqueries": QUERIES,
        "scheduler_id": DIFFUSER,
        "system_prompt": SYSTEM,
        "torch_dtype": "bfloat16",
        "vae_downsample_f": TILE,
        "vae_id": DIFFUSER,
    }


def language_config(language: DecoderConfig, vision: VisionConfig, image: int) -> dict[str, Any]:
    """config.json of the language model, with the fields of a LLaVA-OneVision."""
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_grid_pinpoints": [[TOWER_SIDE, TOWER_SIDE]],
        "image_token_index": image,
        "model_type": "llava_onevision",
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "text_config": {
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "max_position_embeddings": language.max_position_embeddings,
            "model_type": "qwen2",
            "num_attention_heads": language.num_attention_heads,
            "num_hidden_layers": language.num_hidden_layers,
            "num_key_value_heads": language.num_key_value_heads,
            "rms_norm_eps": language.rms_norm_eps,
            "rope_theta": language.rope_theta,
            "tie_word_embeddings": False,
            "vocab_size": language.vocab_size,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {
            "hidden_act": "gelu",
            "hidden_size": vision.width,
            "image_size": vision.image_size,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "model_type": "siglip_vision_model",
            "num_attention_heads": vision.heads,
            "num_hidden_layers": vision.layers,
            "patch_size": vision.patch_size,
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def eye_config() -> dict[str, Any]:
    """preprocessor_config.json."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": [[TOWER_SIDE, TOWER_SIDE]],
        "image_mean": [0.5] * 3,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": [0.5] * 3,
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": TOWER_SIDE, "width": TOWER_SIDE},
    }


def scheduler_config() -> dict[str, Any]:
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "flow_shift": FLOW_SHIFT,
        "lower_order_final": True,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "midpoint",
        "timestep_spacing": "linspace",
        "use_flow_sigmas": True,
    }


def export(run: Path, vae_file: Path, out: Path) -> None:
    """`run` holds metaquery.pt and the text tokenizer's files."""
    state, decoder = load_state(run / "metaquery.pt")["model"], load_state(vae_file)["model"]
    language, diffuser = out / "components" / LANGUAGE, out / "components" / DIFFUSER
    for folder in (language, *(diffuser / part for part in ("transformer", "vae", "scheduler"))):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(run / name, language / name)
    tokenizer = Tokenizer.from_file(str(language / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    tokenizer.save(str(language / "tokenizer.json"))
    image, end_of_image = (int(tokenizer.token_to_id(token)) for token in (IMAGE, EOI))  # type: ignore[arg-type]
    vocabulary = len(state["reader.language.model.embed_tokens.weight"])
    sizes = joint_config(vocabulary)
    weights = {"format": "pt"}
    save_file(tensors(state, decoder, end_of_image), out / "model.safetensors", metadata=weights)
    head = bfloat16({"lm_head.weight": state["reader.language.lm_head.weight"]})
    save_file(head, language / "model.safetensors", metadata=weights)
    files: dict[Path, dict[str, Any]] = {
        out / "config.json": config(),
        language / "config.json": language_config(sizes.language, sizes.vision, image),
        language / "preprocessor_config.json": eye_config(),
        language / "chat_template.json": {"chat_template": TEMPLATE},
        diffuser / "transformer" / "config.json": {"_class_name": "SanaTransformer2DModel", **sana_config()},
        diffuser / "vae" / "config.json": {"_class_name": "AutoencoderDC", **vae_config()},
        diffuser / "scheduler" / "scheduler_config.json": scheduler_config(),
    }
    for file, fields in files.items():
        file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", "utf-8")
    write_vocabulary(out, edits=True)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder of training.metaquery")
    parser.add_argument("--vae", type=Path, required=True, help="the file of training.metaquery_vae")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.run, args.vae, args.out)


if __name__ == "__main__":
    main()
