"""Train the picture tokenizer for its fixed codebook: the decoder draws codes, the encoder predicts them.

Both are supervised, so there is no straight-through gradient, no unused code and no adversary.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.vq_model import VQConfig, VQModel
from training.codes import CODE_DIM, codebook
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers
from training.pictures import TILE, Painter
from training.trainer import Run, device_of, load_state, options_parser, psnr
from training.world import GRID, N_TILES, PARTS, SMALL, Item, Scene, grid, tile_factors

SQUARE = 8  # pixels a side: the places whose errors are weighed
CONFIG = VQConfig(
    codebook_size=N_TILES, code_dim=CODE_DIM, ch=32, ch_mult=(1, 1, 1, 2, 3, 3), num_res_blocks=1, z_channels=64
)


def random_scene(rng: np.random.Generator) -> Scene:
    """Any objects in any slots, so that the tokenizer sees every combination."""
    share = rng.choice([0.15, 0.3, 0.6, 0.9])
    items = [
        Item(int(rng.integers(N_THINGS)), int(rng.integers(N_COLOURS)), slot, bool(rng.random() < 0.25))
        for slot in range(9)
        if rng.random() < share
    ]
    return Scene.of(int(rng.integers(N_BACKGROUNDS)), items)


def sparse(rng: np.random.Generator) -> Scene:
    """One to four objects, as in the pictures people ask for: norms have other statistics in a nearly empty picture."""
    scene = random_scene(rng)
    return Scene.of(scene.background, [scene.items[i] for i in rng.permutation(len(scene.items))[: rng.integers(1, 5)]])


def noisy(pixels: Tensor) -> Tensor:
    """Pictures with changed brightness, slight blur and noise, like photographs or outputs of a decoder."""
    n = pixels.shape[0]
    device = pixels.device
    amount = torch.rand(n, 1, 1, 1).to(device)
    bright = 1 + 0.1 * torch.randn(n, 1, 1, 1).to(device) * (amount > 0.5)
    noise = torch.randn(pixels.shape).to(device) * (0.12 * amount)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = 0.6 * torch.rand(n, 1, 1, 1).to(device) * (amount > 0.3)
    return (pixels.lerp(soft, blur) * bright + noise).clamp(-1, 1)


class _Readouts(nn.Module):
    """Linear readouts of the picture from the decoder's inner levels, which train them directly; not exported."""

    def __init__(self) -> None:
        super().__init__()
        widths = [CONFIG.ch * m for m in reversed(CONFIG.ch_mult)][:-1]
        self.views = nn.ModuleList(nn.Conv2d(w, 3 * (TILE >> i) ** 2, 1) for i, w in enumerate(widths))

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        return [
            F.pixel_shuffle(view(x), TILE >> i) for i, (view, x) in enumerate(zip(self.views, streams, strict=False))
        ]


