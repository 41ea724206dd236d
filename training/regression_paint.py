"""Train the visualiser of the embedded MetaMorph or Pisces: a projector and a small U-Net that paint from vectors.

    python -m training.regression_paint --system metamorph --out runs/metamorph --minutes 30 [--resume]

The U-Net learns the latents of the embedded JanusFlow, whose autoencoder then makes pixels of them. Some vectors are
noisy, and where the language model of --out is trained, a share of them is as it writes them: its errors are no noise,
they lie between tiles that look alike. Some are replaced, for guidance: by conditions of zeros, or by the mean vectors,
which a language model writes for an empty caption.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from janus_app.models.regression.adapter import Adapter
from janus_app.models.regression.config import parse_adapter
from training.flow_codes import LATENT_CHANNELS, SCALE, SIDE_LATENTS, latent_table, latents_of
from training.joint import HEAD, tile_loss
from training.objects import N_BACKGROUNDS, N_COLOURS
from training.optim import optimisers
from training.picture_tokenizer import random_scene
from training.pictures import SIDE
from training.regression import CODE, WIDTH, Trainer, Writer, begin_with
from training.regression_data import CELLS, SYSTEMS, Format, drawings, tokenizer_of
from training.scenes import seen_scene
from training.trainer import Run, device_of, load_state, options_parser
from training.world import KINDS, Scene, grid

CONDITION = 80  # numbers of a condition
SMALL = 0.4  # share of the scenes in which all things are made small
# As Stable Diffusion XL has them: numbers of the pooled condition, and of each of the six numbers of a size.
_POOLED, _TIME = 64, 8
ADAPTERS: dict[str, dict[str, Any]] = {
    "metamorph": {
        "mode": "mlp",
        "input_dim": WIDTH,
        "hidden_dim": 128,
        "output_dim": CONDITION,
        "num_tokens": CELLS,
        "num_layers": 2,
        "num_heads": 4,
    },
    "pisces": {
        "mode": "linear",
        "input_dim": CODE,
        "output_dim": CONDITION,
        "num_tokens": CELLS,
        "pooled_dim": _POOLED,
    },
}
_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 4,
    "block_out_channels": [24, 32, 40],  # at 3 x 3 the padding of convolutions tells every cell where it is
    "cross_attention_dim": CONDITION,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "in_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_num_groups": 8,
    "out_channels": LATENT_CHANNELS,
    "sample_size": SIDE_LATENTS,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
}
_WITH_SIZES = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": _TIME,
    "projection_class_embeddings_input_dim": _POOLED + 6 * _TIME,
}
UNETS: dict[str, dict[str, Any]] = {"metamorph": _UNET, "pisces": _UNET | _WITH_SIZES}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}


class Visualizer(nn.Module):
    """The projector and the U-Net of a visualiser folder, and auxiliary heads, which are not exported.

    A U-Net has no positions but those that the padding of its convolutions gives away, and without the heads it learns
    what is drawn long before where. The heads read the side of 6 x 6 on the way up, where a cell is a tile: in front of
    the attention to the conditions which cell it is, and behind it which tile. Which tile it is they read in the
    conditions too, which would otherwise leave out what tells small things apart.
    """

    def __init__(self, system: str) -> None:
        super().__init__()
        self.adapter = Adapter(parse_adapter(ADAPTERS[system]))
        self.unet: Any = UNet2DConditionModel.from_config(UNETS[system])
        fields = {name: value for name, value in SCHEDULER.items() if name != "_class_name"}
        self.schedule = DDIMScheduler(**fields)
        width = UNETS[system]["block_out_channels"][1]
        self.place, self.named = nn.Linear(width, CELLS), nn.Linear(width, HEAD)
        self.told = nn.Linear(CONDITION, HEAD)
        self.kind, self.colour = nn.Linear(HEAD, KINDS), nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)
        self._seen: dict[str, Tensor] = {}
        middle = self.unet.up_blocks[1]
        middle.resnets[0].register_forward_hook(lambda _m, _i, out: self._seen.update(before=out))
        middle.attentions[1].register_forward_hook(lambda _m, _i, out: self._seen.update(behind=out[0]))

    def helper(self, vectors: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of the auxiliary heads after a pass for vectors of tiles with the factors `truth` [n, 36, 3]."""
        before, behind = (self._seen.pop(name).flatten(2).transpose(1, 2) for name in ("before", "behind"))
        cells = torch.arange(CELLS, device=truth.device).repeat(len(truth))
        loss = F.cross_entropy(self.place(before).flatten(0, 1), cells)
        seen = {"place": float(loss.detach())}
        told = self.told(self.adapter(vectors)[:, :CELLS])
        for name, states in (("which", self.named(behind)), ("told", told)):
            features = F.gelu(states)
            tiles, parts = tile_loss(self.kind(features), self.colour(features), self.ground(features), truth)
            loss, seen[name] = loss + tiles, parts["which"]
        return loss, seen

    def loss(self, vectors: Tensor, latents: Tensor, dropout: float) -> Tensor:
        """The error of the velocity (Salimans and Ho 2022) for vectors [n, 36, width] and latents [n, 16, 12, 12].

        dropout: the share of rows without a caption.
        """
        count, device = len(latents), latents.device
        time = torch.randint(1000, (count,), device=device)
        noise = torch.randn_like(latents)
        mixed = self.schedule.add_noise(latents, noise, time)
        wanted = self.schedule.get_velocity(latents, noise, time)
        kept = torch.rand(count, 1, 1, device=device) > dropout
        added = None
        if self.adapter.pooled_proj is None:
            said = self.adapter(vectors) * kept
        else:
            vectors = torch.where(kept, vectors, vectors.mean(0))
            said = self.adapter(vectors)
            added = {"text_embeds": self.adapter.pooled(vectors), "time_ids": sizes_of(vectors)}
        made = self.unet(mixed, time, encoder_hidden_states=said, added_cond_kwargs=added, return_dict=False)[0]
        return F.mse_loss(made, wanted)


