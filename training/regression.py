"""Train the language model of the embedded MetaMorph or Pisces, starting from the embedded Janus.

    python -m training.regression --system metamorph --out runs/metamorph --minutes 60 [--resume]

It keeps its vision tower (the first layer of Janus', frozen). The vectors of pictures that MetaMorph reads and writes
are that layer's outputs, centred and of unit length. Pisces reads such outputs too and writes the codes of tiles
(`flow_codes`), which stand for the vectors of its second encoder. The language model learns up to three things at once:
to answer about pictures (cross-entropy on words), to write the vectors of a picture for a caption (cosine similarity or
squared error, and auxiliary heads that predict the tile of the next vector), and those of a changed picture for an
instruction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from janus_app.nn.llama import LlamaForCausalLM
from janus_app.nn.siglip import SigLIP
from training.aim import Aim
from training.flow_codes import LATENT_CHANNELS, latent_table
from training.joint import ASKED, FOUND, HEAD, tile_loss
from training.joint import config as joint_config
from training.objects import N_BACKGROUNDS, N_COLOURS
from training.optim import fit, optimisers
from training.picture_tokenizer import noisy, random_scene
from training.pictures import Painter, painter
from training.regression_data import SYSTEMS, Conversations, Format, System, changes, drawings, talks, tokenizer_of
from training.trainer import Run, device_of, load_state, options_parser
from training.world import GRID, KINDS, N_TILES, grid, tile_factors

WIDTH = 192
LAYERS = 1  # of the tower
CODE = 4 * LATENT_CHANNELS + 2 * GRID  # numbers of a tile's code


class Writer(nn.Module):
    """The modules of the checkpoint, and auxiliary heads, which are not exported."""

    def __init__(self, system: System, vocabulary: int) -> None:
        super().__init__()
        sizes = joint_config(vocabulary)
        self.system = system
        self.width = WIDTH if system.shared else CODE  # of the vectors that it writes
        self.language = LlamaForCausalLM(sizes.language)
        self.tower = SigLIP(replace(sizes.vision, layers=LAYERS, normed=False))
        self.projector = _two_linears(WIDTH, WIDTH)
        if not system.shared:
            self.write_projector = _two_linears(self.width, WIDTH)
        self.head = _two_linears(WIDTH, self.width)
        self.named = nn.Linear(WIDTH, HEAD)
        self.kind, self.colour = nn.Linear(HEAD, KINDS), nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)
        self.aim = Aim(WIDTH)

    def exported(self) -> Iterator[nn.Parameter]:
        """What is trained and not an auxiliary head."""
        heads = ("named.", "kind.", "colour.", "ground.", "aim.")
        return (p for name, p in self.named_parameters() if p.requires_grad and not name.startswith(heads))

    def read(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, 96, 96] to the vectors [n, 36, WIDTH] that the language model reads."""
        with torch.no_grad():
            return self.normal(self.tower(pixels))

    def normal(self, vectors: Tensor) -> Tensor:
        """Vectors at unit length where the system's are."""
        return F.normalize(vectors, dim=-1) if self.system.shared else vectors

    def blurred(self, vectors: Tensor, blur: float) -> Tensor:
        """Vectors [n, V, width] with noise up to `blur` of their length, as those that a model writes will be."""
        size = blur * torch.rand(len(vectors), 1, 1, device=vectors.device) * vectors.norm(dim=-1, keepdim=True)
        return self.normal(vectors + size * F.normalize(torch.randn_like(vectors), dim=-1))

    def apart(self, written: Tensor, target: Tensor) -> Tensor:
        """How far vectors [..., width] are from others, 0 for none: 1 - cosine, or half the mean squared error."""
        if self.system.shared:
            return 1 - F.cosine_similarity(written, target, dim=-1)
        return 0.5 * (written - target).square().mean(-1)

    def hidden(self, batch: Conversations, embeds: Tensor) -> Tensor:
        """Final hidden states [n, L, WIDTH]; embeds [pictures, 36, WIDTH] are the inputs at the marked places."""
        return self.states(batch, embeds)[-1]

    def states(self, batch: Conversations, embeds: Tensor) -> list[Tensor]:
        """States [n, L, WIDTH] after the layers `FOUND` and `ASKED`, and the final ones."""
        trunk, early = self.language.model, list[Tensor]()
        inputs = trunk.embed_tokens(batch.ids)
        if len(embeds):
            inputs = inputs.masked_scatter(batch.place[..., None], embeds)
        layers = (trunk.layers[number] for number in (FOUND, ASKED))
        hooks = [layer.register_forward_hook(lambda _m, _i, out: early.append(out)) for layer in layers]
        final = trunk(inputs)
        for hook in hooks:
            hook.remove()
        return [*early, final]

    def tiles(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of kind, colour and background of the tile that a state is about to write."""
        features = F.gelu(self.named(hidden))
        return self.kind(features), self.colour(features), self.ground(features)


def _two_linears(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, WIDTH), nn.GELU(), nn.Linear(WIDTH, outer))


def codes_of(tiles: Tensor) -> Tensor:
    """Tiles [n, 36] to their codes [n, 36, CODE], of about unit variance: latents, row and column."""
    lines = 2.0 * torch.eye(GRID)
    places = torch.cat([lines.repeat_interleave(GRID, 0), lines.repeat(GRID, 1)], dim=1)
    codes = latent_table().flatten(1)[tiles.cpu()]
    return torch.cat([codes, places.expand(len(tiles), -1, -1)], dim=-1).to(tiles.device)


class Trainer:
    """The losses on batches of tile numbers."""

    def __init__(self, model: Writer, device: str) -> None:
        self.model = model
        self.painter, self.factors = Painter(device), torch.from_numpy(tile_factors()).to(device)

    def targets(self, tiles: Tensor) -> Tensor:
        """The vectors [n, 36, width] that the model is to write for tiles [n, 36]."""
        return self.model.read(self.painter.seen(tiles)) if self.model.system.shared else codes_of(tiles)

    @torch.no_grad()
    def written(self, batch: Conversations, blur: float) -> Tensor:
        """The vectors [pictures, 36, width] that the model writes behind the right ones, with `blur` as in `embeds`."""
        model = self.model
        states = model.hidden(batch, self.embeds(batch, blur))[batch.vector]
        return model.normal(model.head(states)).unflatten(0, (-1, GRID * GRID))

    def embeds(self, batch: Conversations, blur: float) -> Tensor:
        """The language model's inputs [pictures, 36, WIDTH] for all pictures of a batch.

        blur: the length of the noise on vectors that the model reads as if it had written them.
        """
        model, shown, out = self.model, ~batch.wanted, torch.empty(*batch.tiles.shape, WIDTH, device=batch.ids.device)
        seen = model.read(noisy(self.painter.seen(batch.tiles[shown])))
        out[shown] = model.projector(seen)
        project = model.projector if model.system.shared else model.write_projector
        out[batch.wanted] = project(model.blurred(self.targets(batch.tiles[batch.wanted]), blur))
        return out

    def loss(self, batch: Conversations, name: str, blur: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures for the log whose names begin with `name`."""
        model = self.model
        found, asked, hidden = model.states(batch, self.embeds(batch, blur))
        said = model.language.lm_head(hidden[batch.word])
        wanted = batch.ids.roll(-1, 1)[batch.word]
        loss = F.cross_entropy(said, wanted)
        seen = {f"{name} words": float((said.argmax(-1) == wanted).float().mean())}
        if not bool(batch.wanted.any()):
            return loss, seen
        states, drawn = hidden[batch.vector], batch.tiles[batch.wanted]
        truth = self.factors[drawn]
        apart = model.apart(model.head(states), self.targets(drawn).flatten(0, 1))
        kind, colour, ground = (part.view(*truth.shape[:2], -1) for part in model.tiles(states))
        tiles, parts = tile_loss(kind, colour, ground, truth)
        full = truth[..., 0] > 0
        kind = torch.cat([kind[..., :1], kind[..., 1:] + colour.logsumexp(-1, keepdim=True)], dim=-1)
        right = (kind.argmax(-1) == truth[..., 0]) & (ground.argmax(-1) == truth[..., 2])
        right &= (colour.argmax(-1) == truth[..., 1]) | ~full
        weight = 1 + 3 * full.flatten().float()  # most cells are empty
        seen |= {f"{name} near": 1 - float(apart.detach().mean()), f"{name} tiles": float(right.float().mean())}
        seen |= {f"{name} whole": float(right.all(1).float().mean()), f"{name} which": parts["which"]}
        loss = loss + 6 * (apart * weight).sum() / weight.sum() + 0.5 * tiles
        if len(batch.wanted) == 2 * len(batch.ids):  # a picture is shown, and another wanted: an instruction
            begin = batch.vector.int().argmax(1)
            end = asked[torch.arange(len(begin), device=begin.device), begin]
            cells = states.view(*truth.shape[:2], -1)
            aim = model.aim(found, batch.named, end, cells, self.factors[batch.tiles[~batch.wanted]], truth)
            loss, seen = loss + 2 * aim, seen | {f"{name} aim": float(aim.detach())}
        return loss, seen


@torch.no_grad()
def begin_with(model: Writer, janus: Path) -> None:
    """Load the modules from the embedded Janus.

    The projectors are fitted: that of what is read to a tower of fewer layers, that of codes to Janus' image tokens.
    """
    weights = {n: t.float() for n, t in load_file(janus / "model.safetensors").items()}
    language, tower = "language_model.", "vision_model.vision_tower."
    model.language.load_state_dict({n.removeprefix(language): t for n, t in weights.items() if n.startswith(language)})
    whole = SigLIP(joint_config(8).vision)
    state = {n.removeprefix(tower): t for n, t in weights.items() if n.startswith(tower)}
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    model.tower.load_state_dict({name: state[name] for name in model.tower.state_dict()})
    tokens = torch.from_numpy(np.stack([grid(random_scene(np.random.default_rng(i))) for i in range(240)]))
    pixels = painter().seen(tokens)
    features = torch.cat([model.tower(part) for part in pixels.split(40)])
    # Centred by the bias of the last layer, so that unit vectors differ in more than their common part.
    model.tower.get_parameter(f"blocks.{LAYERS - 1}.mlp.fc2.bias").sub_(features.mean((0, 1)))
    seen = torch.cat([whole(part) for part in pixels.split(40)]).flatten(0, 1)
    vectors = torch.cat([model.read(part) for part in pixels.split(40)]).flatten(0, 1)
    fit(model.projector, vectors, _aligned(weights, "aligner", seen))
    if not model.system.shared:
        tiles = torch.randint(N_TILES, (1000, GRID * GRID))
        tokens = weights["gen_embed.weight"][tiles.flatten()]
        fit(model.write_projector, codes_of(tiles).flatten(0, 1), _aligned(weights, "gen_aligner", tokens))


def _aligned(weights: dict[str, Tensor], name: str, features: Tensor) -> Tensor:
    """Janus' projector `name` of two linears, applied to features [n, inner]."""
    inner, outer = ([weights[f"{name}.layers.{i}.{kind}"] for kind in ("weight", "bias")] for i in (0, 2))
    return F.linear(F.gelu(F.linear(features, *inner)), *outer)


def train(args: argparse.Namespace) -> None:
    device, system = device_of(args), SYSTEMS[args.system]
    form = Format(system, tokenizer_of(system, args.janus, args.out))
    file, model = args.out / "writer.pt", Writer(system, form.vocabulary)
    state = load_state(file) if args.resume and file.exists() else {}
    if state:
        model.load_state_dict(state["model"])
    else:
        begin_with(model, args.janus)
    model = model.to(device)
    model.tower.requires_grad_(False)
    run = Run(args, optimisers(model, lambda name, p: p.ndim == 2 and "layers." in name, args.lr, 0.75 * args.lr))
    if state:
        run.resume(state, model.exported())
    trainer, rng = Trainer(model, device), np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    makers = {"draw": (drawings, args.captions), "talk": (talks, args.talks)}
    if system.edits:
        makers["edit"] = (changes, args.edits)
    examples = sum(count for _, count in makers.values())
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        for name, (make, count) in makers.items():
            loss, values = trainer.loss(make(rng, form, count).to(device), name, args.blur)
            (loss * (count / examples)).backward()
            run.log(values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=60, lr=3e-3, decay=0.6)
    parser.add_argument("--system", choices=SYSTEMS, default="metamorph")
    parser.add_argument(
        "--janus", type=Path, default=Path("assets/janus_embedded"), help="the checkpoint to begin with"
    )
    parser.add_argument("--captions", type=int, default=24, help="captions a step")
    parser.add_argument("--edits", type=int, default=16, help="instructions a step")
    parser.add_argument("--talks", type=int, default=8, help="conversations a step")
    parser.add_argument("--blur", type=float, default=0.5, help="noise on the vectors that the model wrote, at most")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
