"""Train the embedded Transfusion, LMFusion and LLaVAFusion. Their pictures begin with the embedded JanusFlow's blocks.

    python -m training.mixed_diffusion --out runs/transfusion --minutes 120 [--resume]
    python -m training.mixed_diffusion --system lmfusion --out runs/lmfusion --minutes 90 [--resume]
    python -m training.mixed_diffusion --system llavafusion --out runs/llavafusion --minutes 60 [--resume]

One transformer learns three things at once: to predict the noise in the latents of a picture behind its caption, or
behind a picture and an instruction, and to answer about pictures, which it reads as latents at time 0. Latents are
looked up (`flow_codes`), so no autoencoder runs here.

LMFusion and LLaVAFusion keep the language half of a model that ships with the app as it is, and train blocks for
pictures beside it. What LMFusion says about pictures can get better only by how they are read. LLaVAFusion draws only.
"""

from __future__ import annotations

import argparse
import json
import shutil
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

from janus_app.models.common.weight_files import find_weights
from janus_app.models.family import LanguageHalf
from janus_app.models.mixed_diffusion.bases import base_of, sections
from janus_app.models.mixed_diffusion.config import LANGUAGE, SCHEDULE, parse_config
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from janus_app.paths import ASSETS
from training.batches import BOI, EOI, USER, Words
from training.export import TOKENIZER_FILES
from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of
from training.joint import HEAD, coming, tile_loss
from training.mixed_data import NEXT, NO_WORD, Sequences, changes, chats, drawings, talks
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers
from training.trainer import Run, device_of, load_state, options_parser
from training.world import KINDS, SIDE, tile_factors

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
MARKERS = (-1, -2)  # ids of begin- and end-of-picture where they are no words, as the app has them


@dataclass(frozen=True)
class System:
    """base: the folder beside its own with the model whose language half stays as it is, "" where words and pictures
    share their weights. reads: whether pictures in questions and instructions are read as latents, and so taught."""

    base: str = ""
    reads: bool = True

    @property
    def half(self) -> LanguageHalf | None:
        return base_of(ASSETS, self.base) if self.base else None


SYSTEMS = {
    "transfusion": System(),
    "lmfusion": System("janus_embedded"),
    "llavafusion": System("metaquery_embedded", reads=False),
}


def config(janus: Path, vae: Path, system: System = SYSTEMS["transfusion"]) -> dict[str, Any]:
    """config.json with the configs of the autoencoder and the base in it, as the app reads it, without a tower.

    janus: for the sizes of a language half that is trained.
    """
    half, own = system.half, {"untied": True, "markers": "own", "edits": system.reads}
    if half is None:
        settings = json.loads((janus / "config.json").read_text("utf-8"))
        fields = {"context": 512, LANGUAGE: settings["language_config"], "image": IMAGE}
    else:
        words = {"context": 1024, "base": f"../{system.base}", "prompt": "template"}
        image = {name: value for name, value in IMAGE.items() if not name.startswith("picture_")}
        fields = {**words, LANGUAGE: sections(half)[LANGUAGE], "image": {**image, **own}}
    autoencoder = json.loads((vae / "config.json").read_text("utf-8"))
    return {"model_type": "mixed_diffusion", **fields, "diffusion": DIFFUSION, "vae": autoencoder}