def sizes_of(vectors: Tensor) -> Tensor:
    """The six numbers of a size [n, 6] for the vectors [n, V, width] of whole pictures."""
    side = [SIDE, SIDE, 0, 0, SIDE, SIDE]
    return torch.tensor([side], dtype=torch.float32, device=vectors.device).expand(len(vectors), -1)


def shown(rng: np.random.Generator) -> Scene:
    """A scene to paint; small things, which are rare and hardest to tell apart, are in more of them."""
    scene = seen_scene(rng) if rng.random() < 0.7 else random_scene(rng)
    if rng.random() < SMALL:
        return Scene.of(scene.background, [replace(item, small=True) for item in scene.items])
    return scene


def train(args: argparse.Namespace) -> None:
    device, system = device_of(args), SYSTEMS[args.system]
    form = Format(system, tokenizer_of(system, args.janus, args.out))
    writer, trained, written = Writer(system, form.vocabulary), args.out / "writer.pt", 0
    if trained.exists():
        writer.load_state_dict(load_state(trained)["model"])
        written = min(round(args.written * args.batch), args.batch - 1)
    else:
        begin_with(writer, args.janus)
    file, model = args.out / "visualizer.pt", Visualizer(args.system).to(device)
    writer = writer.to(device).requires_grad_(False)
    blocks = ("down_blocks.", "mid_block.", "up_blocks.")
    made = optimisers(model, lambda name, p: p.ndim >= 2 and any(b in name for b in blocks), args.lr, 0.5 * args.lr)
    run = Run(args, made)
    if args.resume and file.exists():
        state = load_state(file)
        model.load_state_dict(state["model"])
        run.resume(state, [*model.adapter.parameters(), *model.unet.parameters()])
    trainer, codes = Trainer(writer, device), latent_table().to(device)
    rng = np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        scenes = [shown(rng) for _ in range(args.batch - written)]
        tiles = torch.from_numpy(np.stack([grid(scene) for scene in scenes])).to(device)
        vectors = writer.blurred(trainer.targets(tiles), args.blur)
        if written:
            batch = drawings(rng, form, written).to(device)
            vectors = torch.cat([vectors, trainer.written(batch, args.blur)])
            tiles = torch.cat([tiles, batch.tiles])
        loss = model.loss(vectors, SCALE * latents_of(tiles, codes), args.dropout)
        helper, values = model.helper(vectors, trainer.factors[tiles])
        (loss + 0.2 * helper).backward()
        run.log({"velocity": float(loss.detach())} | values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=30, lr=3e-3, decay=0.6)
    parser.add_argument("--system", choices=SYSTEMS, default="metamorph")
    parser.add_argument("--janus", type=Path, default=Path("assets/janus_embedded"), help="to begin with")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--blur", type=float, default=0.3, help="noise on the vectors, at most")
    parser.add_argument("--written", type=float, default=0.5, help="share of vectors that the language model wrote")
    parser.add_argument("--dropout", type=float, default=0.15, help="share of rows without a caption")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
