"""Train the embedded Transfusion, LMFusion and LLaVAFusion. Their pictures begin with the embedded JanusFlow's blocks.

    python -m training.mixed_diffusion --out runs/transfusion --minutes 120 [--resume]
    python -m training.mixed_diffusion --system lmfusion --out runs/lmfusion --minutes 90 [--resume]
    python -m training.mixed_diffusion --system llavafusion --out runs/llavafusion --minutes 60 [--resume]

One transformer learns three things at once: to tell the noise in the latents of a picture from the picture, behind its
caption or behind a picture and an instruction, and to answer about pictures, which it reads as latents at time 0.
Latents are looked up (`flow_codes`), so no autoencoder runs here.

LMFusion and LLaVAFusion keep the language half of a model that ships with the app as it is, and train blocks for
pictures beside it. What LMFusion says about pictures can get better only by how they are read. LLaVAFusion draws only.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import USER, Words, things_of
from training.export import TOKENIZER_FILES
from training.flow_codes import SCALE, latent_table, latents_of, weights
from training.joint import coming
from training.mixed_data import NEXT, NO_WORD, Sequences, changes, chats, drawings, talks
from training.mixed_model import (
    MARKERS,
    SYSTEMS,
    Frame,
    Mixed,
    Reading,
    System,
    begin_to_see,
    begin_with,
    config,
    trained_state,
)
from training.objects import N_THINGS
from training.optim import optimisers
from training.trainer import Run, device_of, load_state, options_parser
from training.world import tile_factors

VARIANCE = 0.1  # of latents, about
VISIBLE = 0.5  # the share of signal in the variance from which on any layout is shown; before it, the usual one
CLEAN = 0.02  # the least weight of an error, for latents with almost no noise


class Trainer:
    """The losses on batches of tile numbers."""

    def __init__(self, model: Mixed, words: Words, device: str) -> None:
        self.model, self.words = model, words
        if model.untied:
            words.boi, words.eoi = MARKERS
        self.plain = Frame([words.bos], [], words.boi, words.eoi)
        chat = Frame([*words.prefix, *words.encode(f"{USER}: ")], words.encode(NEXT), words.boi, words.eoi)
        self.talks, self.frame = (chats, chat) if model.untied else (talks, self.plain)
        self.things = things_of(words.names(), words.vocabulary).to(device)
        self.codes, self.factors = latent_table().to(device), torch.from_numpy(tile_factors()).to(device)

    def read(self, batch: Sequences, frame: Frame | None = None) -> Reading:
        """See `Mixed.read`. frame: that of conversations, None for that of requests for pictures."""
        clean = self.latents(batch.read.flatten(0, 1)).unflatten(0, batch.read.shape[:2])
        return self.model.read(batch, clean, frame or self.plain)

    def named(self, batch: Sequences) -> Tensor:
        """The thing [n, L] that a word names, or -1."""
        return torch.where(batch.ids < 0, -1, self.things[batch.ids.clamp(min=0)])

    def seen(self, batch: Sequences, reading: Reading) -> Tensor:
        """The loss of naming the tiles of pictures that are read."""
        return self.model.tiles(reading.cells.flatten(0, 1), self.factors[batch.read.flatten(0, 1)])[0]

    def latents(self, tiles: Tensor) -> Tensor:
        return SCALE * latents_of(tiles, self.codes)

    def talk(self, batch: Sequences) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the words to be said."""
        reading = self.read(batch, self.frame)
        asked = batch.wanted != NO_WORD
        said, wanted = self.model.net.language_model.lm_head(reading.words[asked]), batch.wanted[asked]
        loss, right = F.cross_entropy(said, wanted), float((said.argmax(-1) == wanted).float().mean())
        if pictures := batch.read.shape[1]:
            loss = loss + 0.2 * self.seen(batch, reading)
        if pictures == 1:
            loss = loss + self.model.aim.seeking(reading.found, self.named(batch), self.factors[batch.read[:, 0]])
        return loss, {"words": right}

    def draw(self, batch: Sequences, name: str) -> tuple[Tensor, dict[str, float]]:
        """The error of the prediction, and those of the auxiliary heads.

        What is predicted is the velocity of Salimans and Ho (2022, arXiv 2202.00512). Near the noise it is decided what
        to draw, so times are drawn more often there. An error counts by what it does to the picture, as a share of the
        variance of the latents, and more where there is a thing (`weights`).
        """
        model, n = self.model, len(batch.tiles)
        reading = self.read(batch)
        times = (999 * (1 - torch.rand(n, device=batch.tiles.device).square())).round().long()
        signal = model.signal.to(batch.tiles.device)[times]
        scenes = torch.where((signal < VISIBLE)[:, None], batch.usual, batch.tiles)
        clean = self.latents(scenes)
        noise = torch.randn_like(clean)
        predicted, hidden = model.cells(reading.passes, model.schedule.add_noise(clean, noise, times), times)
        truth = self.factors[scenes]
        error = (predicted - model.schedule.get_velocity(clean, noise, times)).square()
        error = (error * weights(truth, error.shape[-1])).mean((1, 2, 3))
        velocity = (error * (1 - signal).clamp(min=CLEAN) / VARIANCE).mean()
        tiles, parts = model.tiles(hidden, truth)
        thing, colour = coming(truth)
        guess = model.next(hidden)
        helper = F.cross_entropy(guess[..., : N_THINGS + 1].flatten(0, 1), thing.flatten())
        helper = helper + F.cross_entropy(guess[..., N_THINGS + 1 :].flatten(0, 1), colour.flatten(), ignore_index=-1)
        seen = {"velocity": float(velocity.detach())} | parts
        loss = velocity + 0.3 * tiles + 0.1 * helper
        if batch.read.shape[1]:
            before, rows = self.factors[batch.read[:, 0]], torch.arange(n, device=clean.device)
            end = reading.asked[rows, batch.ends - 1]
            aim = model.aim(reading.found, self.named(batch), end, hidden, before, truth)
            loss, seen = loss + aim + 0.2 * self.seen(batch, reading), seen | {"aim": float(aim.detach())}
        return loss, {f"{name} {part}": value for part, value in seen.items()}


