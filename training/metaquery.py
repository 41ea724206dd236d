"""Train the embedded MetaQuery in two stages, starting from the weights of the embedded JanusFlow.

    python -m training.metaquery --out runs/metaquery --stage read --minutes 30 [--resume]
    python -m training.metaquery --out runs/metaquery --stage draw --minutes 30 [--resume]

"read" trains the language model to talk about pictures in LLaVA-OneVision's layout, and its states at the queries to
predict, through the connector, the tiles of the requested picture. Then it is frozen. "draw" is MetaQuery's own
training: queries, connector and SANA learn the pictures by flow matching (Liu et al. 2022).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.batches import Talks, Words, talks, things_of
from training.export import TOKENIZER_FILES
from training.hidden_words import hide, known, meanings_of
from training.metaquery_data import BLACK, Asked, captions, instructions
from training.metaquery_model import SEEN, MetaQuery, align, begin_with, frame
from training.metaquery_vae import latent_table, latents_of
from training.optim import muon_and_adamw
from training.picture_tokenizer import noisy
from training.pictures import Painter
from training.trainer import Run, device_of, load_state, options_parser
from training.world import tile_factors

HIDDEN = 0.5  # the share of captions with a word that cannot be read
QUERIES_MOVE = 4  # "draw" trains the queries in every 4th step: going back through the language model is slow


class Trainer:
    """The losses of both stages on batches of tile numbers."""

    def __init__(self, model: MetaQuery, words: Words, device: str) -> None:
        self.model, self.words, self.device = model, words, device
        self.painter, self.codes = Painter(device), latent_table().to(device)
        self.factors, self.frame = torch.from_numpy(tile_factors()).to(device), frame().to(device)
        self.thing_of = things_of(words.names(), words.tokenizer.get_vocab_size()).to(device)
        self.meanings = meanings_of(words.names(), words.vocabulary).to(device)

    def shown(self, tiles: Tensor, framed: bool) -> Tensor:
        """Pictures as the vision tower gets them: with noise, and if `framed` resized as the pipeline does."""
        pixels = noisy(self.painter.draw(tiles.clamp(min=0)))
        pixels = torch.where((tiles[:, 0] == BLACK)[:, None, None, None], -torch.ones_like(pixels), pixels)
        shrink = self.frame if framed else self.painter.shrink
        return shrink @ pixels @ shrink.T

    def conditions(self, batch: Asked) -> Tensor:
        return self.model.connector(self.model.reader.states(self.embeds(batch), batch.ends)[0])

    def embeds(self, batch: Asked) -> Tensor:
        reader = self.model.reader
        if len(batch.seen):
            return reader.embed(batch.ids, batch.picture, reader.see(self.shown(batch.seen, framed=True)))
        embeds: Tensor = reader.language.model.embed_tokens(batch.ids)
        return embeds

    def ask_loss(self, batch: Asked, name: str, drawing: bool, repeats: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of the tiles that the conditions of a batch predict and, if `drawing`, of SANA's velocity."""
        truth = self.factors[batch.tiles]
        share = 0.0 if len(batch.seen) else HIDDEN
        embeds, hidden = hide(self.embeds(batch), batch.ids, self.meanings, share)
        read = self.model.reader.states(embeds, batch.ends)
        conditions = self.model.connector(read[0])
        legible = known(hidden, truth)
        loss, parts, right = self.model.tiles_loss(conditions, truth, legible)
        seen = {f"{name} {part}": value for part, value in parts.items() if part in ("place", "which")}
        seen |= {f"{name} tiles": float(right.float().mean()), f"{name} whole": float(right.all(1).float().mean())}
        if len(batch.seen):
            before = self.factors[batch.seen.clamp(min=0)]
            edited = (batch.seen[:, 0] != BLACK) & (batch.seen != batch.tiles).any(1)
            # Most cells are empty: the objects of an edit, changed or not, get a higher weight.
            weighted = edited[:, None] & ((before[..., 0] > 0) | (truth[..., 0] > 0))
            if (truth[weighted][:, 0] > 0).any():
                loss = loss + 0.5 * self.model.tiles_loss(conditions[weighted][None], truth[weighted][None])[0]
            if not drawing and edited.any():
                states, found, asked = (part[edited] for part in read)
                named, ends = self.thing_of[batch.ids[edited]], batch.ends[edited]
                end = asked[torch.arange(len(ends), device=ends.device), ends - 1]
                aim = self.model.aim(found, named, end, states, before[edited], truth[edited])
                loss, seen = loss + 2 * aim, seen | {"aim": float(aim.detach())}
        at = self.model.cell_loss(conditions)
        loss, seen = loss + 0.3 * at, seen | {"at": float(at.detach())}
        if not drawing:
            return loss, seen
        cells = legible.kind & legible.colour & legible.ground
        flow = self.model.flow_loss(conditions, latents_of(batch.tiles, self.codes), truth, repeats, cells)
        return 4 * flow + 0.2 * loss, {f"{name} flow": float(flow.detach()), **seen}

    def talk_loss(self, batch: Talks) -> tuple[Tensor, dict[str, float]]:
        reader = self.model.reader
        prefix = torch.tensor(self.words.prefix, device=self.device).expand(len(batch.ids), -1)
        said = reader.see(self.shown(batch.tiles, framed=False)) if len(batch.tiles) else reader.newline[None]
        embeds = torch.cat(
            [reader.language.model.embed_tokens(prefix), reader.embed(batch.ids, batch.picture, said)], dim=1
        )
        hidden, found, asked = (part[:, prefix.shape[1] :] for part in reader.read(embeds))
        wanted = batch.ids.roll(-1, 1)[batch.answer]
        logits = reader.language.lm_head(hidden[batch.answer])
        loss = F.cross_entropy(logits, wanted)
        right = float((logits.argmax(-1) == wanted).float().mean())
        aim = self.talk_aim(batch, found, asked)
        return loss + aim, {"say": float(loss.detach()), "words": right, "sought": float(aim.detach())}

    def talk_aim(self, batch: Talks, found: Tensor, asked: Tensor) -> Tensor:
        """The loss of knowing where the things stand that words name, and which slots an answer is about."""
        loss, aim = asked.new_zeros(()), self.model.aim
        one = batch.picture.sum(1) == SEEN
        if one.any():
            pictures = (batch.picture.sum(1) // SEEN).cumsum(0)[one] - 1
            loss = aim.seeking(found[one], self.thing_of[batch.ids[one]], self.factors[batch.tiles[pictures]])
        about = batch.about[..., 0] >= 0
        if about.any():
            loss = loss + F.binary_cross_entropy_with_logits(aim.look(asked[about]), batch.about[about])
        return loss


def make_optimisers(model: MetaQuery, stage: str, lr: float, old_lr: float) -> list[torch.optim.Optimizer]:
    """Muon and AdamW for the new modules of a stage and, with `old_lr`, for the earlier ones; frozen ones have none.

    New are queries, connector and auxiliary heads in "read" and SANA in "draw". The vision tower is never trained.
    """
    drawing = stage == "draw"
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in model.named_parameters():
        frozen = name.startswith("reader.") and name != "reader.queries"
        old = not name.startswith("sana.") if drawing else frozen
        unused = name.startswith("reader.tower.") or (name.startswith("sana.") and not drawing)
        p.requires_grad_(not unused and not (frozen and drawing))
        if p.requires_grad:
            block = any(part in name for part in ("layers.", "blocks.")) and p.ndim >= 2 and "conv_depth" not in name
            groups.setdefault((old, block and "table" not in name), []).append(p)
    made: list[torch.optim.Optimizer] = []
    for old, rate in ((False, lr), (True, old_lr)):
        inside, outside = groups.get((old, True), []), groups.get((old, False), [])
        if inside or outside:
            made += muon_and_adamw(inside, outside, rate, 0.75 * rate)  # type: ignore[arg-type]
    return made


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(args.flow / name, args.out / name)
    words = Words(Tokenizer.from_file(str(args.out / "tokenizer.json")))
    file, drawing = args.out / "metaquery.pt", args.stage == "draw"
    model = MetaQuery(words.vocabulary)
    state = load_state(file) if (args.resume or drawing) and file.exists() else {}
    if state:
        model.load_state_dict(state["model"])
    else:
        begin_with(model.reader, args.flow, args.janus, words.boi)
    if args.sana:
        other = load_state(args.sana)["model"]
        model.sana.load_state_dict({n.removeprefix("sana."): t for n, t in other.items() if n.startswith("sana.")})
    model = model.to(device)
    run = Run(args, make_optimisers(model, args.stage, args.lr, args.old_lr))
    if args.resume and (state.get("stage") == args.stage or "optimisers" not in state):
        run.resume(state, model.exported())
    trainer = Trainer(model, words, device)
    aligned = bool(state.get("aligned")) or bool(args.sana)
    if drawing and not aligned:
        batch = instructions(np.random.default_rng(args.seed), words, 96, 0.1).to(device)
        with torch.no_grad():
            align(model.sana, trainer.conditions(batch), latents_of(batch.tiles, trainer.codes))
    rng = np.random.default_rng((args.seed, 2 if drawing else 1, run.step))
    torch.manual_seed(args.seed + run.step)
    marks = {"stage": args.stage, "aligned": drawing or aligned}
    for _ in run.steps(file, lambda: {"model": model.state_dict()} | marks):
        model.reader.queries.requires_grad_(not drawing or run.step % QUERIES_MOVE == 0)
        asked = {
            "draw": captions(rng, words, args.captions, 0.1 if drawing else 0.03),
            "edit": instructions(rng, words, args.edits, 0.04 if drawing else 0.02),
        }
        for name, batch in asked.items():
            loss, values = trainer.ask_loss(batch.to(device), name, drawing, args.repeats)
            (loss * (len(batch.ids) / (args.captions + args.edits))).backward()
            run.log(values)
        if not drawing and run.step % args.talk_every == 0:
            conversations = talks(rng, words, args.talks, parts=2, cells=SEEN)
            for talk in conversations:
                loss, values = trainer.talk_loss(talk.to(device))
                (loss / len(conversations)).backward()
                run.log(values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=30, lr=4e-3, decay=0.6)
    parser.add_argument("--stage", choices=("read", "draw"), required=True)
    parser.add_argument(
        "--flow", type=Path, default=Path("assets/janusflow_embedded"), help="the checkpoint to begin with"
    )
    parser.add_argument("--janus", type=Path, default=Path("assets/janus_embedded"), help="for the projector")
    parser.add_argument("--sana", type=Path, help="begin with the SANA of another run's state")
    parser.add_argument("--captions", type=int, default=24, help="captions a step")
    parser.add_argument("--edits", type=int, default=24, help="instructions a step")
    parser.add_argument("--repeats", type=int, default=2, help="noises for every condition")
    parser.add_argument("--talks", type=int, default=8, help="conversations in a step that has some")
    parser.add_argument("--talk-every", type=int, default=3, help="conversations in every Nth step")
    parser.add_argument("--old-lr", type=float, default=1.5e-3, help="of what was there before the stage")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
