"""Train the small AutoencoderKL of the embedded JanusFlow: `flow_codes` fixes the latents, both halves learn to keep to
them.

    python -m training.flow_vae --out runs/vae.pt --minutes 60 [--resume]

Like the picture tokenizer's, both are supervised problems without an adversary. The decoder's inner levels learn
through linear readouts (first alone, which is cheap); it sees noisy latents, so it snaps what a flow leaves unsure.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of
from training.objects import N_BACKGROUNDS
from training.optim import optimisers, set_lr
from training.picture_tokenizer import float_table, noisy, picture_loss, pixels_of, random_scene, sparse
from training.world import GRID, SIDE, TILE, grid

WIDTHS = (16, 24, 48, 72)
LOG_VARIANCE = -12.0  # of the encoder's answer: it is as good as certain


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
    """The autoencoder with linear views of the decoder's inner levels as the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.vae: Any = AutoencoderKL.from_config(config())
        widths = list(reversed(WIDTHS))
        self.views = nn.ModuleList(
            nn.Conv2d(w, 3 * (8 >> max(i - 1, 0)) ** 2, 1) for i, w in enumerate([widths[0], *widths])
        )
        moments = self.vae.quant_conv
        with torch.no_grad():
            moments.weight[LATENT_CHANNELS:] = 0
            moments.bias[LATENT_CHANNELS:] = LOG_VARIANCE

    def draw(self, latents: Tensor, low: bool) -> list[Tensor]:
        """Pictures [n, 3, 96, 96] as seen from each level of the decoder; the last is its own unless `low`.

        low: stop at a quarter of full resolution, a third of the work.
        """
        decoder = self.vae.decoder
        x = decoder.mid_block(decoder.conv_in(self.vae.post_quant_conv(latents)))
        seen = [F.pixel_shuffle(self.views[0](x), 8)]
        for i, block in enumerate(decoder.up_blocks[: 2 if low else None]):
            for resnet in block.resnets:
                x = resnet(x, None)
            if low or i < len(WIDTHS) - 1:
                seen.append(F.pixel_shuffle(self.views[i + 1](x), 8 >> i))
            for up in block.upsamplers or []:
                if not (low and i == 1):
                    x = up(x)
        return seen if low else [*seen, decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))]

    def read(self, pixels: Tensor) -> Tensor:
        """Pictures to the mean of their latents [n, 16, 12, 12]."""
        moments = self.vae.quant_conv(self.vae.encoder(pixels))
        return moments[:, :LATENT_CHANNELS]


def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """How near each tile of latents [n, 16, 12, 12] is to every tile of the world: logits [n * 36, N_TILES]."""
    read = F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).flatten(0, 1)
    known = codes.flatten(1)
    return 0.5 * (2 * read @ known.T - known.square().sum(1))


def psnr(got: Tensor, wanted: Tensor) -> float:
    return float(-10 * torch.log10(F.mse_loss(got.clamp(-1, 1), wanted) / 4))


def train(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    model = Trained().to(device).to(memory_format=torch.channels_last)
    table, codes = float_table(device), latent_table().to(device)
    named = list(model.named_parameters())
    edge = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "views")
    inside = [p for n, p in named if p.ndim >= 2 and not any(e in n for e in edge)]
    known = {id(p) for p in inside}
    made = optimisers(inside, [p for _, p in named if id(p) not in known], args.lr, 0.5 * args.lr)
    step = 0
    if args.resume and args.out.exists():
        saved = torch.load(args.out, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimiser, state in zip(made, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
            for group in optimiser.param_groups:
                group["initial_lr"] = args.lr if optimiser is made[0] else 0.5 * args.lr
        step = saved["step"]
        print(f"resumed at step {step}", flush=True)
    rng = np.random.default_rng((args.seed, step))
    start = last_save = time.time()
    sums = np.zeros(4)
    while True:
        left = 1 - (time.time() - start) / (60 * args.minutes)
        set_lr(made, min(1.0, (step + 1) / 50) * max(0.01, min(1.0, left / args.decay)))
        low = not args.encoder_only and 1 - left < args.low
        batch = args.batch * (2 if low else 1)
        scenes = [sparse(rng) if i % 2 else random_scene(rng) for i in range(batch)]
        tokens = torch.from_numpy(np.stack([grid(s) for s in scenes])).to(device)
        pixels = pixels_of(tokens, table).contiguous(memory_format=torch.channels_last)
        latents = latents_of(tokens, codes)
        plain = (tokens < N_BACKGROUNDS).float().view(-1, 1, GRID, GRID)
        weight = F.interpolate(1.0 - 0.7 * plain, scale_factor=TILE)
        noise = torch.randn_like(latents) * (0.35 * torch.rand(batch, 1, 1, 1, device=device))
        if args.encoder_only:
            with torch.no_grad():
                seen = [model.draw(latents, False)[-1]]
            loss = torch.zeros((), device=device)
        else:
            seen = model.draw(latents + noise, low)
            loss = picture_loss(seen[-1], pixels, weight)
            for view in seen[:-1]:
                loss = loss + 0.3 * picture_loss(view, pixels, weight)
        if args.encoder_only or (not low and step % args.encode_every == 0):
            shown = torch.where(
                torch.rand(batch, 1, 1, 1, device=device) < 0.5, seen[-1].detach().clamp(-1, 1), noisy(pixels)
            )
            read = model.read(shown)
            error = (read - latents).square() * F.interpolate(1.0 - 0.7 * plain, scale_factor=2)
            which = nearest(read, codes)
            drawn = 1 - plain.flatten()
            loss = loss + error.mean() + 0.3 * F.cross_entropy(which, tokens.flatten())
            hits = (which.argmax(-1) == tokens.flatten()).float()
            sums[2:] += [float((hits * drawn).sum() / drawn.sum().clamp(min=1)), 1]
        for optimiser in made:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for p in (model.vae.quant_conv.weight, model.vae.quant_conv.bias):
            if p.grad is not None:
                p.grad[LATENT_CHANNELS:] = 0
        for optimiser in made:
            optimiser.step()
        step += 1
        sums[:2] += [float(loss.detach()), psnr(seen[-1].detach(), pixels)]
        if step % 25 == 0:
            print(
                f"step {step} {(time.time() - start) / 60:.1f} min loss {sums[0] / 25:.4f} psnr {sums[1] / 25:.2f} "
                f"tiles read {sums[2] / max(sums[3], 1):.4f}" + (" (low)" if low else ""),
                flush=True,
            )
            sums[:] = 0
        if left <= 0 or time.time() - last_save > 120:
            saved = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in made], "step": step}
            torch.save(saved, args.out.with_suffix(".tmp"))
            args.out.with_suffix(".tmp").replace(args.out)
            last_save = time.time()
        if left <= 0:
            return


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The stage's options, from `words` or the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--low", type=float, default=0.3, help="share of the time for the decoder's coarse levels alone"
    )
    parser.add_argument(
        "--decay", type=float, default=0.6, help="share of the time in which the step size falls to zero"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--encode-every", type=int, default=1)
    parser.add_argument("--encoder-only", action="store_true", help="go on with the encoder, the decoder as it is")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    args = options()
    if args.threads:
        torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
