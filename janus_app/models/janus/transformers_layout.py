"""Janus in the layout of the transformers library (`model_type: janus`): its names and its config.

Both layouts have the same numbers. transformers splits q, k and v of the vision tower, keeps the position table without
its first axis, and leaves out what inference does not use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields, fields_at

MODEL_TYPE = "janus"
_LAYER, _BLOCK = "model.vision_model.encoder.layers.{}.", "vision_model.vision_tower.blocks.{}."
# Beginnings of names, {} for a number: theirs -> ours. The first that fits is taken, so the longer ones come first.
_NAMES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_model.embeddings.patch_embedding.": "vision_model.vision_tower.patch_embed.proj.",
    "model.vision_model.embeddings.position_embedding.weight": "vision_model.vision_tower.pos_embed",
    f"{_LAYER}layer_norm1.": f"{_BLOCK}norm1.",
    f"{_LAYER}layer_norm2.": f"{_BLOCK}norm2.",
    **{f"{_LAYER}self_attn.{letter}_proj.": f"{_BLOCK}attn.{letter}." for letter in "qkv"},
    f"{_LAYER}self_attn.projection_layer.": f"{_BLOCK}attn.proj.",
    f"{_LAYER}mlp.": f"{_BLOCK}mlp.",
    "model.vision_model.post_layernorm.": "vision_model.vision_tower.norm.",
    "model.aligner.fc1.": "aligner.layers.0.",
    "model.aligner.hidden_layers.0.": "aligner.layers.2.",
    "model.generation_embeddings.": "gen_embed.",
    "model.generation_aligner.fc1.": "gen_aligner.layers.0.",
    "model.generation_aligner.hidden_layers.0.": "gen_aligner.layers.2.",
    "model.generation_head.proj_out.": "gen_head.output_mlp_projector.",
    "model.generation_head.vision_head.": "gen_head.vision_head.",
    "model.vqmodel.encoder.down.{}.block.": "gen_vision_model.encoder.conv_blocks.{}.res.",
    "model.vqmodel.encoder.down.{}.": "gen_vision_model.encoder.conv_blocks.{}.",
    "model.vqmodel.decoder.up.{}.block.": "gen_vision_model.decoder.conv_blocks.{}.res.",
    "model.vqmodel.decoder.up.{}.": "gen_vision_model.decoder.conv_blocks.{}.",
    **{
        f"model.vqmodel.{half}.mid.{theirs}.": f"gen_vision_model.{half}.mid.{ours}."
        for half in ("encoder", "decoder")
        for ours, theirs in enumerate(("block_1", "attn_1", "block_2"))
    },
    "model.vqmodel.": "gen_vision_model.",
}
# Names of releases before 5, which transformers renames at load too.
_OLDER = re.compile(
    r"^(?:model\.)?language_model\.(?=(?:model|lm_head)\.)(?:model\.(?=(?:embed_tokens|layers|norm)\.))?"
)


def our_name(name: str) -> str:
    """The network's name of a tensor in a checkpoint of transformers; the name itself where none is known."""
    if older := _OLDER.match(name):
        rest = name[older.end() :]
        name = rest if rest.startswith("lm_head.") else f"model.language_model.{rest}"
    elif not name.startswith(("model.", "lm_head.")):
        name = f"model.{name}"  # saved without the head for words
    return _translated(name, _NAMES.items())


def their_name(name: str) -> str:
    """What transformers calls a tensor of the network."""
    return _translated(name, [(ours, theirs) for theirs, ours in _NAMES.items()])


def _translated(name: str, pairs: Any) -> str:
    for old, new in pairs:
        if match := re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name):
            return str(new.format(*match.groups())) + name[match.end() :]
    return name


def original_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json of transformers with the sections of the original layout beside its own; any other as it is.

    `model_type` stays "janus", by which `config.parse_config` knows how the weights are split. Raises AppError for
    values that change the results and are not computed here.
    """
    if raw.get("model_type") != MODEL_TYPE or "gen_vision_config" in raw:
        return raw
    vision, vq, text = (fields_at(raw, name) for name in ("vision_config", "vq_config", "text_config"))
    _refuse_others(vision, {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_qk_norm": False, "num_channels": 3})
    _refuse_others(vision, {"attention_bias": True, "depth": 2})
    _refuse_others(vq, {"hidden_act": "gelu", "double_latent": False, "in_channels": 3, "out_channels": 3})
    _refuse_others(vq, {"num_hidden_layers": 2})
    hidden = Fields("text_config", raw.get("text_config")).whole("hidden_size", 4096)
    for fields, name in ((vision, "projection_dim"), (vq, "projection_dim"), (vq, "image_token_embed_dim")):
        if fields.values.get(name, 2048) != hidden:
            raise _not_computed(fields, name, fields.values.get(name, 2048))
    tied = raw.get("tie_word_embeddings")
    return {
        **raw,
        # Words are tied by the outer section, and unless it says no; a checkpoint with both tensors is read as it is.
        "language_config": {"vocab_size": 32000, **text.values, "tie_word_embeddings": tied is None or tied is True},
        "vision_config": {
            "params": {
                "image_size": vision.values.get("image_size", 384),
                "width": vision.values.get("hidden_size", 1024),
                "layers": vision.values.get("num_hidden_layers", 24),
                "heads": vision.values.get("num_attention_heads", 16),
                "patch_size": vision.values.get("patch_size", 16),
                "mlp_ratio": vision.values.get("mlp_ratio", 4.0),
            }
        },
        "gen_vision_config": {
            "params": {
                "image_token_size": vq.values.get("num_embeddings", 16384),
                "n_embed": vq.values.get("embed_dim", 8),
                "ch": vq.values.get("base_channels", 128),
                "ch_mult": vq.values.get("channel_multiplier", [1, 1, 2, 2, 4]),
                "num_res_blocks": vq.values.get("num_res_blocks", 2),
                "z_channels": vq.values.get("latent_channels", 256),
            }
        },
        "gen_head_config": {"params": {"image_token_embed": hidden}},
    }


def _refuse_others(fields: Fields, computed: Mapping[str, Any]) -> None:
    for name, value in computed.items():
        if fields.values.get(name, value) not in (value, None):
            raise _not_computed(fields, name, fields.values[name])


def _not_computed(fields: Fields, name: str, value: Any) -> AppError:
    return AppError("config_value_not_computed", field=f"{fields.section}.{name}", value=repr(value)[:60])
