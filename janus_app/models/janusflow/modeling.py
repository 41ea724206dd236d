"""The JanusFlow network. Module names are those of the checkpoint, so tensors are loaded under their own names.

JanusFlow (Ma et al. 2024, figure 2): a SigLIP encoder reads pictures; a shallow ConvNeXt encoder and decoder carry
noisy latents into the language model and its features back out as the velocity of a rectified flow (Liu et al. 2022).
Gradients stay on here, because training uses the same modules.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.janusflow.config import FlowDecoderConfig, FlowEncoderConfig, JanusFlowConfig
from janus_app.nn.llama import Cache, KVCache, LlamaForCausalLM, RMSNorm
from janus_app.nn.siglip import SigLIP

TIME_SCALE = 1000.0  # the embedding gets the time, 0..1, multiplied by this
_LONGEST_PERIOD = 10_000.0
_DEPTHWISE = 7
_EXPANSION = 4


class _VisionModel(nn.Module):
    def __init__(self, config: JanusFlowConfig) -> None:
        super().__init__()
        self.vision_tower = SigLIP(config.vision)


class _GlobalResponseNorm(nn.Module):
    """Global response normalisation of [n, h, w, C] (Woo et al. 2023, algorithm 1), with its identity as `w nx + 1`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.empty(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = norm / (norm.mean(-1, keepdim=True) + 1e-6)
        return (self.weight * share + 1) * x + self.bias


class _ConvNextBlock(nn.Module):
    """A ConvNeXt V2 block (Woo et al. 2023) whose *output* is scaled and shifted by the time embedding."""

    def __init__(self, channels: int, hidden_size: int, eps: float, bias: bool) -> None:
        super().__init__()
        wide = channels * _EXPANSION
        self.depthwise = nn.Conv2d(channels, channels, _DEPTHWISE, padding=_DEPTHWISE // 2, groups=channels, bias=bias)
        self.norm = RMSNorm(channels, eps)
        self.channelwise_linear_1 = nn.Linear(channels, wide, bias=bias)
        self.channelwise_norm = _GlobalResponseNorm(wide)
        self.channelwise_linear_2 = nn.Linear(wide, channels, bias=bias)
        self.cond_embeds_mapper = nn.Linear(hidden_size, 2 * channels, bias=bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.channelwise_norm(F.gelu(self.channelwise_linear_1(y)))
        x = x + self.channelwise_linear_2(y).permute(0, 3, 1, 2)
        scale, shift = self.cond_embeds_mapper(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class _Blocks(nn.Module):
    def __init__(self, count: int, channels: int, hidden_size: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(_ConvNextBlock(channels, hidden_size, eps, bias) for _ in range(count))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x, time)
        return x


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int, hidden_size: int, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, hidden_size, bias=bias)
        self.linear_2 = nn.Linear(hidden_size, hidden_size, bias=bias)

    def forward(self, t: Tensor) -> Tensor:
        """Times [n], 0..1, to [n, hidden_size]; the sinusoids are computed in float32, cosines first.

        A float64 `t` on the CPU is scaled before it is rounded, as in the reference.
        """
        weight, half = self.linear_1.weight, self.width // 2
        scaled = (t * TIME_SCALE).float().to(weight.device)  # rounded first: not every device has float64
        rates = torch.exp(-math.log(_LONGEST_PERIOD) * torch.arange(half, device=weight.device).float() / half)
        angles = scaled[:, None] * rates
        waves = F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, self.width % 2))
        return self.linear_2(F.silu(self.linear_1(waves.to(weight.dtype))))


class FlowEncoder(nn.Module):
    """`vision_gen_enc_model`."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.time_embed = _TimeEmbedding(config.width, config.hidden_size, config.bias)
        self.in_conv = nn.Conv2d(
            config.in_channels, config.width, config.kernel, stride=config.stride, padding=config.padding
        )
        self.mid_block = _Blocks(config.blocks, config.width, config.hidden_size, config.eps, config.bias)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        """Latents [n, C, h, w] and time embeddings [n, hidden] to features [n, width, h / stride, w / stride]."""
        return self.mid_block(self.in_conv(z), time)


class _Unpatchify(nn.Module):
    def __init__(self, channels: int, out_channels: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, eps)
        self.unpatch_conv = nn.Conv2d(channels, 4 * out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(self.unpatch_conv(x), 2)


class FlowDecoder(nn.Module):
    """`vision_gen_dec_model`: the encoder's features are a long skip connection, concatenated behind the input norm."""

    def __init__(self, config: FlowDecoderConfig) -> None:
        super().__init__()
        both = config.in_channels + config.skip
        self.input_norm = RMSNorm(config.in_channels, config.eps)
        self.mid_block = _Blocks(config.blocks, both, config.hidden_size, config.eps, config.bias)
        last = config.upsamples - 1
        self.out_convs = nn.ModuleList(
            _Unpatchify(
                both if rank == 0 else config.skip,
                config.out_channels if rank == last else config.skip,
                config.eps,
                config.bias,
            )
            for rank in range(config.upsamples)
        )

    def forward(self, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Features [n, in_channels, g, g'] and [n, skip, g, g'] to velocities [n, C, h, w]."""
        x = self.input_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.mid_block(torch.cat([x, skip], dim=1), time)
        for unpatchify in self.out_convs:
            x = unpatchify(x)
        return x


class JanusFlowNetwork(nn.Module):
    """All of a JanusFlow checkpoint. The velocity of latents is `encode`, the language model, `decode`:

    time = network.time_embeds(t)                                  # [n, hidden]
    tokens, skip = network.encode(z, time)                         # [n, g * g', hidden], [n, width, g, g']
    inputs = torch.cat([prompt, time[:, None], tokens], dim=1)     # the prompt without its last id
    velocity = network.decode(network(inputs)[:, -tokens.shape[1] :], skip, time)
    """

    def __init__(self, config: JanusFlowConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.language.hidden_size
        self.vision_und_enc_model = _VisionModel(config)
        self.vision_und_enc_aligner = nn.Linear(config.vision.width, hidden)
        self.beg_of_und_embed = nn.Parameter(torch.empty(1, hidden))
        self.vision_gen_enc_model = FlowEncoder(config.encoder)
        self.vision_gen_enc_aligner = nn.Linear(config.encoder.width, hidden)
        self.language_model = LlamaForCausalLM(config.language)
        self.vision_gen_dec_aligner_norm = RMSNorm(hidden, config.language.rms_norm_eps)
        self.vision_gen_dec_aligner = nn.Linear(hidden, config.decoder.in_channels)
        self.vision_gen_dec_model = FlowDecoder(config.decoder)

    @property
    def device(self) -> torch.device:
        return self.beg_of_und_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.beg_of_und_embed.dtype

    def picture_embeds(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, S, S] to decoder inputs [n, 1 + patches, hidden].

        The first row is learned and replaces the embedding of begin-of-image.
        """
        features = self.vision_und_enc_aligner(self.vision_und_enc_model.vision_tower(pixels))
        return torch.cat([self.beg_of_und_embed.expand(len(features), 1, -1), features], dim=1)

    def text_embeds(self, ids: Tensor) -> Tensor:
        return self.language_model.model.embed_tokens(ids)

    def time_embeds(self, t: Tensor) -> Tensor:
        """Times [n], 0 at noise and 1 at the picture, to [n, hidden]."""
        return self.vision_gen_enc_model.time_embed(t)

    def encode(self, z: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [n, C, h, w] to decoder inputs [n, g * g', hidden], row by row, and the skip [n, width, g, g']."""
        skip = self.vision_gen_enc_model(z, time)
        return self.vision_gen_enc_aligner(skip.flatten(2).transpose(1, 2)), skip

    def decode(self, hidden: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Final hidden states of the latents' positions [n, g * g', hidden] to their velocity [n, C, h, w]."""
        features = self.vision_gen_dec_aligner(self.vision_gen_dec_aligner_norm(hidden))
        grid = features.transpose(1, 2).unflatten(2, skip.shape[2:])
        return self.vision_gen_dec_model(grid, skip, time)

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(self.config.language, rows, capacity, device=self.device, dtype=self.dtype)

    def forward(self, embeds: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Decoder inputs [rows, T, hidden] to final hidden states of the same shape."""
        return self.language_model.model(embeds, positions, cache)
