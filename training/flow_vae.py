"""Train the small AutoencoderKL of the embedded JanusFlow for the fixed latents of `flow_codes`.

    python -m training.flow_vae --out runs/vae.pt --minutes 60 [--resume]

Encoder and decoder are trained with supervision and without an adversary. The decoder's inner levels learn through
linear readouts, at first alone, which is cheap. Its latents are noisy, so that it corrects small errors of the flow.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of
from training.optim import optimisers
from training.picture_tokenizer import (
    drawn_or_noisy,
    pictures_loss,
    random_tokens,
    share_read,
    tile_weight,
)
from training.pictures import SIDE, TILE, Painter
from training.trainer import Run, device_of, load_state, options_parser, psnr

WIDTHS = (16, 16, 24, 48, 72)
PATCH = 1 << len(WIDTHS) - 1  # pixels a side of a latent
LOG_VARIANCE = -12.0  # of the encoder's output, which is nearly deterministic


def config() -> dict[str, Any]:
    """vae/config.json, with diffusers' field names."""
    levels = len(WIDTHS)
    return {
        "act_fn": "silu",
        "block_out_channels": list(WIDTHS),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "layers_per_block": 1,
        "mid_block_add_attention": True,
        "norm_num_groups": 8,
        "out_channels": 3,
        "sample_size": SIDE,
        "scaling_factor": SCALE,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


class Trained(nn.Module):
    """The autoencoder, with linear readouts of the picture from the decoder's inner levels."""

    def __init__(self) -> None:
        super().__init__()
        self.vae: Any = AutoencoderKL.from_config(config())
        widths = list(reversed(WIDTHS))
        self.views = nn.ModuleList(
            nn.Conv2d(w, 3 * (PATCH >> max(i - 1, 0)) ** 2, 1) for i, w in enumerate([widths[0], *widths])
        )
        moments = self.vae.quant_conv
        with torch.no_grad():
            moments.weight[LATENT_CHANNELS:] = 0
            moments.bias[LATENT_CHANNELS:] = LOG_VARIANCE

    def draw(self, latents: Tensor, low: bool) -> list[Tensor]:
        """Pictures [n, 3, 192, 192] read from each level of the decoder; the last is the decoder's own unless `low`.

        low: stop at a quarter of the resolution, which is a third of the work.
        """
        decoder = self.vae.decoder
        x = decoder.mid_block(decoder.conv_in(self.vae.post_quant_conv(latents)))
        seen = [F.pixel_shuffle(self.views[0](x), PATCH)]
        for i, block in enumerate(decoder.up_blocks[: 2 if low else None]):
            for resnet in block.resnets:
                x = resnet(x, None)
            if low or i < len(WIDTHS) - 1:
                seen.append(F.pixel_shuffle(self.views[i + 1](x), PATCH >> i))
            for up in block.upsamplers or []:
                if not (low and i == 1):
                    x = up(x)
        return seen if low else [*seen, decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))]

    def read(self, pixels: Tensor) -> Tensor:
        """Pictures to the mean of their latents [n, 16, 12, 12]."""
        moments = self.vae.quant_conv(self.vae.encoder(pixels))
        return moments[:, :LATENT_CHANNELS]


def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """Logits [n * 36, N_TILES]: how close each tile of latents [n, 16, 12, 12] is to every tile of the world."""
    read = F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).flatten(0, 1)
    known = codes.flatten(1)
    return 0.5 * (2 * read @ known.T - known.square().sum(1))


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    model = Trained().to(device).to(memory_format=torch.channels_last)
    painter, codes = Painter(device), latent_table().to(device)
    edge = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "views")
    made = optimisers(model, lambda name, p: p.ndim >= 2 and not any(e in name for e in edge), args.lr, 0.5 * args.lr)
    run = Run(args, made, warmup=50, floor=0.01)
    if args.resume and args.out.exists():
        state = load_state(args.out)
        model.load_state_dict(state["model"])
        run.resume(state)
    rng = np.random.default_rng((args.seed, run.step))
    moments = model.vae.quant_conv
    for left in run.steps(args.out, lambda: {"model": model.state_dict()}):
        low = not args.encoder_only and 1 - left < args.low
        batch = args.batch * (2 if low else 1)
        tokens = random_tokens(rng, batch).to(device)
        pixels = painter.draw(tokens).contiguous(memory_format=torch.channels_last)
        latents = latents_of(tokens, codes)
        weight = tile_weight(tokens)
        if args.encoder_only:
            with torch.no_grad():
                pictures = [model.draw(latents, False)[-1]]
            loss = torch.zeros((), device=device)
        else:
            noise = torch.randn_like(latents) * (0.35 * torch.rand(batch, 1, 1, 1, device=device))
            pictures = model.draw(latents + noise, low)
            loss = pictures_loss(pictures, pixels, weight)
        if args.encoder_only or (not low and run.step % args.encode_every == 0):
            read = model.read(drawn_or_noisy(pictures[-1], pixels))
            error = (read - latents).square() * F.interpolate(weight[:, :, ::TILE, ::TILE], scale_factor=2)
            which = nearest(read, codes)
            loss = loss + error.mean() + 0.3 * F.cross_entropy(which, tokens.flatten())
            run.log({"tiles read": share_read(which.argmax(-1), tokens.flatten())})
        run.log({"loss": float(loss.detach()), "psnr": psnr(pictures[-1], pixels)})
        loss.backward()
        for p in (moments.weight, moments.bias):  # the variance stays as it is
            if p.grad is not None:
                p.grad[LATENT_CHANNELS:] = 0


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=60, lr=3e-3, decay=0.6)
    parser.add_argument(
        "--low", type=float, default=0.3, help="share of the time for the decoder's coarse levels alone"
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures a step, twice as many while --low")
    parser.add_argument("--encode-every", type=int, default=1, help="train the encoder in every Nth step")
    parser.add_argument("--encoder-only", action="store_true", help="train the encoder alone, keep the decoder")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