def picture_loss(picture: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Absolute plus twice the squared error, weighted by `tile_weight`."""
    error = picture - target
    return ((error.abs() + 2 * error.square()) * weight).mean()


def pictures_loss(pictures: list[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """The loss of the last picture, and 0.3 of that of the linear readouts before it."""
    loss = picture_loss(pictures[-1], target, weight)
    for readout in pictures[:-1]:
        loss = loss + 0.3 * picture_loss(readout, target, weight)
    return loss


def tile_weight(tokens: Tensor) -> Tensor:
    """Weights of pixels [n, 1, 192, 192]: 1, 0.4 in empty tiles, which are most of them, 2 where small things are."""
    kinds = torch.from_numpy(tile_factors()[:, 0]).to(tokens.device)[tokens]
    small = (kinds > 0) & ((kinds - 1) % PARTS == SMALL)
    weights = torch.where(small, 2.0, torch.where(kinds == 0, 0.4, 1.0))
    return F.interpolate(weights.view(-1, 1, GRID, GRID), scale_factor=TILE)


class HardPlaces:
    """The error of empty places by scene, in squares of `SQUARE` pixels: those drawn worse than others weigh more.

    The coloured streak at the right end of the sea was such a place.
    """

    def __init__(self, device: str) -> None:
        self.errors = torch.ones(N_BACKGROUNDS, (GRID * TILE // SQUARE) ** 2, device=device)
        self.grounds = torch.from_numpy(tile_factors()[:, 2]).to(device)

    def weights(self, tokens: Tensor) -> Tensor:
        """Factors of pixels [n, 1, 192, 192] for tile numbers [n, 36]: 1 where there is a part of an object."""
        factors = (self.errors / self.errors.mean()).clamp(0.5, 12.0)
        empty, grounds = self._squares(tokens)
        squares = torch.arange(empty.shape[1], device=tokens.device)
        found = torch.where(empty, factors[grounds, squares], 1.0)
        return F.interpolate(found.view(-1, 1, GRID * TILE // SQUARE, GRID * TILE // SQUARE), scale_factor=SQUARE)

    @torch.no_grad()
    def note(self, tokens: Tensor, picture: Tensor, target: Tensor) -> None:
        """Take the errors of a batch into the running means."""
        errors = F.avg_pool2d((picture - target).abs().mean(1, keepdim=True), SQUARE).flatten(1)
        empty, grounds = self._squares(tokens)
        rows, squares = torch.nonzero(empty, as_tuple=True)
        of = grounds[rows, squares]
        self.errors[of, squares] = self.errors[of, squares].lerp(errors[rows, squares], 0.1)

    def _squares(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """For every square of pictures with tiles [n, 36]: whether it is empty, and its background; [n, squares]."""
        wide = tokens.view(-1, GRID, GRID).repeat_interleave(TILE // SQUARE, 1).repeat_interleave(TILE // SQUARE, 2)
        wide = wide.flatten(1)
        return wide < N_BACKGROUNDS, self.grounds[wide]


def random_tokens(rng: np.random.Generator, count: int) -> Tensor:
    """Tile numbers [count, 36] of random scenes; every other picture has few objects."""
    scenes = [sparse(rng) if i % 2 else random_scene(rng) for i in range(count)]
    return torch.from_numpy(np.stack([grid(scene) for scene in scenes]))


def drawn_or_noisy(drawn: Tensor, pixels: Tensor) -> Tensor:
    """Pictures to read: each is, at random, the decoder's or the true one with noise."""
    chance = torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
    return torch.where(chance < 0.5, drawn.detach().clamp(-1, 1), noisy(pixels))


def share_read(read: Tensor, tokens: Tensor) -> float:
    """The share of the tiles with a part of an object that were read correctly."""
    drawn = tokens >= N_BACKGROUNDS
    return float(((read == tokens) & drawn).sum() / drawn.sum().clamp(min=1))


def coarse(model: VQModel, tokens: Tensor) -> list[Tensor]:
    """The decoder's features up to a quarter of the resolution, at a tenth of the cost of a whole picture."""
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


def train(args: argparse.Namespace) -> None:
    """With --low only the decoder's coarse levels are trained, which remember every tile; then train without it."""
    device = device_of(args)
    model = nn.ModuleDict({"tokenizer": VQModel(CONFIG), "views": _Readouts()}).to(device)
    tokenizer: Any = model["tokenizer"]
    tokenizer.quantize.embedding.weight.data.copy_(codebook())
    tokenizer.quantize.embedding.weight.requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)
    painter, book = Painter(device), codebook().to(device)
    edge = ("tokenizer.encoder.conv_in.weight", "tokenizer.decoder.conv_out.weight")
    made = optimisers(
        model,
        lambda name, p: p.ndim == 4 and name not in edge and name.startswith("tokenizer."),
        args.lr,
        1.5e-3,
    )
    run = Run(args, made, warmup=50, floor=0.01)
    views = model["views"].state_dict()
    if args.resume and args.out.exists():
        state = load_state(args.out)
        tokenizer.load_state_dict(state["model"])
        if views := state.get("views", {}):
            model["views"].load_state_dict(views)
        run.resume(state)
    rng = np.random.default_rng(args.seed + run.step)
    streams: list[Tensor] = []
    hard = HardPlaces(device)
    for level in list(tokenizer.decoder.conv_blocks)[:-1]:
        level.res[-1].register_forward_hook(lambda _m, _i, output: streams.append(output))
    for _ in run.steps(args.out, lambda: {"model": tokenizer.state_dict(), "views": views}):
        tokens = random_tokens(rng, args.batch).to(device)
        pixels = painter.draw(tokens).contiguous(memory_format=torch.channels_last)
        weight = tile_weight(tokens) * hard.weights(tokens)
        streams.clear()
        if args.encoder_only:
            with torch.no_grad():  # the decoder's pictures, in a third of the steps; clean ones in the others
                picture = tokenizer.decode(tokens) if run.step % 3 == 0 else pixels
            loss = torch.zeros((), device=device)
        elif args.low:
            pictures = model["views"](coarse(tokenizer, tokens))
            picture = pictures[-1]
            loss = torch.stack([picture_loss(view, pixels, weight) for view in pictures]).sum()
        else:
            picture = tokenizer.decode(tokens)
            inner = model["views"](streams) if views else []  # a restored state has none, and needs none
            loss = pictures_loss([*inner, picture], pixels, weight)
        if args.encoder_only or (not args.low and run.step % args.encode_every == 0):
            latents = tokenizer.latents(drawn_or_noisy(picture, pixels)).flatten(2).transpose(1, 2)
            latents = F.normalize(latents, dim=-1)
            logits = 16 * latents @ book.T
            loss = loss + 0.3 * F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            loss = loss + 0.6 * (1 - (latents * book[tokens]).sum(-1)).mean()
            run.log({"tiles read": share_read(logits.argmax(-1), tokens)})
        loss.backward()
        hard.note(tokens, picture, pixels)
        run.log({"loss": float(loss.detach()), "psnr": psnr(picture, pixels)})


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=30, lr=3e-3, decay=0.6)
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--low", action="store_true", help="only the decoder's coarse levels: run this first")
    parser.add_argument("--encoder-only", action="store_true", help="train the encoder alone, keep the decoder")
    parser.add_argument("--encode-every", type=int, default=2, help="train the encoder in every Nth step")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
