"""Distil the picture tokenizer: the codebook is fixed; decoder and encoder learn to draw it and to read it.

Both are plain supervised problems, so there is no straight-through gradient, no dead code and no adversary.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.vq_model import VQConfig, VQModel
from training.codes import CODE_DIM, codebook
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers, set_lr
from training.world import GRID, N_TILES, TILE, Item, Scene, grid, tile_table

CONFIG = VQConfig(
    codebook_size=N_TILES, code_dim=CODE_DIM, ch=32, ch_mult=(1, 1, 2, 3, 3), num_res_blocks=1, z_channels=64
)


def random_scene(rng: np.random.Generator) -> Scene:
    """Any objects in any slots, from one to nine: the tokenizer sees every combination."""
    share = rng.choice([0.15, 0.3, 0.6, 0.9])
    items = [
        Item(int(rng.integers(N_THINGS)), int(rng.integers(N_COLOURS)), slot, bool(rng.random() < 0.25))
        for slot in range(9)
        if rng.random() < share
    ]
    return Scene.of(int(rng.integers(N_BACKGROUNDS)), items)


def sparse(rng: np.random.Generator) -> Scene:
    """One to four objects, as in the pictures people draw: a nearly empty picture has other statistics in the norms."""
    scene = random_scene(rng)
    return Scene.of(scene.background, [scene.items[i] for i in rng.permutation(len(scene.items))[: rng.integers(1, 5)]])


def pixels_of(tokens: Tensor, table: Tensor) -> Tensor:
    """Tile numbers [n, 36] to pictures [n, 3, 96, 96] in -1..1; table [N_TILES, 3, 16, 16]."""
    tiles = table[tokens].view(-1, GRID, GRID, 3, TILE, TILE)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, GRID * TILE, GRID * TILE)


def float_table(device: torch.device | str = "cpu") -> Tensor:
    return torch.from_numpy(tile_table()).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous().to(device)


def noisy(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pictures as people and decoders return them: brightness, a soft blur and noise, on most of the batch."""
    n = pixels.shape[0]
    device = pixels.device
    amount = torch.rand(n, 1, 1, 1, generator=generator).to(device)
    bright = 1 + 0.1 * torch.randn(n, 1, 1, 1, generator=generator).to(device) * (amount > 0.5)
    noise = torch.randn(pixels.shape, generator=generator).to(device) * (0.12 * amount)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = 0.6 * torch.rand(n, 1, 1, 1, generator=generator).to(device) * (amount > 0.3)
    return (pixels.lerp(soft, blur) * bright + noise).clamp(-1, 1)


class _Readouts(nn.Module):
    """Linear views of the decoder's inner levels as the whole picture: they teach low levels directly, then go."""

    def __init__(self) -> None:
        super().__init__()
        widths = [CONFIG.ch * m for m in reversed(CONFIG.ch_mult)][:-1]
        self.views = nn.ModuleList(nn.Conv2d(w, 3 * (TILE >> i) ** 2, 1) for i, w in enumerate(widths))

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        return [
            F.pixel_shuffle(view(x), TILE >> i) for i, (view, x) in enumerate(zip(self.views, streams, strict=False))
        ]


