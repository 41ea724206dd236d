"""The embedded Transfusion, LMFusion and LLaVAFusion as they are trained, and the weights with which they begin."""

from __future__ import annotations

import json
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
from janus_app.models.mixed_diffusion.codec import LinearCodec, UNetCodec
from janus_app.models.mixed_diffusion.config import LANGUAGE, SCHEDULE, parse_config
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.types import result_of
from training.aim import Aim
from training.batches import BOI, EOI, Words
from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of
from training.joint import ASKED, FOUND, HEAD, tile_loss
from training.mixed_data import Sequences
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import fit
from training.picture_tokenizer import random_scene
from training.pictures import SIDE, painter
from training.world import GRID, KINDS, grid

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
# Not the noise, as in the papers: in the first of few steps there is so little signal that a small error of the noise
# is a large one of the picture, though the states of the cells know already what to draw (training/README.md).
DIFFUSION: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "guidance": 1.5,
    "steps": 20,
}
MARKERS = (-1, -2)  # ids of begin- and end-of-picture where they are no words, as the app has them


@dataclass(frozen=True)
class System:
    """base: the folder beside its own with the model whose language half stays as it is, "" where words and pictures
    share their weights. sight: the model that ships with the app whose language model it has, and whose inputs for
    pictures its own are fitted to; "" where no pictures are read as latents, and so taught."""

    base: str = ""
    sight: str = ""

    @property
    def reads(self) -> bool:
        return bool(self.sight)

    @property
    def half(self) -> LanguageHalf | None:
        return base_of(ASSETS, self.base) if self.base else None


SYSTEMS = {
    "transfusion": System(sight="janusflow-embedded"),
    "lmfusion": System("janus_embedded", sight="janus-embedded"),
    "llavafusion": System("metaquery_embedded"),
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


@dataclass(frozen=True)
class Reading:
    """What a batch says: its keys and values, and the states of its words [n, L, hidden] and its pictures.

    found, asked: after the layers `FOUND` and `ASKED`; words: final ones; cells [n, P, 36, hidden]: final ones.
    """

    passes: Passes
    found: Tensor
    asked: Tensor
    words: Tensor
    cells: Tensor


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
        if self.net.config.image and self.net.config.image.edits:
            self.aim = Aim(width)
        fields = {**SCHEDULE, **DIFFUSION}
        self.schedule = DDPMScheduler(**{name: fields[name] for name in SCHEDULE if name != "_class_name"})

    @property
    def signal(self) -> Tensor:
        """Of every time, the share of the picture in the variance of its noised latents."""
        return self.schedule.alphas_cumprod

    def read(self, batch: Sequences, clean: Tensor, frame: Frame) -> Reading:
        """Pictures, the words behind them, and what a picture behind these attends to.

        clean [n, P, C, h, w]: the latents of the pictures.
        """
        rows, device = len(batch.ids), batch.ids.device
        passes = Passes(self.net.config.language.num_hidden_layers, rows, device)
        before, cells = frame.opening, list[Tensor]()
        for number, picture in enumerate(clean.unbind(1)):
            before = [*before, *(frame.between if number else ()), frame.start]
            self._words(passes, torch.tensor([before], device=device).expand(rows, -1))
            cells.append(self.cells(passes, picture, torch.zeros(rows, dtype=torch.long, device=device))[1])
            before = [frame.stop]
        ids = torch.cat([torch.tensor([before], device=device).expand(rows, -1), batch.ids], dim=1)
        real = torch.arange(ids.shape[1], device=device) < len(before) + batch.ends[:, None]
        early = list[Tensor]()
        layers = (self.net.language_model.model.layers[number] for number in (FOUND, ASKED))
        hooks = [layer.register_forward_hook(lambda _m, _i, out: early.append(out)) for layer in layers]
        final = self._words(passes, ids, real)
        for hook in hooks:
            hook.remove()
        found, asked, said = (states[:, len(before) :] for states in (*early, final))
        seen = torch.stack(cells, dim=1) if cells else final.new_zeros(rows, 0, GRID * GRID, final.shape[-1])
        return Reading(passes, found, asked, said, seen)

    def tiles(self, states: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of naming the tiles of cells, whose final states are [n, 36, hidden]; truth [n, 36, 3]: factors."""
        features = F.gelu(self.named(states))
        return tile_loss(self.kind(features), self.colour(features), self.ground(features), truth)

    def _words(self, passes: Passes, ids: Tensor, real: Tensor | None = None) -> Tensor:
        positions = passes.begin(torch.ones_like(ids, dtype=torch.bool) if real is None else real, causal=True)
        return self.net(self.net.marked_embeds(ids), positions, passes)

    def cells(self, passes: Passes, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """What is predicted of latents [n, C, h, w] at times [n], and the final states [n, cells, hidden]."""
        inputs, skips = self.net.codec.encode(latents, times)
        positions = passes.begin(torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device), causal=False)
        hidden = self.net.picture_blocks(inputs, positions, passes)
        return self.net.codec.decode(hidden, skips, times), hidden


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


class _Sight(nn.Module):
    """The codec's way in for clean latents."""

    def __init__(self, codec: LinearCodec | UNetCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Tensor:
        return self.codec.encode(latents, torch.zeros(len(latents), dtype=torch.long))[0]


def begin_to_see(model: Mixed, sight: str, folder: Path, *, pictures: int = 600, steps: int = 400) -> None:
    """Fit the inputs of clean pictures to those of the model `sight` in `folder`, so that its words can be told of.

    Pictures are drawn at random. A language model that reads them anew forgets less than one that learns to read.
    """
    network = result_of(load(plan_load(load_catalog()[sight], folder, "cpu").choose("fp32"))).model.network
    tiles = torch.from_numpy(np.stack([grid(random_scene(np.random.default_rng(i))) for i in range(pictures)]))
    pixels = painter().seen(tiles)
    with torch.no_grad():
        wanted = torch.cat([network.picture_embeds(part)[:, -GRID * GRID :] for part in pixels.split(40)])
    fit(_Sight(model.net.codec), SCALE * latents_of(tiles, latent_table()), wanted, rows=48, steps=steps)


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
