"""Train the language model of the embedded MetaMorph, starting from the embedded Janus.

    python -m training.metamorph --out runs/metamorph --minutes 60 [--resume]

It keeps its vision tower (the first layer of Janus', frozen): the vectors of pictures, read and written, are that
layer's outputs, centred and of unit length. The language model learns three things at once: to answer about pictures
(cross-entropy on words), to write the vectors of a picture for a caption, and of a changed one for an instruction
(cosine similarity, and auxiliary heads that predict the tile of the next vector).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from janus_app.nn.llama import LlamaForCausalLM
from janus_app.nn.siglip import SigLIP
from training.joint import HEAD, tile_loss
from training.joint import config as joint_config
from training.metamorph_data import Conversations, Format, changes, drawings, talks, tokenizer_of
from training.objects import N_BACKGROUNDS, N_COLOURS
from training.optim import optimisers
from training.picture_tokenizer import float_table, noisy, pixels_of, random_scene
from training.trainer import Run, device_of, load_state, options_parser
from training.world import KINDS, grid, tile_factors

WIDTH = 192
LAYERS = 1  # of the tower


class MetaMorph(nn.Module):
    """The modules of the checkpoint, and auxiliary heads, which are not exported."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        sizes = joint_config(vocabulary)
        self.language = LlamaForCausalLM(sizes.language)
        self.tower = SigLIP(replace(sizes.vision, layers=LAYERS, normed=False))
        self.projector = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.named = nn.Linear(WIDTH, HEAD)
        self.kind, self.colour = nn.Linear(HEAD, KINDS), nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)

    def vectors(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, 96, 96] to unit vectors [n, 36, WIDTH]."""
        with torch.no_grad():
            return F.normalize(self.tower(pixels), dim=-1)

    def hidden(self, batch: Conversations, vectors: Tensor) -> Tensor:
        """Final hidden states [n, L, WIDTH]; vectors [pictures, 36, WIDTH] are those at the marked places."""
        embeds = self.language.model.embed_tokens(batch.ids)
        if len(vectors):
            embeds = embeds.masked_scatter(batch.place[..., None], self.projector(vectors))
        return self.language.model(embeds)

    def tiles(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of kind, colour and background of the tile that a state is about to write."""
        features = F.gelu(self.named(hidden))
        return self.kind(features), self.colour(features), self.ground(features)


class Trainer:
    """The losses on batches of tile numbers."""

    def __init__(self, model: MetaMorph, device: str) -> None:
        self.model, self.device = model, device
        self.table, self.factors = float_table(device), torch.from_numpy(tile_factors()).to(device)

    def loss(self, batch: Conversations, name: str, blur: float) -> tuple[Tensor, dict[str, float]]:
        """blur: the length of the noise on vectors that the model reads as if it had written them."""
        model = self.model
        clean = pixels_of(batch.tiles, self.table) if len(batch.tiles) else torch.zeros(0, 3, 96, 96)
        targets = model.vectors(clean) if len(clean) else torch.zeros(0, 36, WIDTH)
        inputs = targets
        if len(clean) and not bool(batch.wanted.all()):
            inputs = torch.where(batch.wanted[:, None, None], targets, model.vectors(noisy(clean)))
        if blur and len(clean):
            noise = F.normalize(torch.randn_like(inputs), dim=-1) * (blur * torch.rand(len(inputs), 1, 1))
            inputs = torch.where(batch.wanted[:, None, None], F.normalize(inputs + noise, dim=-1), inputs)
        hidden = model.hidden(batch, inputs)
        said = model.language.lm_head(hidden[batch.word])
        wanted = batch.ids.roll(-1, 1)[batch.word]
        loss = F.cross_entropy(said, wanted)
        seen = {f"{name} words": float((said.argmax(-1) == wanted).float().mean())}
        if not bool(batch.wanted.any()):
            return loss, seen
        states = hidden[batch.vector]
        target, truth = targets[batch.wanted].flatten(0, 1), self.factors[batch.tiles[batch.wanted]]
        near = F.cosine_similarity(model.head(states), target, dim=-1)
        kind, colour, ground = (part.view(*truth.shape[:2], -1) for part in model.tiles(states))
        tiles, parts = tile_loss(kind, colour, ground, truth)
        drawn = truth[..., 0] > 0
        kind = torch.cat([kind[..., :1], kind[..., 1:] + colour.logsumexp(-1, keepdim=True)], dim=-1)
        right = (kind.argmax(-1) == truth[..., 0]) & (ground.argmax(-1) == truth[..., 2])
        right &= (colour.argmax(-1) == truth[..., 1]) | ~drawn
        weight = 1 + 3 * drawn.flatten().float()  # most cells are empty
        apart = ((1 - near) * weight).sum() / weight.sum()
        seen |= {f"{name} near": float(near.detach().mean()), f"{name} tiles": float(right.float().mean())}
        seen |= {f"{name} whole": float(right.all(1).float().mean()), f"{name} which": parts["which"]}
        return loss + 6 * apart + 0.5 * tiles, seen


