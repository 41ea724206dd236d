"""transformers' own Janus as a second witness: the same weights under its names give the same numbers.

It cannot be the engine (other names, other layout on the Hub, its own preprocessing), but it was written by others.
"""

from __future__ import annotations

import re
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from janus_app.models.janus.pipeline import JanusModel
from tests.conftest import GOLDEN, loaded

transformers = pytest.importorskip("transformers", reason="transformers is not installed (requirements-dev.txt)")

# transformers builds the image head with input and output width exchanged, so a head wider than the decoder
# (janus_pro_1b here; no published checkpoint) does not load into it.
CASES = ("janus_1_3b", "janus_pro_7b")

RENAMES = (
    (r"^vision_model\.vision_tower\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
    (r"^vision_model\.vision_tower\.norm\.", "model.vision_model.post_layernorm."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.norm(\d)\.", r"model.vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^vision_model\.vision_tower\.blocks\.(\d+)\.mlp\.", r"model.vision_model.encoder.layers.\1.mlp."),
    (
        r"^vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.",
        r"model.vision_model.encoder.layers.\1.self_attn.projection_layer.",
    ),
    (r"^aligner\.layers\.0\.", "model.aligner.fc1."),
    (r"^aligner\.layers\.2\.", "model.aligner.hidden_layers.0."),
    (r"^gen_aligner\.layers\.0\.", "model.generation_aligner.fc1."),
    (r"^gen_aligner\.layers\.2\.", "model.generation_aligner.hidden_layers.0."),
    (r"^gen_embed\.", "model.generation_embeddings."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.", "model.generation_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.", ""),
    (r"^gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.encoder.down.\1.block."),
    (r"^gen_vision_model\.encoder\.conv_blocks\.", "model.vqmodel.encoder.down."),
    (r"^gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.decoder.up.\1.block."),
    (r"^gen_vision_model\.decoder\.conv_blocks\.", "model.vqmodel.decoder.up."),
    (r"^gen_vision_model\.(\w+)\.mid\.0\.", r"model.vqmodel.\1.mid.block_1."),
    (r"^gen_vision_model\.(\w+)\.mid\.1\.", r"model.vqmodel.\1.mid.attn_1."),
    (r"^gen_vision_model\.(\w+)\.mid\.2\.", r"model.vqmodel.\1.mid.block_2."),
    (r"^gen_vision_model\.", "model.vqmodel."),
)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("pos_embed"):
            out["model.vision_model.embeddings.position_embedding.weight"] = tensor[0]
            continue
        if found := re.match(r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"model.vision_model.encoder.layers.{found[1]}.self_attn.{part}_proj.{found[2]}"] = piece
            continue
        for pattern, name_there in RENAMES:
            if re.match(pattern, name):
                out[re.sub(pattern, name_there, name)] = tensor
                break
    return out


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> tuple[JanusModel, torch.nn.Module, str]:
    ours = cast(JanusModel, loaded(GOLDEN / request.param / "checkpoint").model)
    c = ours.network.config
    config = transformers.JanusConfig(
        image_token_id=ours.tokenizer.id("<image_placeholder>"),
        tie_word_embeddings=False,
        text_config={
            "model_type": "llama",
            "hidden_size": c.language.hidden_size,
            "intermediate_size": c.language.intermediate_size,
            "num_hidden_layers": c.language.num_hidden_layers,
            "num_attention_heads": c.language.num_attention_heads,
            "num_key_value_heads": c.language.num_key_value_heads,
            "vocab_size": c.language.vocab_size,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 16384,
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": c.vision.width,
            "num_hidden_layers": c.vision.layers,
            "num_attention_heads": c.vision.heads,
            "image_size": c.vision.image_size,
            "patch_size": c.vision.patch_size,
            "mlp_ratio": c.vision.mlp_ratio,
            "projection_dim": c.language.hidden_size,
            "num_image_tokens": c.vision.patches,
        },
        vq_config={
            "embed_dim": c.vq.code_dim,
            "num_embeddings": c.vq.codebook_size,
            "latent_channels": c.vq.z_channels,
            "base_channels": c.vq.ch,
            "channel_multiplier": list(c.vq.ch_mult),
            "num_res_blocks": c.vq.num_res_blocks,
            "projection_dim": c.language.hidden_size,
            "image_token_embed_dim": c.head_width,
            "num_patches": ours.grid,
        },
    )
    theirs = transformers.JanusForConditionalGeneration(config).eval()
    missing, unexpected = theirs.load_state_dict(renamed(ours.network.state_dict()), strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    return ours, theirs, request.param


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@torch.inference_mode()
def test_understanding_logits(pair: tuple[JanusModel, torch.nn.Module, str]) -> None:
    ours, theirs, name = pair
    golden = load_file(GOLDEN / name / "expected" / "und_multi_image.safetensors")
    out = theirs(
        input_ids=golden["input_ids"], pixel_values=golden["pixel_values"][0], attention_mask=golden["attention_mask"]
    )
    embeds = ours.network.text_embeds(golden["input_ids"])
    embeds[golden["images_seq_mask"]] = ours.network.picture_embeds(golden["pixel_values"][0]).flatten(0, 1)
    close(ours.network.language_model.lm_head(ours.network(embeds)), out.logits, 1e-4)


@torch.inference_mode()
def test_image_logits_and_pixels(pair: tuple[JanusModel, torch.nn.Module, str]) -> None:
    ours, theirs, name = pair
    golden = load_file(GOLDEN / name / "expected" / "gen_greedy.safetensors")
    tokens = golden["image_tokens"]
    embeds = torch.cat(
        [ours.network.text_embeds(golden["prompt_ids"].view(1, -1)), ours.network.token_embeds(tokens)], 1
    )
    close(ours.network.token_embeds(tokens), theirs.prepare_embeddings_for_image_generation(tokens), 1e-5)
    hidden = theirs.model.language_model(inputs_embeds=embeds).last_hidden_state
    close(ours.network.gen_head(ours.network(embeds)), theirs.model.generation_head(hidden), 1e-4)
    pixels = ours.network.gen_vision_model.decode(tokens)
    close(pixels, theirs.decode_image_tokens(tokens).permute(0, 3, 1, 2), 1e-4)
