"""The embedded MetaQuery while it is trained: a tiny LLaVA-OneVision, learned queries, connector and SANA.

The language model and its vision tower use the modules of the embedded Janus. They are equivalent to transformers'
classes (a Qwen2 whose biases are zero is a Llama; see `tests/test_metaquery_embedded.py`) and train faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import SanaTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from janus_app.files import read_json
from janus_app.models.janusflow.config import parse_config
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.models.metaquery.connector import connector
from janus_app.nn.llama import LlamaForCausalLM, rotary_table
from janus_app.nn.siglip import SigLIP
from training.aim import Aim
from training.batches import CELLS
from training.flow_codes import weights
from training.hidden_words import Known
from training.joint import ASKED, FOUND, HEAD, tile_loss
from training.joint import config as joint_config
from training.metaquery_vae import CHANNELS
from training.objects import N_BACKGROUNDS, N_COLOURS
from training.optim import fit
from training.picture_tokenizer import noisy, random_scene
from training.pictures import TOWER_SIDE, painter, resizing
from training.world import GRID, KINDS, grid

QUERIES = CELLS
# LLaVA-OneVision encodes a picture twice, the second time with a newline token after each row.
SEEN = CELLS + GRID * (GRID + 1)
LAYERS = 3  # layers of the connector
WIDTH = 192
FRAME = 384  # MetaQuery resizes pictures to this side before the image processor shrinks them
FLOW_SHIFT = 3.0


def sana_config() -> dict[str, Any]:
    """transformer/config.json, with diffusers' field names."""
    return {
        "attention_bias": False,
        "attention_head_dim": 32,
        "caption_channels": WIDTH,
        "cross_attention_dim": WIDTH,
        "cross_attention_head_dim": 32,
        "dropout": 0.0,
        "guidance_embeds": False,
        "in_channels": CHANNELS,
        "interpolation_scale": 1,
        "mlp_ratio": 2.5,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "num_attention_heads": 6,
        "num_cross_attention_heads": 6,
        "num_layers": 4,
        "out_channels": CHANNELS,
        "patch_size": 1,
        "qk_norm": None,
        "sample_size": GRID,
        "timestep_scale": 1.0,
    }


def frame() -> Tensor:
    """[96, 192]: the linear map of resizing a column of a picture to 384 pixels, and to what the tower reads."""
    return resizing((FRAME, Image.Resampling.BILINEAR), (TOWER_SIDE, Image.Resampling.BICUBIC))


