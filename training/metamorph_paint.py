"""Train the visualiser of the embedded MetaMorph: a projector and a small U-Net that paint pictures from their vectors.

    python -m training.metamorph_paint --out runs/metamorph --minutes 30 [--resume]

It needs the vision tower only, so the language model may be trained before, after or beside it. The U-Net learns the
latents of the embedded JanusFlow, whose autoencoder then makes pixels of them. Some vectors are noisy, as those that
the language model writes will be, and some conditions are zeros, for guidance.
"""

from __future__ import annotations

import argparse
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
from training.metamorph import WIDTH, MetaMorph, begin_with
from training.metamorph_data import CELLS, Format, tokenizer_of
from training.optim import optimisers
from training.picture_tokenizer import float_table, pixels_of, random_scene
from training.scenes import seen_scene
from training.trainer import Run, device_of, load_state, options_parser
from training.world import grid

CONDITION = 96  # numbers of a condition
ADAPTER = {
    "mode": "mlp",
    "input_dim": WIDTH,
    "hidden_dim": 128,
    "output_dim": CONDITION,
    "num_tokens": CELLS,
    "num_layers": 2,
    "num_heads": 4,
}
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 4,
    "block_out_channels": [48, 64],
    "cross_attention_dim": CONDITION,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_num_groups": 8,
    "out_channels": LATENT_CHANNELS,
    "sample_size": SIDE_LATENTS,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}


class Visualizer(nn.Module):
    """The projector and the U-Net of a visualiser folder."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = Adapter(parse_adapter(ADAPTER))
        self.unet: Any = UNet2DConditionModel.from_config(UNET)
        fields = {name: value for name, value in SCHEDULER.items() if name != "_class_name"}
        self.schedule = DDIMScheduler(**fields)

    def loss(self, vectors: Tensor, latents: Tensor, dropout: float) -> Tensor:
        """The error of the velocity (Salimans and Ho 2022) for vectors [n, 36, WIDTH] and latents [n, 16, 12, 12]."""
        count = len(latents)
        time = torch.randint(1000, (count,), device=latents.device)
        noise = torch.randn_like(latents)
        mixed = self.schedule.add_noise(latents, noise, time)
        wanted = self.schedule.get_velocity(latents, noise, time)
        kept = (torch.rand(count, 1, 1, device=latents.device) > dropout).float()
        said = self.adapter(vectors) * kept
        return F.mse_loss(self.unet(mixed, time, encoder_hidden_states=said, return_dict=False)[0], wanted)


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    eyes = MetaMorph(-(-Format(tokenizer_of(args.janus, args.out)).tokenizer.get_vocab_size() // 64) * 64)
    trained = args.out / "metamorph.pt"
    if trained.exists():
        eyes.load_state_dict(load_state(trained)["model"])
    else:
        begin_with(eyes, args.janus)
    file, model = args.out / "visualizer.pt", Visualizer().to(device)
    eyes = eyes.to(device).requires_grad_(False)
    run = Run(args, optimisers(model, lambda name, p: False, args.lr, args.lr)[1:])
    if args.resume and file.exists():
        state = load_state(file)
        model.load_state_dict(state["model"])
        run.resume(state)
    table, codes = float_table(device), latent_table().to(device)
    rng = np.random.default_rng((args.seed, run.step))
    torch.manual_seed(args.seed + run.step)
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        scenes = [seen_scene(rng) if rng.random() < 0.7 else random_scene(rng) for _ in range(args.batch)]
        tiles = torch.from_numpy(np.stack([grid(scene) for scene in scenes])).to(device)
        vectors = eyes.vectors(pixels_of(tiles, table))
        noise = F.normalize(torch.randn_like(vectors), dim=-1) * (args.blur * torch.rand(len(vectors), 1, 1))
        vectors = F.normalize(vectors + noise.to(device), dim=-1)
        loss = model.loss(vectors, SCALE * latents_of(tiles, codes), args.dropout)
        loss.backward()
        run.log({"velocity": float(loss.detach())})


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=30, lr=1.5e-3, decay=0.6)
    parser.add_argument("--janus", type=Path, default=Path("assets/janus_embedded"), help="to begin with")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--blur", type=float, default=0.6, help="noise on the vectors, at most")
    parser.add_argument("--dropout", type=float, default=0.15, help="share of conditions that are zeros")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