def begun(args: argparse.Namespace, system: System, state: dict[str, Any]) -> tuple[Mixed, Words]:
    """The model at the beginning, or as a saved state has it, and its words."""
    half, model = system.half, Mixed(config(args.janus, args.vae, system))
    if half is not None or not state:
        begin_with(model, args.janus, half)
    if state:
        if state["model"].keys() != trained_state(model).keys():
            raise SystemExit(f"the state in {args.out} is not one of {args.system}")
        model.load_state_dict(model.state_dict() | state["model"])
    folder = args.janus if half is None else half.folder
    return model, Words(Tokenizer.from_file(str(folder / "tokenizer.json")))


def train(args: argparse.Namespace) -> None:
    device, system = device_of(args), SYSTEMS[args.system]
    args.out.mkdir(parents=True, exist_ok=True)
    for name in () if system.base else TOKENIZER_FILES:
        shutil.copy(args.janus / name, args.out / name)
    file = args.out / "mixed.pt"
    state = load_state(file) if args.resume and file.exists() else {}
    model, words = begun(args, system, state)
    if system.sight and not state:
        begin_to_see(model, system.sight, system.half.folder if system.half else args.janus)
    model = model.to(device)
    run = Run(args, make_optimisers(model, args.lr))
    if state:
        run.resume(state, model.net.parameters())
    trainer, rng = Trainer(model, words, device), np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    counts = {"draw": args.captions, "edit": args.edits if system.reads else 0}
    makers = {"draw": drawings, "edit": changes}
    for _ in run.steps(file, lambda: {"model": trained_state(model), "system": args.system}):
        for name, count in counts.items():
            if count:
                loss, values = trainer.draw(makers[name](rng, words, count).to(device), name)
                (loss * count / sum(counts.values())).backward()
                run.log(values)
        for batch in trainer.talks(rng, words, args.talks if system.reads else 0):
            loss, values = trainer.talk(batch.to(device))
            (loss * len(batch.ids) / args.talks).backward()
            run.log(values)


def make_optimisers(model: Mixed, lr: float) -> list[torch.optim.Optimizer]:
    inside = ("model.layers.", "codec.down.", "codec.up.", "codec.shrink.", "codec.grow.")
    return optimisers(model, lambda name, p: p.ndim >= 2 and any(b in name for b in inside), lr, 0.75 * lr)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=120, lr=3e-3, decay=0.6)
    parser.add_argument("--system", choices=SYSTEMS, default="transfusion")
    parser.add_argument("--janus", type=Path, default=Path("assets/janusflow_embedded"), help="to begin with")
    parser.add_argument("--vae", type=Path, default=Path("assets/janusflow_embedded/vae"), help="its config alone")
    parser.add_argument("--captions", type=int, default=32, help="captions a step")
    parser.add_argument("--edits", type=int, default=16, help="instructions a step")
    parser.add_argument("--talks", type=int, default=12, help="conversations a step")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
