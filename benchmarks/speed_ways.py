"""Three methods to draw the same picture, for `benchmarks.speed`: the reference's loop, transformers' Janus, and ours.

Each yields after every token. The first two run on transformers; the reference's loop is written here from a
description of deepseek-ai/Janus (demo/app_januspro.py and generation_inference.py), not copied from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.random_checkpoint import Size, config_of
from janus_app.models.janus.config import parse_config
from janus_app.models.janus.draw import SamplingRule, draw_tokens
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.sampling import exponential_noise
from janus_app.runtime.quantization import quantized_linear

GUIDANCE, TEMPERATURE = 5.0, 1.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Job:
    """The work: `count` pictures of `cells` tokens after a prompt of random `ids`."""

    count: int
    cells: int
    ids: Tensor
    seed: int = 0

    def noise(self, codes: int) -> Iterator[Tensor]:
        """Exp(1) noise [count, codes] for each cell: what `torch.multinomial` draws on a CPU from this seed."""
        stream = torch.Generator().manual_seed(self.seed)
        while True:
            yield torch.empty(self.count, codes).exponential_(1, generator=stream)

    def rows(self) -> Tensor:
        """The conditional and the unconditional prompt [2, T]; the latter keeps the first and the last token."""
        other = self.ids.clone()
        other[1:-1] = 1
        return torch.stack([self.ids, other])


def random_network(size: Size, device: torch.device, dtype: torch.dtype) -> JanusNetwork:
    """A network of this size with random weights, on which times do not depend.

    Matrices preserve the norm of their input. With smaller weights all tokens would be equally likely, and the noise
    alone would choose the tokens, whatever was computed.
    """
    with torch.device("meta"):
        network = JanusNetwork(parse_config(config_of(size))).eval().requires_grad_(False)
    network.to(dtype)
    for part in (network.vision_model, network.gen_vision_model, network.aligner):
        part.to_empty(device="meta")  # not used here
    source = torch.Generator(device).manual_seed(0)
    for path, module in network.named_modules():
        if path.startswith(("vision_model", "gen_vision_model", "aligner")):
            continue
        for leaf, tensor in list(module.named_parameters(recurse=False)):
            spread = tensor.shape[1] ** -0.5 if tensor.dim() == 2 else 0.02
            made = torch.empty(tensor.shape, device=device, dtype=dtype).normal_(0, spread, generator=source)
            made += float(leaf == "weight" and tensor.dim() == 1)
            setattr(module, leaf, nn.Parameter(made, requires_grad=False))
    return network


def eight_bit(network: JanusNetwork, device: torch.device) -> None:
    """Quantise the decoder's linear layers to int8 as the app does."""
    for block in network.language_model.model.blocks:
        for holder in (block.self_attn, block.mlp):
            for name, linear in list(holder.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(
                        holder, name, quantized_linear(linear.weight.data.cpu(), "int8", device, linear.weight.dtype)
                    )


@torch.inference_mode()
def ours(network: JanusNetwork, job: Job) -> Iterator[Tensor]:
    codes, stream = network.config.vq.codebook_size, torch.Generator().manual_seed(job.seed)
    embeds = network.text_embeds(job.rows().to(network.device))
    rule = SamplingRule(
        GUIDANCE,
        TEMPERATURE,
        lambda cells: exponential_noise([stream], job.count * codes, cells).view(cells, job.count, codes),
    )
    yield from draw_tokens(network, list(embeds), job.count, rule, torch.full((job.cells,), -1))


# ---- the reference's loop


def llama(network: JanusNetwork, attention: str) -> Any:
    """transformers' Llama with the tensors of the network's language model."""
    import transformers

    trunk = network.language_model.model
    with torch.device("meta"):
        other = transformers.LlamaModel(_llama_config(trunk.config, attention)).eval().requires_grad_(False)
    other.load_state_dict(trunk.state_dict(), assign=True)
    other.rotary_emb = type(other.rotary_emb)(other.config).to(network.device)  # its angles are not in a state dict
    return other


def _llama_config(c: DecoderConfig, attention: str) -> Any:
    import transformers

    more: dict[str, Any] = {"attn_implementation": attention}
    return transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        max_position_embeddings=c.max_position_embeddings,
        rms_norm_eps=c.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        **more,
    )