@dataclass(frozen=True)
class Frame:
    """The ids around the pictures that are read: before the first one, between two, at the start and behind each."""

    opening: list[int]
    between: list[int]
    start: int
    stop: int


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
        self.untied = self.net.image_model is not None
        self.net.language_model.requires_grad_(not self.untied)
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

    def read(self, batch: Sequences, clean: Tensor, frame: Frame) -> tuple[Passes, Tensor]:
        """What a picture behind a batch attends to, and the final states [n, L, hidden] of its words.

        clean [n, P, C, h, w]: the latents of the pictures that are read.
        """
        rows, device = len(batch.ids), batch.ids.device
        passes = Passes(self.net.config.language.num_hidden_layers, rows, device)
        before = frame.opening
        for number, picture in enumerate(clean.unbind(1)):
            before = [*before, *(frame.between if number else ()), frame.start]
            self._words(passes, torch.tensor([before], device=device).expand(rows, -1))
            self.cells(passes, picture, torch.zeros(rows, dtype=torch.long, device=device))
            before = [frame.stop]
        ids = torch.cat([torch.tensor([before], device=device).expand(rows, -1), batch.ids], dim=1)
        real = torch.arange(ids.shape[1], device=device) < len(before) + batch.ends[:, None]
        return passes, self._words(passes, ids, real)[:, len(before) :]

    def _words(self, passes: Passes, ids: Tensor, real: Tensor | None = None) -> Tensor:
        positions = passes.begin(torch.ones_like(ids, dtype=torch.bool) if real is None else real, causal=True)
        return self.net(self.net.marked_embeds(ids), positions, passes)

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
        if model.untied:
            words.boi, words.eoi = MARKERS
        self.plain = Frame([words.bos], [], words.boi, words.eoi)
        chat = Frame([*words.prefix, *words.encode(f"{USER}: ")], words.encode(NEXT), words.boi, words.eoi)
        self.talks, self.frame = (chats, chat) if model.untied else (talks, self.plain)
        self.codes, self.factors = latent_table().to(device), torch.from_numpy(tile_factors()).to(device)

    def read(self, batch: Sequences, frame: Frame | None = None) -> tuple[Passes, Tensor]:
        """See `Mixed.read`. frame: that of conversations, None for that of requests for pictures."""
        clean = self.latents(batch.read.flatten(0, 1)).unflatten(0, batch.read.shape[:2])
        return self.model.read(batch, clean, frame or self.plain)

    def latents(self, tiles: Tensor) -> Tensor:
        return SCALE * latents_of(tiles, self.codes)

    def talk(self, batch: Sequences) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the words to be said."""
        _, states = self.read(batch, self.frame)
        asked = batch.wanted != NO_WORD
        said, wanted = self.model.net.language_model.lm_head(states[asked]), batch.wanted[asked]
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
def begin_with(model: Mixed, janus: Path, half: LanguageHalf | None = None) -> None:
    """Load the language model of the embedded Janus, or of `half`, and then that of Janus into the picture's blocks."""
    prefix = "language_model."
    weights = load_file(janus / "model.safetensors")
    own = {name.removeprefix(prefix): t.float() for name, t in weights.items() if name.startswith(prefix)}
    if half is None:
        model.net.language_model.load_state_dict(own)
        return
    model.net.language_model.load_state_dict(tensors_of(half))
    blocks, markers = model.net.image_model, model.net.markers
    assert blocks is not None and markers is not None
    nothing = {name: torch.zeros_like(t) for name, t in blocks.state_dict().items() if name.endswith(".bias")}
    blocks.load_state_dict(nothing | {name: own[f"model.{name}"] for name in blocks.state_dict().keys() - nothing})
    words = Words(Tokenizer.from_file(str(janus / "tokenizer.json")))
    markers.copy_(own["model.embed_tokens.weight"][[words.boi, words.eoi]])


def tensors_of(half: LanguageHalf) -> dict[str, Tensor]:
    """The weights of a base's language model in float32, by their names in it."""
    found, prefix = dict[str, Tensor](), "language_model."
    for source in half.sources:
        for file in find_weights(source.path).files if source.path.is_dir() else [source.path]:
            found |= {source.remap_key(n): t for n, t in load_file(file).items() if source.only in ("", n)}
    return {name.removeprefix(prefix): t.float() for name, t in found.items() if name.startswith(prefix)}


def trained_state(model: Mixed) -> dict[str, Tensor]:
    """What a saved state holds: all but a language half that stays as it is."""
    frozen = "net.language_model." if model.untied else "-"
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(frozen)}


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
    model = model.to(device)
    run = Run(args, make_optimisers(model, args.lr))
    if state:
        run.resume(state)
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