def picture_loss(got: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    error = got - wanted
    return ((error.abs() + 2 * error.square()) * weight).mean()


def coarse(model: VQModel, tokens: Tensor) -> list[Tensor]:
    """The decoder's inner streams up to a quarter of full resolution: a tenth of the cost of a whole picture."""
    x = model.decoder.conv_in(model.post_quant_conv(model.lookup(tokens)))
    streams = []
    for block in model.decoder.mid:
        x = block(x)
    for level in list(model.decoder.conv_blocks)[:3]:
        for i, block in enumerate(level.res):
            x = block(x)
            x = level.attn[i](x) if level.attn else x
        streams.append(x)
        x = level.upsample(x)
    return streams


def train(
    out: Path,
    minutes: float,
    batch: int,
    seed: int,
    resume: bool,
    device: str,
    lr: float,
    low: bool,
    encode_every: int,
    encoder_only: bool = False,
) -> None:
    """`low` trains only the decoder's coarse levels (they hold the memory of every tile); then train without it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model, views = VQModel(CONFIG).to(device), _Readouts().to(device)
    model.quantize.embedding.weight.data.copy_(codebook())
    model.quantize.embedding.weight.requires_grad_(False)
    model = model.to(memory_format=torch.channels_last)
    table, book = float_table(device), codebook().to(device)
    edge = {"encoder.conv_in.weight", "decoder.conv_out.weight"}
    named = [(n, p) for n, p in [*model.named_parameters(), *views.named_parameters()] if p.requires_grad]
    inside = [p for n, p in named if p.ndim == 4 and n not in edge and not n.startswith("views")]
    made = optimisers(inside, [p for n, p in named if not any(p is q for q in inside)], lr, 1.5e-3)
    step, spent, encoded = 0, 0.0, 0.0
    if resume and out.exists():
        saved = torch.load(out, weights_only=True)
        model.load_state_dict(saved["model"])
        if "views" in saved:  # not so where the state was restored from finished weights
            views.load_state_dict(saved["views"])
            for optimiser, state in zip(made, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
        step, spent = saved["step"], 0.0
        rng = np.random.default_rng(seed + step)
        print(f"resumed at step {step}", flush=True)
    streams: list[Tensor] = []
    for level in list(model.decoder.conv_blocks)[:-1]:
        level.res[-1].register_forward_hook(lambda _m, _i, output: streams.append(output))
    start = time.time()
    last_save = start
    sums = np.zeros(4)
    while True:
        spent = time.time() - start
        left = 1 - spent / (60 * minutes)
        set_lr(made, min(1.0, (step + 1) / 50) * max(0.01, min(1.0, left / 0.6)))
        tokens = torch.from_numpy(
            np.stack([grid(sparse(rng) if i % 2 else random_scene(rng)) for i in range(batch)])
        ).to(device)
        pixels = pixels_of(tokens, table).contiguous(memory_format=torch.channels_last)
        plain = (tokens < N_BACKGROUNDS).float().view(-1, 1, GRID, GRID)
        weight = F.interpolate(1.0 - 0.7 * plain, scale_factor=TILE)
        streams.clear()
        if encoder_only:
            with torch.no_grad():  # what the decoder makes of it, in a third of the steps; clean pictures in another
                got = model.decode(tokens) if step % 3 == 0 else pixels
            loss = torch.zeros((), device=device)
        elif low:
            pictures = views(coarse(model, tokens))
            got = pictures[-1]
            loss = sum((picture_loss(view, pixels, weight) for view in pictures), torch.zeros(()))
        else:
            got = model.decode(tokens)
            loss = picture_loss(got, pixels, weight)
            for view in views(streams):
                loss = loss + 0.3 * picture_loss(view, pixels, weight)
        drawn = 1 - plain.flatten()
        if encoder_only or (not low and step % encode_every == 0):
            seen = torch.where(
                torch.rand(batch, 1, 1, 1, device=device) < 0.5, got.detach().clamp(-1, 1), noisy(pixels)
            )
            latents = F.normalize(model.latents(seen).flatten(2).transpose(1, 2), dim=-1)
            logits = 16 * latents @ book.T
            hits = (logits.argmax(-1) == tokens).float()
            encoder_loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            loss = loss + 0.3 * encoder_loss + 0.6 * (1 - (latents * book[tokens]).sum(-1)).mean()
            encoded = float((hits.flatten() * drawn).sum() / drawn.sum().clamp(min=1))
        for optimiser in made:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in made:
            optimiser.step()
        step += 1
        psnr = -10 * torch.log10(F.mse_loss(got.detach().clamp(-1, 1), pixels) / 4)
        sums += [float(loss.detach()), float(psnr), encoded, 1]
        if step % 25 == 0:
            mean = sums[:3] / sums[3]
            print(
                f"step {step} {spent / 60:.1f} min loss {mean[0]:.4f} psnr {mean[1]:.2f} encode {mean[2]:.4f}",
                flush=True,
            )
            sums[:] = 0
        done = left <= 0
        if done or time.time() - last_save > 150:
            saved = {"model": model.state_dict(), "views": views.state_dict(), "step": step}
            saved["optimisers"] = [o.state_dict() for o in made]
            torch.save(saved, out.with_suffix(".tmp"))
            out.with_suffix(".tmp").replace(out)
            last_save = time.time()
        if done:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--low", action="store_true", help="only the decoder's coarse levels: run this first")
    parser.add_argument("--encoder-only", action="store_true", help="go on with the encoder, the decoder as it is")
    parser.add_argument("--encode-every", type=int, default=2)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train(
        args.out,
        args.minutes,
        args.batch,
        args.seed,
        args.resume,
        device,
        args.lr,
        args.low,
        args.encode_every,
        args.encoder_only,
    )


if __name__ == "__main__":
    main()