@torch.inference_mode()
def reference(network: JanusNetwork, other: Any, job: Job) -> Iterator[Tensor]:
    """Two alternating rows per picture, a prefill for all rows although prompts are equal, a cache that grows by `cat`.

    `torch.multinomial` is written as an exponential race, so that both methods use the same noise.
    """
    noise = job.noise(network.config.vq.codebook_size)
    embeds = network.text_embeds(job.rows().to(network.device).repeat(job.count, 1))
    drawn = torch.zeros(job.count, job.cells, dtype=torch.long, device=network.device)
    past = None
    for cell in range(job.cells):
        out = other(inputs_embeds=embeds, use_cache=True, past_key_values=past)
        past = out.past_key_values
        logits = _image_head(network, out.last_hidden_state[:, -1])
        conditional, unconditional = logits[0::2], logits[1::2]
        logits = unconditional + GUIDANCE * (conditional - unconditional)
        chances = torch.softmax(logits / TEMPERATURE, dim=-1)
        token = (chances.float() / next(noise).to(chances.device)).argmax(-1, keepdim=True)
        drawn[:, cell] = token[:, 0]
        yield drawn
        token = torch.cat([token, token], dim=1).view(-1)
        embeds = _token_embeds(network, token)[:, None]


def _image_head(network: JanusNetwork, x: Tensor) -> Tensor:
    """The network's head with PyTorch's products, as in the reference."""
    first, last = network.gen_head.output_mlp_projector, network.gen_head.vision_head
    return F.linear(F.gelu(F.linear(x, first.weight, first.bias)), last.weight, last.bias)


def _token_embeds(network: JanusNetwork, tokens: Tensor) -> Tensor:
    first, between, last = network.gen_aligner.layers
    return F.linear(between(F.linear(network.gen_embed(tokens), first.weight, first.bias)), last.weight, last.bias)


# ---- transformers' own Janus


class Native:
    """transformers' JanusForConditionalGeneration with the network's language model and a head of equal cost.

    It draws all tokens in one call, so the time of a call with fewer tokens is subtracted.
    """

    def __init__(self, network: JanusNetwork, cells: int) -> None:
        import transformers

        c = network.config
        hidden = c.language.hidden_size
        config = transformers.JanusConfig(
            image_token_id=3,
            text_config=_llama_config(replace(c.language, num_hidden_layers=1), "sdpa").to_dict(),
            vision_config={
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 16,
                "projection_dim": hidden,
                "num_image_tokens": cells,
            },
            vq_config={
                "embed_dim": c.vq.code_dim,
                "num_embeddings": c.vq.codebook_size,
                "latent_channels": 32,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "projection_dim": hidden,
                "image_token_embed_dim": hidden,
            },
        )
        self.model = transformers.JanusForConditionalGeneration(config).eval().requires_grad_(False)
        self.model.to(network.device, network.dtype)
        self.model.model.language_model = llama(network, "sdpa")  # so that its layers are in memory once
        self.model.config.text_config.num_hidden_layers = c.language.num_hidden_layers
        self.settings = transformers.GenerationConfig(
            bos_token_id=0,
            eos_token_id=4,
            pad_token_id=1,
            do_sample=True,
            guidance_scale=GUIDANCE,
            generation_kwargs={"boi_token_id": 2},
        )

    def draw(self, job: Job) -> Tensor:
        self.model.model.vision_model.config.num_image_tokens = job.cells
        self.settings.num_return_sequences = job.count
        ids = job.ids[None].to(self.model.device)
        drawn: Tensor = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_mode="image",
            generation_config=self.settings,
        )
        return drawn


def shorter(job: Job, cells: int) -> Job:
    return replace(job, cells=cells)
