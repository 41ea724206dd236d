"""Train the decoder of the embedded MetaQuery's tiny DC-AE; its latents are fixed here.

    python -m training.metaquery_vae --out runs/metaquery/vae.pt --minutes 15 [--resume]

One latent cell is one tile of 32 x 32 pixels: 16 numbers say which object (8), which part of it (3), which colour (3)
and which background (2). So latents are looked up in a table, and the diffusion model is trained without an
autoencoder. Of DC-AE (Chen et al. 2024) only the decoder is trained, because MetaQuery reads pictures with the
language model.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor, nn

from training.flow_codes import corners, spread
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers
from training.picture_tokenizer import pictures_loss, tile_weight
from training.pictures import Painter
from training.trainer import Run, device_of, load_state, options_parser, psnr
from training.world import GRID, PARTS, SMALL, tile_factors

CHANNELS = 16
WIDTHS = (8, 24, 24, 48, 96, 192)  # from the finest level to the tiles; the finest is only a pixel shuffle
_OBJECT = 8


@lru_cache(maxsize=1)
def latent_table() -> Tensor:
    """[N_TILES, 16]: the latents of every tile, with values of about -2 to 2."""
    kind, colour, background = torch.from_numpy(tile_factors()).unbind(1)
    drawn = (kind > 0).float()[:, None]
    thing, part = (kind - 1).clamp(min=0) // PARTS, (kind - 1).clamp(min=0) % PARTS
    small = (part == SMALL).float()[:, None]
    halves = torch.stack([part // 2 * 2.0 - 1, part % 2 * 2.0 - 1], dim=1) * (1 - small)
    what = torch.cat([spread(N_THINGS, _OBJECT)[thing], halves, 2 * small - 1, corners(8, 3)[colour]], dim=1)
    return torch.cat([what * drawn, corners(4, 2)[background]], dim=1)


def latents_of(tokens: Tensor, table: Tensor) -> Tensor:
    """Tile numbers [n, 36] to latents [n, 16, 6, 6]; table from `latent_table`."""
    return table[tokens].view(-1, GRID, GRID, CHANNELS).permute(0, 3, 1, 2)


def config() -> dict[str, Any]:
    """vae/config.json, with diffusers' field names."""
    levels = len(WIDTHS)
    kinds = ["ResBlock"] * (levels - 1) + ["EfficientViTBlock"]
    depths = [0, *[1] * (levels - 2), 2]
    return {
        "attention_head_dim": 32,
        "decoder_act_fns": "silu",
        "decoder_block_out_channels": list(WIDTHS),
        "decoder_block_types": kinds,
        "decoder_layers_per_block": depths,
        "decoder_norm_types": "rms_norm",
        "decoder_qkv_multiscales": [[] for _ in WIDTHS],
        "downsample_block_type": "pixel_unshuffle",
        "encoder_block_out_channels": list(WIDTHS),
        "encoder_block_types": kinds,
        "encoder_layers_per_block": depths,
        "encoder_qkv_multiscales": [[] for _ in WIDTHS],
        "in_channels": 3,
        "latent_channels": CHANNELS,
        "scaling_factor": 1.0,
        "upsample_block_type": "pixel_shuffle",
    }


class Trained(nn.Module):
    """The decoder, and linear readouts of the picture from its inner levels."""

    def __init__(self) -> None:
        super().__init__()
        whole: Any = AutoencoderDC.from_config(config())
        self.decoder: Any = whole.decoder
        levels = len(WIDTHS)
        self.views = nn.ModuleList(nn.Conv2d(WIDTHS[i], 3 * (1 << 2 * i), 1) for i in range(1, levels))

    def draw(self, latents: Tensor, levels: int) -> list[Tensor]:
        """Pictures [n, 3, 192, 192] read from the `levels` coarsest levels; the last of all is the decoder's own."""
        decoder = self.decoder
        x = decoder.conv_in(latents) + latents.repeat_interleave(decoder.in_shortcut_repeats, dim=1)
        seen = []
        for i in range(len(WIDTHS) - 1, max(0, len(WIDTHS) - 1 - levels), -1):
            x = decoder.up_blocks[i](x)
            seen.append(F.pixel_shuffle(self.views[i - 1](x), 1 << i))
        if levels < len(WIDTHS):
            return seen
        x = decoder.norm_out(x.movedim(1, -1)).movedim(-1, 1)
        return [*seen, decoder.conv_out(decoder.conv_act(x))]


def crowded(rng: np.random.Generator, count: int) -> Tensor:
    """Tile numbers [count, 36] of crowded pictures, in which every tile occurs often, and of nearly empty ones, because
    attention over the whole picture depends on how full it is."""
    empty = rng.choice([0.2, 0.2, 0.6, 0.9], size=(count, 1))
    size = np.where(rng.random((count, 9)) < empty, 0, np.where(rng.random((count, 9)) < 0.3, 1, 2))
    fields = np.stack(
        [
            rng.integers(N_THINGS, size=(count, 9)),
            rng.integers(N_COLOURS, size=(count, 9)),
            np.broadcast_to(rng.integers(N_BACKGROUNDS, size=(count, 1)), (count, 9)),
            size,  # nothing, a small one, a large one
        ]
    )
    thing, colour, ground, size = fields[:, :, :, None]  # [count, 9, 1]
    part = np.arange(4)
    place = np.where(size == 1, SMALL, part)
    tiles = N_BACKGROUNDS + ((thing * PARTS + place) * N_COLOURS + colour) * N_BACKGROUNDS + ground
    tiles = np.where((size == 0) | ((size == 1) & (part > 0)), ground, tiles)
    return torch.from_numpy(tiles.reshape(count, 3, 3, 2, 2).transpose(0, 1, 3, 2, 4).reshape(count, GRID * GRID))


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    model = Trained().to(device).to(memory_format=torch.channels_last)
    painter, codes = Painter(device), latent_table().to(device)
    made = optimisers(
        model,
        lambda name, p: p.ndim >= 2 and "views" not in name and "conv_depth" not in name,
        args.lr,
        0.5 * args.lr,
    )
    run = Run(args, made, warmup=50, floor=0.01)
    if args.resume and args.out.exists():
        state = load_state(args.out)
        model.load_state_dict(state["model"])
        run.resume(state)
    rng = np.random.default_rng((args.seed, run.step))
    for left in run.steps(args.out, lambda: {"model": model.state_dict()}):
        spent = 1 - left
        levels = len(WIDTHS) if args.resume or spent >= args.low else 1 if spent < args.low / 2 else 2
        tokens = crowded(rng, args.batch * (8 if levels == 1 else 3 if levels == 2 else 1)).to(device)
        pixels = painter.draw(tokens).contiguous(memory_format=torch.channels_last)
        latents = latents_of(tokens, codes)
        latents = latents + torch.randn_like(latents) * (0.35 * torch.rand(len(latents), 1, 1, 1, device=device))
        pictures = model.draw(latents, levels)
        loss = pictures_loss(pictures, pixels, tile_weight(tokens))
        loss.backward()
        run.log({"levels": levels, "loss": float(loss.detach()), "psnr": psnr(pictures[-1], pixels)})


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=15, lr=3e-3, decay=0.5)
    parser.add_argument("--low", type=float, default=0.4, help="share of the time for the coarse levels alone")
    parser.add_argument("--batch", type=int, default=12, help="pictures a step, more of them while --low")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