@torch.no_grad()
def begin_with(model: MetaMorph, janus: Path) -> None:
    """Load the modules from the embedded Janus. The projector is fitted to a tower of fewer layers."""
    weights = {n: t.float() for n, t in load_file(janus / "model.safetensors").items()}
    language, tower = "language_model.", "vision_model.vision_tower."
    model.language.load_state_dict({n.removeprefix(language): t for n, t in weights.items() if n.startswith(language)})
    whole = SigLIP(joint_config(8).vision)
    state = {n.removeprefix(tower): t for n, t in weights.items() if n.startswith(tower)}
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    model.tower.load_state_dict({name: state[name] for name in model.tower.state_dict()})
    tokens = torch.from_numpy(np.stack([grid(random_scene(np.random.default_rng(i))) for i in range(240)]))
    pixels = pixels_of(tokens, float_table())
    features = torch.cat([model.tower(part) for part in pixels.split(40)])
    # Centred by the bias of the last layer, so that unit vectors differ in more than their common part.
    model.tower.get_parameter(f"blocks.{LAYERS - 1}.mlp.fc2.bias").sub_(features.mean((0, 1)))
    seen = torch.cat([whole(part) for part in pixels.split(40)])
    inner, outer = ([weights[f"aligner.layers.{i}.weight"], weights[f"aligner.layers.{i}.bias"]] for i in (0, 2))
    wanted = F.linear(F.gelu(F.linear(seen, *inner)), *outer).flatten(0, 1)
    vectors = torch.cat([model.vectors(part) for part in pixels.split(40)])
    similar = vectors[:60].flatten(0, 1) @ vectors[60:120].flatten(0, 1).T
    print(f"vectors: mean similarity {float(similar.mean()):.3f}, deviation {float(similar.std()):.3f}", flush=True)
    _fit(model.projector, vectors.flatten(0, 1), wanted)


@torch.enable_grad()
def _fit(projector: nn.Module, features: Tensor, wanted: Tensor, steps: int = 800) -> None:
    optimiser = torch.optim.Adam(projector.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(features), (1024,))
        optimiser.zero_grad(set_to_none=True)
        error = (projector(features[rows]) - wanted[rows]).square().mean()
        error.backward()
        optimiser.step()
        if step in (0, steps - 1):
            print(f"projector: {100 * float(error.detach() / wanted.var()):.1f} % of the variance is lost", flush=True)
    optimiser.zero_grad(set_to_none=True)


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    form = Format(tokenizer_of(args.janus, args.out))
    vocabulary = -(-form.tokenizer.get_vocab_size() // 64) * 64
    file, model = args.out / "metamorph.pt", MetaMorph(vocabulary)
    state = load_state(file) if args.resume and file.exists() else {}
    if state:
        model.load_state_dict(state["model"])
    else:
        begin_with(model, args.janus)
    model = model.to(device)
    model.tower.requires_grad_(False)
    run = Run(args, optimisers(model, lambda name, p: p.ndim == 2 and "layers." in name, args.lr, 0.75 * args.lr))
    if state:
        run.resume(state)
    trainer, rng = Trainer(model, device), np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    makers = {"draw": (drawings, args.captions), "edit": (changes, args.edits), "talk": (talks, args.talks)}
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        for name, (make, count) in makers.items():
            loss, values = trainer.loss(make(rng, form, count).to(device), name, args.blur)
            (loss * (count / (args.captions + args.edits + args.talks))).backward()
            run.log(values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=60, lr=3e-3, decay=0.6)
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
