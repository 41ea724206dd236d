"""Train the embedded Transfusion, starting from the embedded JanusFlow's language model, which fills all cells at once.

    python -m training.mixed_diffusion --out runs/transfusion --minutes 120 [--resume]

One transformer learns three things at once: to predict the noise in the latents of a picture behind its caption, or
behind a picture and an instruction, and to answer about pictures, which it reads as latents at time 0. Latents are
looked up (`flow_codes`), so no autoencoder runs here.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from janus_app.models.mixed_diffusion.config import SCHEDULE, parse_config
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from training.batches import BOI, CELLS, EOI, Batch, Words, as_typed, padded, talk
from training.captions import caption
from training.edits import KINDS as EDITS
from training.edits import edit
from training.export import TOKENIZER_FILES
from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of
from training.joint import HEAD, coming, tile_loss
from training.metaquery_data import ASKED, among_others
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers
from training.scenes import plan, settled
from training.talk import Exchange
from training.trainer import Run, device_of, load_state, options_parser
from training.world import KINDS, SIDE, Scene, grid, tile_factors

RNG = np.random.Generator
IMAGE: dict[str, Any] = {
    "side": SIDE,
    "patch": 2,
    "channels": LATENT_CHANNELS,
    "codec": "unet",
    "widths": [64, 96],
    "blocks": 1,
    "groups": 8,
    "time_width": 64,
    "edits": True,
    "picture_start": BOI,
    "picture_end": EOI,
}
DIFFUSION: dict[str, Any] = {"_class_name": "DDIMScheduler", "guidance": 1.5, "steps": 20}
NO_WORD = -1  # where nothing is to be predicted


def config(janus: Path, vae: Path) -> dict[str, Any]:
    """config.json with the config of the autoencoder in it, as the app reads it."""
    settings = json.loads((janus / "config.json").read_text("utf-8"))
    language = settings["language_config"]
    return {
        "model_type": "mixed_diffusion",
        "context": 512,
        "language": language,
        "image": IMAGE,
        "diffusion": DIFFUSION,
        "vae": json.loads((vae / "config.json").read_text("utf-8")),
    }


@dataclass
class Sequences(Batch):
    """Pictures [n, P, 36] as tiles, words behind them, and pictures to draw behind these.

    ids [n, L]: words, padded on the right; ends [n]: how many there are. wanted [n, L]: the word that each is to be
    followed by, or NO_WORD. tiles [n or 0, 36]: of the picture to draw, which begin-of-picture comes before.
    """

    read: Tensor
    ids: Tensor
    ends: Tensor
    wanted: Tensor
    tiles: Tensor


def _sequences(
    words: Words, read: list[list[Scene]], rows: list[list[int]], wanted: list[list[int]], drawn: list[Scene]
) -> Sequences:
    shown = [np.stack([grid(scene) for scene in scenes]) if scenes else np.zeros((0, CELLS), int) for scenes in read]
    tiles = np.stack([grid(scene) for scene in drawn]) if drawn else np.zeros((0, CELLS), int)
    return Sequences(
        torch.from_numpy(np.stack(shown)),
        padded(rows, words.pad),
        torch.tensor([len(row) for row in rows]),
        padded(wanted, NO_WORD),
        torch.from_numpy(tiles),
    )


def drawings(rng: RNG, words: Words, count: int, dropout: float = 0.1) -> Sequences:
    """Captions, a share `dropout` of them empty, and their pictures."""
    rows, scenes = [], []
    for _ in range(count):
        p = settled(plan(rng))
        text = as_typed(caption(p, rng), rng) if rng.random() >= dropout else ""
        rows.append([*words.encode(text), words.boi])
        scenes.append(p.scene)
    return _sequences(words, [[] for _ in rows], rows, [[NO_WORD] * len(row) for row in rows], scenes)


def changes(rng: RNG, words: Words, count: int, dropout: float = 0.1) -> Sequences:
    """Pictures with instructions, a share `dropout` of them empty, and changed pictures."""
    rows, before, after = [], [], []
    for _ in range(count):
        made = edit(rng, str(rng.choice(EDITS, p=ASKED)), zh=bool(rng.random() < 0.34))
        one, other = among_others(made, rng)
        text = as_typed(made.instruction, rng) if rng.random() >= dropout else ""
        rows.append([*words.encode(text), words.boi])
        before.append([one])
        after.append(other)
    return _sequences(words, before, rows, [[NO_WORD] * len(row) for row in rows], after)


def talks(rng: RNG, words: Words, count: int) -> list[Sequences]:
    """Conversations about no, one and two pictures; those about as many are in one batch.

    They are written as the app's plain format has them: a line for each text.
    """
    found: dict[int, tuple[list[list[Scene]], list[list[int]], list[list[int]]]] = {}
    for _ in range(count):
        exchanges, scenes = talk(rng, int(rng.integers(1, 4)))
        ids, wanted = list[int](), list[int]()
        for one in exchanges:
            assert isinstance(one, Exchange)
            asked = words.encode(("\n" if ids else "") + as_typed(one.question, rng))
            answer = words.encode(f"\n{one.answer}")
            wanted += [*[NO_WORD] * (len(asked) - 1), *answer, words.eos]
            ids += asked + answer
        read, rows, targets = found.setdefault(len(scenes), ([], [], []))
        read.append(scenes)
        rows.append(ids)
        targets.append(wanted)
    return [_sequences(words, read, rows, targets, []) for read, rows, targets in found.values()]


class Passes:
    """The keys and values of passes over a batch, kept with their gradients; see `janus_app.nn.llama.Cache`."""

    def __init__(self, layers: int, rows: int, device: torch.device) -> None:
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._real = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self._mask: Tensor | None = None
        self.device, self.length = device, 0

    def begin(self, real: Tensor, *, causal: bool) -> Tensor:
        """Prepare a pass over inputs of which `real` [n, T] are no padding; returns their positions [n, T]."""
        steps = real.shape[1]
        inside = torch.ones(steps, steps, dtype=torch.bool, device=self.device)
        inside = (inside.tril() if causal else inside) & real[:, None]
        inside = inside | torch.eye(steps, dtype=torch.bool, device=self.device)  # padding attends to itself
        before = self._real[:, None].expand(-1, steps, -1)
        self._mask = torch.cat([before, inside], dim=-1)[:, None]
        positions = self._real.sum(1, keepdim=True) + real.long().cumsum(1) - 1
        self._real = torch.cat([self._real, real], dim=1)
        return positions.clamp(min=0)

    def mask(self, steps: int) -> Tensor | None:
        return self._mask

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if (kept := self._kept[layer]) is not None:
            key, value = torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)
        self._kept[layer] = (key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def advance(self, steps: int) -> None:
        self.length += steps


class Mixed(nn.Module):
    """The network, without its autoencoder, and auxiliary heads, which are not exported."""

    def __init__(self, raw: dict[str, Any]) -> None:
        super().__init__()
        self.net = MixedNetwork(parse_config(raw), raw)
        del self.net.vae
        width = self.net.config.language.hidden_size
        self.named = nn.Linear(width, HEAD)
        self.kind, self.colour = nn.Linear(HEAD, KINDS), nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)
        self.next = nn.Linear(width, N_THINGS + 1 + N_COLOURS)
        fields = {name: value for name, value in SCHEDULE.items() if name not in ("_class_name", "timestep_spacing")}
        self.schedule = DDPMScheduler(**fields)

    @property
    def signal(self) -> Tensor:
        """Of every time, the share of the picture in the variance of its noised latents."""
        return self.schedule.alphas_cumprod

    def read(self, batch: Sequences, clean: Tensor, begin: int, start: int, stop: int) -> tuple[Passes, Tensor]:
        """What a picture behind a batch attends to, and the final states [n, 1 + L, hidden] of the last words.

        clean [n, P, C, h, w]: the latents of the pictures that are read. The words are behind one more, begin-of-text
        or end-of-picture.
        """
        rows, device = len(batch.ids), batch.ids.device
        passes = Passes(self.net.config.language.num_hidden_layers, rows, device)
        before = begin
        for picture in clean.unbind(1):
            self._words(passes, torch.tensor([[before, start]], device=device).expand(rows, -1))
            self.cells(passes, picture, torch.zeros(rows, dtype=torch.long, device=device))
            before = stop
        ids = torch.cat([batch.ids.new_full((rows, 1), before), batch.ids], dim=1)
        real = torch.arange(ids.shape[1], device=device) <= batch.ends[:, None]
        return passes, self._words(passes, ids, real)

    def _words(self, passes: Passes, ids: Tensor, real: Tensor | None = None) -> Tensor:
        positions = passes.begin(torch.ones_like(ids, dtype=torch.bool) if real is None else real, causal=True)
        return self.net(self.net.text_embeds(ids), positions, passes)

    def cells(self, passes: Passes, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """The noise that is predicted in latents [n, C, h, w] at times [n], and the final states [n, cells, hidden]."""
        inputs, skips = self.net.codec.encode(latents, times)
        positions = passes.begin(torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device), causal=False)
        hidden = self.net.picture_blocks(inputs, positions, passes)
        return self.net.codec.decode(hidden, skips, times), hidden


class Trainer:
    """The losses on batches of tile numbers."""

    def __init__(self, model: Mixed, words: Words, device: str) -> None:
        self.model, self.words = model, words
        self.codes, self.factors = latent_table().to(device), torch.from_numpy(tile_factors()).to(device)

    def read(self, batch: Sequences) -> tuple[Passes, Tensor]:
        clean = self.latents(batch.read.flatten(0, 1)).unflatten(0, batch.read.shape[:2])
        words = self.words
        return self.model.read(batch, clean, words.bos, words.boi, words.eoi)

    def latents(self, tiles: Tensor) -> Tensor:
        return SCALE * latents_of(tiles, self.codes)

    def talk(self, batch: Sequences) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the words to be said."""
        _, states = self.read(batch)
        asked = batch.wanted != NO_WORD
        said, wanted = self.model.net.language_model.lm_head(states[:, 1:][asked]), batch.wanted[asked]
        right = float((said.argmax(-1) == wanted).float().mean())
        return F.cross_entropy(said, wanted), {"words": right}

    def draw(self, batch: Sequences, name: str) -> tuple[Tensor, dict[str, float]]:
        """The error of the noise, weighted so that early decisions count, and those of the auxiliary heads.

        An error of the noise is one of the picture, magnified by the noise's share over the picture's; near the noise
        it is decided what to draw. So times are drawn more often there, and errors count by what they do to the
        picture.
        """
        model, n = self.model, len(batch.tiles)
        passes, _ = self.read(batch)
        clean = self.latents(batch.tiles)
        times = (999 * (1 - torch.rand(n, device=clean.device).square())).round().long()
        noise = torch.randn_like(clean)
        predicted, hidden = model.cells(passes, model.schedule.add_noise(clean, noise, times), times)
        signal = model.signal.to(clean)[times]
        error = (predicted - noise).square().mean((1, 2, 3))
        flow = (error * ((1 - signal).sqrt() / signal).clamp(0.1, 10)).mean()
        truth = self.factors[batch.tiles]
        features = F.gelu(model.named(hidden))
        tiles, parts = tile_loss(model.kind(features), model.colour(features), model.ground(features), truth)
        thing, colour = coming(truth)
        guess = model.next(hidden)
        helper = F.cross_entropy(guess[..., : N_THINGS + 1].flatten(0, 1), thing.flatten())
        helper = helper + F.cross_entropy(guess[..., N_THINGS + 1 :].flatten(0, 1), colour.flatten(), ignore_index=-1)
        seen = {"noise": float(error.detach().mean()), "flow": float(flow.detach())} | parts
        return flow + 0.3 * tiles + 0.1 * helper, {f"{name} {part}": value for part, value in seen.items()}


