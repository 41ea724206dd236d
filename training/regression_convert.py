"""Make the trainers' states of a MetaMorph from an embedded Pisces, which already reads, plans and paints pictures:

    python -m training.regression_convert --checkpoint assets/pisces_embedded --out runs/metamorph
    python -m training.regression --system metamorph --out runs/metamorph --minutes 60 --resume

What both have is copied: the language model and the U-Net. What differs is fitted, so that another system's vectors
say the same: the projector, the head and the visualiser's adapter. The U-Net reads no sizes; their mean goes into a
bias.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.optim import fit
from training.picture_tokenizer import random_scene
from training.pictures import painter
from training.regression import Trainer, Writer, begin_with, codes_of
from training.regression_data import SYSTEMS, Format, drawings, tokenizer_of
from training.regression_paint import CONDITION, Visualizer, sizes_of
from training.regression_restore import save_states, visualizer_state, writer_state
from training.world import grid

BLUR = 0.2  # noise on the vectors that the parts are fitted with
BATCHES = 40  # of captions, that the head is fitted with


def writer(janus: Path, checkpoint: Path, out: Path) -> Writer:
    """A writer of MetaMorph with the language model of the Pisces in `checkpoint`."""
    system = SYSTEMS["metamorph"]
    form = Format(system, tokenizer_of(system, janus, out))
    model, other = (Writer(s, form.vocabulary) for s in (system, SYSTEMS["pisces"]))
    begin_with(model, janus)
    other.load_state_dict(writer_state("pisces", checkpoint))
    model.language.load_state_dict(other.language.state_dict())
    pixels = painter().seen(tiles_of(240))
    mine, others = (torch.cat([w.read(part) for part in pixels.split(40)]).flatten(0, 1) for w in (model, other))
    fit(model.projector, model.blurred(mine[None], BLUR)[0], other.projector(others))
    hidden, targets = [], []
    rng, trainer = np.random.default_rng(0), Trainer(model, "cpu")
    for _ in range(BATCHES):
        batch = drawings(rng, form, 24)
        # The model's own states: it reads what it wrote by the projector of pictures, not by one of its own.
        hidden.append(model.hidden(batch, trainer.embeds(batch, BLUR))[batch.vector])
        targets.append(trainer.targets(batch.tiles).flatten(0, 1))
    fit(model.head, torch.cat(hidden), torch.cat(targets))
    return model


def visualizer(model: Writer, checkpoint: Path) -> Visualizer:
    """A visualiser of MetaMorph with the U-Net of the Pisces in `checkpoint`, for the vectors of `model`."""
    made, other = Visualizer("metamorph"), Visualizer("pisces")
    other.load_state_dict(visualizer_state("pisces", checkpoint))
    tiles = tiles_of(360)
    codes = codes_of(tiles)
    sizes = other.unet.get_aug_embed(
        emb=torch.zeros(len(codes)),
        encoder_hidden_states=None,
        added_cond_kwargs={"text_embeds": other.adapter.pooled(codes), "time_ids": sizes_of(codes)},
    )
    state = other.unet.state_dict()
    own = {name: state[name] for name in made.unet.state_dict()}
    own["time_embedding.linear_2.bias"] = own["time_embedding.linear_2.bias"] + sizes.mean(0)
    made.unet.load_state_dict(own)
    vectors = torch.cat([model.read(part) for part in painter().seen(tiles).split(40)])
    wanted = other.adapter(codes)
    fit(_Rows(made.adapter), model.blurred(vectors, BLUR).flatten(0, 1), wanted.flatten(0, 1))
    return made


class _Rows(nn.Module):
    """An adapter for vectors without a picture, [n, width] to [n, CONDITION]."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.adapter(vectors[None])[0, : len(vectors)]
        return out.view(-1, CONDITION)


def tiles_of(count: int) -> Tensor:
    """Tiles [count, 36] of random scenes."""
    return torch.from_numpy(np.stack([grid(random_scene(np.random.default_rng(i))) for i in range(count)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--janus", type=Path, default=Path("assets/janus_embedded"), help="for tower and tokenizer")
    parser.add_argument("--checkpoint", type=Path, default=Path("assets/pisces_embedded"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        model = writer(args.janus, args.checkpoint, args.out)
        painter = visualizer(model, args.checkpoint)
    save_states(args.out, {"writer": model.state_dict(), "visualizer": painter.state_dict()})


if __name__ == "__main__":
    main()
