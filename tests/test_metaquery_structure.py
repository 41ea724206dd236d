"""MetaQuery beside its parity: details of its layers, and what is computed once."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from janus_app.models.metaquery.connector import HEAD_DIM, connector, rotate
from janus_app.types import (
    EditRequest,
    GenerateRequest,
)
from tests.metaquery_golden import CHECKPOINTS, LLAVA, QWEN, last, model, picture, relative


def test_connector_epsilons_and_no_final_norm() -> None:
    for name in CHECKPOINTS:
        encoder, _, gelu, _, norm = model(name).network.connector
        assert (norm.eps, gelu.approximate) == (1e-5, "tanh")
        assert [child for child, _ in encoder.named_children()] == ["layers"]
        for layer in encoder.layers:
            assert layer.input_layernorm.eps == layer.post_attention_layernorm.eps == 1e-6


def test_connector_applies_rope_before_the_head_norm() -> None:
    torch.manual_seed(0)
    attention = connector(128, 1, 8)[0].layers[0].self_attn
    for norm in (attention.q_norm, attention.k_norm):
        nn.init.uniform_(norm.gamma, 0.5, 2)
    x = torch.randn(1, 5, 128)

    def by_hand(norm_first: bool) -> Tensor:
        q, k, v = (p(x).view(5, 2, 64).transpose(0, 1) for p in (attention.q_proj, attention.k_proj, attention.v_proj))

        def turn(part: Tensor) -> Tensor:
            """Pairs (i, i + 32) turned by position / 10000^(i / 32)."""
            angle = torch.arange(5.0)[:, None] / 10000 ** (torch.arange(32.0) / 32)
            a, b = part[..., :32], part[..., 32:]
            return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

        def length(part: Tensor, gamma: Tensor) -> Tensor:
            return part / part.norm(dim=-1, keepdim=True) * gamma * 8

        both = [(q, attention.q_norm.gamma), (k, attention.k_norm.gamma)]
        q, k = (turn(length(part, g)) if norm_first else length(turn(part), g) for part, g in both)
        mixed = torch.softmax(q @ k.transpose(1, 2) / 8, dim=-1) @ v
        return attention.o_proj(mixed.transpose(0, 1).reshape(1, 5, 128))

    assert relative(attention(x), by_hand(norm_first=False)) < 1e-5
    assert relative(attention(x), by_hand(norm_first=True)) > 1e-2
    assert relative(rotate(x.view(1, 5, 2, HEAD_DIM).transpose(1, 2))[:, :, 0], x[:, 0].view(1, 2, 64)) == 0


def test_connector_attention_is_bidirectional() -> None:
    torch.manual_seed(0)
    layers, x = connector(64, 2, 8), torch.randn(1, 6, 64)
    other = x.clone()
    other[0, -1] += 1
    assert relative(layers(other)[:, 0], layers(x)[:, 0]) > 1e-4
    other = x.clone()
    other[0, 0] += 1
    assert relative(layers(other)[:, -1], layers(x)[:, -1]) > 1e-4


def test_qwen_pictures_have_m_rope_positions() -> None:
    reader = model(QWEN).reader
    seen = [reader.encode_image(picture("b"), framed=True)]
    ids = model(QWEN).conditioner.prompt_ids("blue", [picture("b")], seen)
    positions, offset = reader.positions(ids, seen)
    places = torch.tensor(ids) == reader.image_id
    frame, row, column = positions[:, 0, places]
    _, rows, columns = (seen[0].grid // 2).tolist()
    assert len(set(frame.tolist())) == 1 and len(set(row.tolist())) == rows and len(set(column.tolist())) == columns
    assert offset == int(positions.max()) + 1 - len(ids) < 0


@pytest.mark.parametrize("name", [LLAVA, "llavaov_sd15"])
@torch.inference_mode()
def test_precomputed_conditioning_equals_plain_cross_attention(name: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0

    network = model(name).network
    plain = copy.deepcopy(network.transformer)
    for path, module in plain.named_modules():
        if path.endswith("attn2"):
            module.set_processor(SanaAttnProcessor2_0() if name == LLAVA else AttnProcessor2_0())
    torch.manual_seed(1)
    width = network.connector[1].out_features
    captions = torch.randn(3, network.config.queries, width)
    latents = torch.randn(2, network.config.latent_channels, 16, 16)
    model(name).denoiser.set_conditioning(captions)
    projected: list[int] = []
    watched = [m for p, m in network.transformer.named_modules() if p.endswith(("attn2.to_k", "attn2.to_v"))]
    hooks = [m.register_forward_hook(lambda *_: projected.append(1)) for m in watched]
    for time in (torch.tensor(999), torch.tensor(374)):
        ours = model(name).denoiser(latents, time)
        theirs = plain(
            latents.repeat(3, 1, 1, 1),
            encoder_hidden_states=captions.repeat_interleave(2, 0),
            timestep=time.expand(6),
            return_dict=False,
        )[0]
        assert relative(ours, theirs.unflatten(0, (3, 2))) < 1e-6
    for hook in hooks:
        hook.remove()
    assert watched and not projected  # no step asked for keys or values again


def test_prompt_is_encoded_once_for_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, calls = model(LLAVA), Counter[str]()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(ours.reader, "read")
    counted(ours.reader, "_encode_image")
    ours.conditioner._cache.clear()
    last(ours.generate(GenerateRequest("a fox", negative="dull", count=3, steps=1)))
    assert calls == {"read": 2}
    last(ours.generate(GenerateRequest("a wolf", negative="dull", steps=1)))
    assert calls == {"read": 3}  # the negative prompt was kept
    last(ours.generate(GenerateRequest("a bear", guidance=1, steps=1)))
    assert calls == {"read": 4}  # guidance 1 needs no negative row
    last(ours.edit(EditRequest("a hat", picture("a"), method="instruct", count=2, steps=1)))
    assert calls == {"read": 7, "_encode_image": 2}  # three rows show the picture or a black one: two looks