@torch.no_grad()
def begin_with(model: Mixed, janus: Path) -> None:
    """Load the language model of the embedded Janus."""
    prefix = "language_model."
    weights = load_file(janus / "model.safetensors")
    own = {name.removeprefix(prefix): t.float() for name, t in weights.items() if name.startswith(prefix)}
    model.net.language_model.load_state_dict(own)


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(args.janus / name, args.out / name)
    words = Words(Tokenizer.from_file(str(args.out / "tokenizer.json")))
    file, model = args.out / "mixed.pt", Mixed(config(args.janus, args.vae))
    state = load_state(file) if args.resume and file.exists() else {}
    if state:
        model.load_state_dict(state["model"])
    else:
        begin_with(model, args.janus)
    model = model.to(device)
    inside = ("model.layers.", "codec.down.", "codec.up.", "codec.shrink.", "codec.grow.")
    made = optimisers(model, lambda name, p: p.ndim >= 2 and any(b in name for b in inside), args.lr, 0.75 * args.lr)
    run = Run(args, made)
    if state:
        run.resume(state)
    trainer, rng = Trainer(model, words, device), np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    makers: dict[str, tuple[Callable[[RNG, Words, int], Sequences], int]]
    makers = {"draw": (drawings, args.captions), "edit": (changes, args.edits)}
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        for name, (make, count) in makers.items():
            loss, values = trainer.draw(make(rng, words, count).to(device), name)
            (loss * count / (args.captions + args.edits)).backward()
            run.log(values)
        for batch in talks(rng, words, args.talks):
            loss, values = trainer.talk(batch.to(device))
            (loss * len(batch.ids) / args.talks).backward()
            run.log(values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=120, lr=3e-3, decay=0.6)
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