class Reader(nn.Module):
    """The language model with its vision tower. `queries` [1 + QUERIES, hidden]: begin-of-image, then the queries."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        sizes = joint_config(vocabulary)
        self.tower = SigLIP(sizes.vision)  # its last norm is not used: LLaVA takes the features before it
        self.projector = nn.Sequential(
            nn.Linear(sizes.vision.width, WIDTH), nn.GELU(), nn.Linear(WIDTH, sizes.language.hidden_size)
        )
        self.newline = nn.Parameter(torch.zeros(WIDTH))
        self.language = LlamaForCausalLM(sizes.language)
        self.queries = nn.Parameter(torch.empty(1 + QUERIES, WIDTH))

    def features(self, pixels: Tensor) -> Tensor:
        x = self.tower.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + self.tower.pos_embed
        for block in self.tower.blocks:
            x = block(x)
        return x

    def see(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, 96, 96] in -1..1 to inputs of the language model [n, SEEN, hidden]."""
        said = self.projector(self.features(pixels))
        rows = said.view(-1, GRID, GRID, WIDTH)
        marks = self.newline.expand(len(said), GRID, 1, -1)
        return torch.cat([said, torch.cat([rows, marks], dim=2).flatten(1, 2)], dim=1)

    def embed(self, ids: Tensor, picture: Tensor, said: Tensor) -> Tensor:
        """Embeddings of ids [n, L], with those of the pictures at the marked positions."""
        return self.language.model.embed_tokens(ids).masked_scatter(picture[..., None], said)

    def states(self, embeds: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [n, QUERIES, hidden] at the queries behind prompts [n, L, hidden] of lengths `ends`, and all states
        after the layers `FOUND` and `ASKED`."""
        n = len(embeds)
        rows = torch.arange(n, device=embeds.device)[:, None]
        places = ends[:, None] + torch.arange(1 + QUERIES, device=embeds.device)
        embeds = torch.cat([embeds, embeds.new_zeros(n, 1 + QUERIES, embeds.shape[-1])], dim=1)
        embeds = embeds.index_put((rows, places), self.queries.expand(n, -1, -1))
        states, found, asked = self.read(embeds)
        return states[rows, places[:, 1:]], found, asked

    def read(self, embeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The language model's states [n, L, hidden] for inputs [n, L, hidden]: after the last norm, and after the
        layers `FOUND` and `ASKED`."""
        trunk = self.language.model
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        rotary = rotary_table(positions, trunk.config, embeds.dtype)
        early = []
        for number, layer in enumerate(trunk.layers):
            embeds = layer(embeds, rotary, None, None)
            if number in (FOUND, ASKED):
                early.append(embeds)
        return trunk.norm(embeds), early[0], early[1]


class MetaQuery(nn.Module):
    """All trained modules, with auxiliary heads that predict the tile of each query."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.reader = Reader(vocabulary)
        self.connector = connector(WIDTH, LAYERS, WIDTH)
        self.sana: Any = SanaTransformer2DModel.from_config(sana_config())
        self.named = nn.Linear(WIDTH, HEAD)
        self.kind, self.colour = nn.Linear(HEAD, KINDS), nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)
        self.cell = nn.Linear(WIDTH, CELLS)
        self.aim = Aim(WIDTH)
        initialise(self)

    def exported(self) -> Iterator[nn.Parameter]:
        """What is trained and not an auxiliary head."""
        for part in (self.reader, self.connector, self.sana):
            yield from (p for p in part.parameters() if p.requires_grad)

    def tiles_loss(
        self, conditions: Tensor, truth: Tensor, seen: Known | None = None
    ) -> tuple[Tensor, dict[str, float], Tensor]:
        """The loss of predicting tiles (`truth` [n, 36, 3], their factors) from conditions [n, 36, WIDTH], its parts,
        and which tiles are predicted correctly [n, 36]; only what is `seen` of a picture is learned."""
        features = F.gelu(self.named(conditions))
        kind, colour, ground = self.kind(features), self.colour(features), self.ground(features)
        loss, parts = tile_loss(kind, colour, ground, truth, seen)
        kind = torch.cat([kind[..., :1], kind[..., 1:] + colour.logsumexp(-1, keepdim=True)], dim=-1)  # as in the loss
        said = torch.stack([part.argmax(-1) for part in (kind, colour, ground)], dim=-1)
        right = said == truth
        drawn = truth[..., 0] > 0
        return loss, parts, right[..., 0] & right[..., 2] & (right[..., 1] | ~drawn)

    def cell_loss(self, conditions: Tensor) -> Tensor:
        """The loss of predicting the cell of each condition, so that SANA can find the condition of a cell."""
        cells = torch.arange(CELLS, device=conditions.device).expand(len(conditions), -1)
        return F.cross_entropy(self.cell(conditions).flatten(0, 1), cells.flatten())

    def flow_loss(
        self, conditions: Tensor, latents: Tensor, truth: Tensor, repeats: int, cells: Tensor | None = None
    ) -> Tensor:
        """The error of the velocity noise - latents, with `repeats` noises for every condition; truth [n, 36, 3].

        Only the `cells` [n, 36] count, all where none are given. The error is weighted by the share of noise, because
        with little noise a velocity magnifies tiny errors.
        """
        conditions, latents = conditions.repeat(repeats, 1, 1), latents.repeat(repeats, 1, 1, 1)
        noise = torch.randn_like(latents)
        share = torch.rand(len(latents), device=latents.device)
        share = FLOW_SHIFT * share / (1 + (FLOW_SHIFT - 1) * share)
        mixed = latents.lerp(noise, share[:, None, None, None])
        velocity = self.sana(mixed, encoder_hidden_states=conditions, timestep=1000 * share, return_dict=False)[0]
        count = weights(truth, latents.shape[-1])
        if cells is not None:
            count = count * cells.view(-1, 1, GRID, GRID).to(count.dtype)
        count = count.repeat(repeats, 1, 1, 1)
        error = ((velocity - (noise - latents)).square() * count).mean((1, 2, 3))
        return (error * share).mean()


@torch.no_grad()
def initialise(model: MetaQuery) -> None:
    """Initialise the modules that come from no checkpoint. SANA starts with open gates and no effect of the time."""
    for name, p in model.connector.named_parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=p.shape[1] ** -0.5 * (0.3 if "o_proj" in name or "down_proj" in name else 1))
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    sana = model.sana
    for block in sana.transformer_blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[[2, 5]] = 0.5
    sana.scale_shift_table.zero_()
    sana.time_embed.linear.weight.mul_(0.2)
    sana.time_embed.linear.bias.zero_()
    inward = nn.init.orthogonal_(torch.empty(WIDTH, CHANNELS))
    scale = (WIDTH / CHANNELS) ** 0.5
    sana.patch_embed.proj.weight.copy_(scale * inward[..., None, None])
    sana.patch_embed.proj.bias.zero_()
    sana.proj_out.weight.mul_(0.2).add_(inward.T / scale)
    sana.proj_out.bias.zero_()


@torch.no_grad()
def align(sana: Any, conditions: Tensor, latents: Tensor, heads: int = 2, sharpness: float = 4.75) -> None:
    """Initialise `heads` heads of every cross-attention to attend to the condition of their own cell, by least squares.

    Finding it among 36 conditions would otherwise take long to learn. A cell is encoded by its row and its column.
    """
    code = torch.cat([torch.eye(GRID).repeat_interleave(GRID, 0), torch.eye(GRID).repeat(GRID, 1)], dim=1)
    code = code.to(conditions.device)
    share = torch.rand(len(latents), device=latents.device)
    mixed = latents.lerp(torch.randn_like(latents), share[:, None, None, None])
    caught: list[tuple[Tensor, Tensor]] = []

    def catch(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        caught.append((inputs[0], named["encoder_hidden_states"]))

    for number, block in enumerate(sana.transformer_blocks):
        hook = block.attn2.register_forward_pre_hook(catch, with_kwargs=True)
        sana(mixed, encoder_hidden_states=conditions, timestep=1000 * share)
        hook.remove()
        cells, seen = caught.pop()
        right = []
        for layer, found in ((block.attn2.to_q, cells), (block.attn2.to_k, seen)):
            solution, share_right = _position_map(found, code)
            right.append(f"{100 * share_right:.0f} %")
            width = block.attn2.inner_dim // block.attn2.heads
            for head in range(heads):
                rows = slice(head * width, (head + 1) * width)
                layer.weight[rows], layer.bias[rows] = 0, 0
                layer.weight[rows][: code.shape[1]] = sharpness * solution[:-1].T
                layer.bias[rows][: code.shape[1]] = sharpness * solution[-1]
        print(f"layer {number + 1}: {right[0]} of cells and {right[1]} of conditions encode their position", flush=True)


def _position_map(found: Tensor, code: Tensor) -> tuple[Tensor, float]:
    """The linear map from [n, 36, W] to the codes of the cells, and the share of cells it gets right."""
    rows = torch.cat([found, torch.ones_like(found[..., :1])], dim=-1).flatten(0, 1)
    ridge = 1e-2 * torch.eye(rows.shape[1], device=rows.device)
    solution = torch.linalg.solve(rows.T @ rows / len(rows) + ridge, rows.T @ code.repeat(len(found), 1) / len(rows))
    said = ((rows @ solution).view(*found.shape[:2], -1) @ code.T).argmax(-1)
    return solution, float((said == torch.arange(CELLS, device=said.device)).float().mean())


@torch.no_grad()
def begin_with(reader: Reader, flow: Path, janus: Path, boi: int) -> None:
    """Load language model, vision tower and initial queries from the embedded JanusFlow, the projector from Janus.

    JanusFlow's language model draws all cells at once, so the queries begin as its encoder's outputs for pure noise.
    """
    weights = {n: t.float() for n, t in load_file(flow / "model.safetensors").items()}
    old = {n: t.float() for n, t in load_file(janus / "model.safetensors").items() if n.startswith("aligner.")}
    tower, language = "vision_und_enc_model.vision_tower.", "language_model."
    reader.tower.load_state_dict({n.removeprefix(tower): t for n, t in weights.items() if n.startswith(tower)})
    reader.language.load_state_dict({n.removeprefix(language): t for n, t in weights.items() if n.startswith(language)})
    reader.newline.zero_()
    reader.language.model.embed_tokens.weight[boi] = weights["beg_of_und_embed"][0]
    reader.queries.copy_(_first_queries(flow))
    norm = reader.tower.norm
    tokens = torch.from_numpy(np.stack([grid(random_scene(np.random.default_rng(i))) for i in range(240)]))
    features = torch.cat([reader.features(p) for p in noisy(painter().seen(tokens)).split(40)]).flatten(0, 1)
    wanted = F.linear(norm(features), *(weights[f"vision_und_enc_aligner.{n}"] for n in ("weight", "bias")))
    # Layer norm is linear except for each token's deviation: start with the mean one.
    inner, outer = reader.projector[0], reader.projector[2]
    centred = old["aligner.layers.0.weight"] * norm.weight
    deviation = features.std(-1).mean()
    inner.weight.copy_((centred - centred.mean(1, keepdim=True)) / deviation)
    inner.bias.copy_(old["aligner.layers.0.bias"] + old["aligner.layers.0.weight"] @ norm.bias)
    outer.weight.copy_(old["aligner.layers.2.weight"])
    outer.bias.copy_(old["aligner.layers.2.bias"])
    fit(reader.projector, features, wanted, steps=600, lr=2e-3)


def _first_queries(flow: Path) -> Tensor:
    network = JanusFlowNetwork(parse_config(read_json(flow / "config.json")))
    network.load_state_dict({n: t.float() for n, t in load_file(flow / "model.safetensors").items()}, strict=False)
    clock = network.time_embeds(torch.zeros(1))
    noise = torch.randn(64, network.config.encoder.in_channels, 2 * GRID, 2 * GRID)
    tokens, _ = network.encode(noise, clock.expand(64, -1))
    return torch.cat([clock, tokens.mean(0)])
