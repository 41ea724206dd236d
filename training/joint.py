"""Train the joint model: one decoder that reads SigLIP features and writes words, and writes picture tokens.

A picture's tokens are its tile numbers, so none is encoded, and the tower's input is looked up in a table of stickers.
During training the logit of a picture token is the sum of terms for its kind, its colour and its background. So the
softmax over thousands of tokens is exactly a product of three small ones (`tile_loss`), and a red cat teaches red and
cat to all other tiles. Export writes the sums as the matrix of the checkpoint layout.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from janus_app.models.janus.config import JanusConfig
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn.llama import DecoderConfig, rotary_table, rotate
from janus_app.nn.siglip import VisionConfig
from training.batches import CELLS, Drawings, Talks, Words, drawings, talks, things_of
from training.codes import codebook
from training.hidden_words import Known, hide, known, meanings_of
from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.optim import optimisers
from training.picture_tokenizer import CONFIG as VQ
from training.picture_tokenizer import noisy
from training.pictures import TOWER_SIDE, Painter
from training.text_tokenizer import train as train_text
from training.trainer import Run, device_of, load_state, options_parser
from training.world import GRID, KINDS, PARTS, SMALL, tile_factors

HEAD = 128
FOUND = 2  # the layer after which words should know where the thing they name is
ASKED = 3  # the layer after which the end of a question should know what it is about
SLOTS = (GRID // 2) ** 2
HIDDEN = 0.5  # the share of captions with a word that cannot be read
SHAKEN = 0.35  # the largest deviation of the noise on the tiles that the model reads as its own
# The smallest share of the unconditional distribution for all values of a factor. Guidance draws what it finds less
# likely than the prompt does, so it must not find anything nearly impossible.
VAGUE = 0.1
EMBED_SCALE = 4.0  # unit vectors of 32 dimensions are small inputs for a newly initialised layer


def config(vocabulary: int) -> JanusConfig:
    language = DecoderConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        rope_theta=500.0,
    )
    vision = VisionConfig(
        image_size=TOWER_SIDE, width=192, layers=3, heads=6, patch_size=TOWER_SIDE // GRID, mlp_ratio=2
    )
    return JanusConfig(language, vision, VQ, HEAD)


class Joint(nn.Module):
    """The network with a factorised picture head and auxiliary heads, which are not exported.

    names [N_THINGS + N_COLOURS, 3]: token ids of the words for every thing and colour.
    """

    names: Tensor
    thing_of: Tensor
    meanings: Tensor

    def __init__(self, vocabulary: int, names: Tensor) -> None:
        super().__init__()
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("thing_of", things_of(names, vocabulary), persistent=False)
        self.register_buffer("meanings", meanings_of(names, vocabulary), persistent=False)
        self.net = JanusNetwork(config(vocabulary))
        del self.net.gen_vision_model  # trained separately
        self.kind = nn.Linear(HEAD, KINDS)
        self.colour = nn.Linear(HEAD, N_COLOURS)
        self.ground = nn.Linear(HEAD, N_BACKGROUNDS)
        # Auxiliary heads: what each seen cell shows, and which object comes next while drawing;
        self.cell = nn.Linear(192, KINDS + N_COLOURS + N_BACKGROUNDS)
        self.next = nn.Linear(192, N_THINGS + 1 + N_COLOURS)
        # the position of a drawn cell in a middle layer, and of a seen one at the input of the language model;
        self.drawn_at, self.seen_at = nn.Linear(192, CELLS), nn.Linear(192, CELLS)
        # at every word for a thing, its slots in the picture and its colours;
        self.seek = nn.Linear(192, SLOTS + N_COLOURS)
        # at the end of a question, the slots its answer is about.
        self.look = nn.Linear(192, SLOTS)
        self.net.gen_embed = nn.Embedding.from_pretrained(EMBED_SCALE * codebook(), freeze=True)
        del self.net.gen_head.vision_head
        for name, p in self.named_parameters():
            if "norm" in name and name.endswith("weight"):
                nn.init.ones_(p)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.requires_grad:
                nn.init.normal_(p, std=0.5 if "embed_tokens" in name else 0.02 if p.ndim > 2 else p.shape[-1] ** -0.5)
        for p in (self.kind.weight, self.colour.weight, self.ground.weight, self.net.language_model.lm_head.weight):
            nn.init.normal_(p, std=0.02)

    def run(self, embeds: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of embeds [n, T, 192] behind a shared prefix [1, P, 192], which is computed only once.

        Returns those after the layers `FOUND` and `ASKED` [n, T, 2, 192] and those after the last norm [n, T, 192].
        """
        trunk = self.net.language_model.model
        n, steps, width = embeds.shape
        past = prefix.shape[1]
        head = trunk.config.head_dim
        cos, sin = rotary_table(torch.arange(past + steps, device=embeds.device)[None], trunk.config, embeds.dtype)
        mask = torch.ones(steps, past + steps, dtype=torch.bool, device=embeds.device).tril(past)
        p, x = prefix, embeds
        early = []
        for number, layer in enumerate(trunk.layers):
            attention = layer.self_attn
            qkv = []
            for part, a, b in ((p, 0, past), (x, past, past + steps)):
                normed = layer.input_layernorm(part)
                q, k, v = (
                    proj(normed).view(part.shape[0], -1, width // head, head).transpose(1, 2)
                    for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
                )
                qkv.append((rotate(q, cos[:, :, a:b], sin[:, :, a:b]), rotate(k, cos[:, :, a:b], sin[:, :, a:b]), v))
            (pq, pk, pv), (q, k, v) = qkv
            k, v = (torch.cat([a.expand(n, -1, -1, -1), b], dim=2) for a, b in ((pk, k), (pv, v)))
            seen_p = F.scaled_dot_product_attention(pq, pk, pv, is_causal=True)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            p = p + attention.o_proj(seen_p.transpose(1, 2).reshape(1, past, width))
            x = x + attention.o_proj(seen.transpose(1, 2).reshape(n, steps, width))
            p = p + layer.mlp(layer.post_attention_layernorm(p))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if number in (FOUND, ASKED):
                early.append(x)
        return torch.stack(early, dim=2), trunk.norm(x)

    def draw_loss(self, batch: Drawings, factors: Tensor) -> tuple[Tensor, dict[str, float]]:
        n = len(batch.ids)
        trunk = self.net.language_model.model
        text, hidden_word = hide(self.net.text_embeds(batch.ids), batch.ids, self.meanings, HIDDEN)
        embeds = torch.cat([text, text.new_zeros(n, CELLS - 1, text.shape[-1])], dim=1)
        places = batch.ends[:, None] + torch.arange(CELLS, device=text.device)
        rows = torch.arange(n, device=text.device)[:, None]
        embeds = embeds.index_put((rows, places[:, 1:]), self.shaken(batch.tiles[:, :-1]))
        positions = torch.arange(embeds.shape[1], device=text.device)[None]
        rotary = rotary_table(positions, trunk.config, embeds.dtype)
        for number, layer in enumerate(trunk.layers):
            embeds = layer(embeds, rotary, None, None)
            if number == 1:
                early = embeds[rows, places]
        hidden = trunk.norm(embeds)[rows, places]
        features = F.gelu(self.net.gen_head.output_mlp_projector(hidden))
        truth = factors[batch.tiles]
        seen = known(hidden_word, truth)
        factors_said = self.kind(features), self.colour(features), self.ground(features)
        blank = ~(self.meanings[batch.ids] >= 0).any(1)  # a dropped caption
        loss, parts = tile_loss(*(f[~blank] for f in factors_said), truth[~blank], seen.of(~blank))
        if blank.any():
            vague, _ = tile_loss(*(f[blank] for f in factors_said), truth[blank], smoothing=VAGUE)
            loss = loss.lerp(vague, float(blank.float().mean()))
        thing, colour = coming(truth)
        thing = torch.where(thing == hidden_word[:, None], -1, thing)
        colour = torch.where(colour == hidden_word[:, None] - N_THINGS, -1, colour)
        guess = self.next(hidden)
        helper = F.cross_entropy(guess[..., : N_THINGS + 1].flatten(0, 1), thing.flatten(), ignore_index=-1)
        helper = helper + F.cross_entropy(guess[..., N_THINGS + 1 :].flatten(0, 1), colour.flatten(), ignore_index=-1)
        cells = torch.arange(CELLS, device=text.device).expand(n, -1)
        at = F.cross_entropy(self.drawn_at(early).flatten(0, 1), cells.flatten())
        return loss + 0.3 * helper + 0.2 * at, parts | {"next": float(helper.detach()), "at": float(at.detach())}

    def shaken(self, tiles: Tensor) -> Tensor:
        """Embeddings of the tiles [n, T] that the model reads as its own, in half of the pictures with noise.

        A tile that never occurred in training, as part of an orange car, is then no surprise.
        """
        codes = self.net.gen_embed(tiles)
        deviation = (SHAKEN * (2 * torch.rand(len(tiles), 1, 1, device=tiles.device) - 1)).clamp(min=0)
        return self.net.gen_aligner(codes + deviation * torch.randn_like(codes))

    def named(self, inputs: Tensor, truth: Tensor) -> Tensor:
        """The loss of naming seen cells: their inputs to the language model [n, 192] against the embeddings of names.

        A cell whose input points in the direction of its name's embedding can be found by that name at once.
        """
        embedded = self.net.language_model.model.embed_tokens(self.names).mean(1)
        logits = inputs @ embedded.T * inputs.shape[-1] ** -0.5
        things = F.cross_entropy(logits[:, :N_THINGS], (truth[:, 0] - 1) // PARTS)
        return things + F.cross_entropy(logits[:, N_THINGS:], truth[:, 1])

    def sought(self, hidden: Tensor, batch: Talks, truth: Tensor) -> Tensor:
        """The loss of finding things: slots and colours of a thing from the hidden states [n, T, 192] at its words.

        Without it the attention from a word to its cells is learned late. Only conversations about one picture count.
        """
        thing = self.thing_of[batch.ids]
        one = batch.picture.sum(1) == CELLS
        rows, places = torch.nonzero((thing >= 0) & one[:, None], as_tuple=True)
        if not len(rows):
            return hidden.new_zeros(())
        pictures = (batch.picture.sum(1) // CELLS).cumsum(0)[rows] - 1
        seen, thing = truth[pictures], thing[rows, places]
        here = (seen[..., 0] > 0) & ((seen[..., 0] - 1) // PARTS == thing[:, None])
        slots = here.view(-1, GRID // 2, 2, GRID // 2, 2).any(-1).any(2).flatten(1)
        colours = (F.one_hot(seen[..., 1].clamp(0), N_COLOURS).bool() & here[..., None]).any(1)
        wanted = torch.cat([slots, colours], dim=1).float()
        return F.binary_cross_entropy_with_logits(self.seek(hidden[rows, places]), wanted)

    def talk_loss(
        self, batch: Talks, painter: Painter, factors: Tensor, prefix: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        if not len(batch.tiles):  # an empty picture keeps every module in the graph
            batch.tiles = torch.zeros(1, CELLS, dtype=torch.long, device=factors.device)
        features = self.net.vision_model.vision_tower(noisy(painter.seen(batch.tiles)))
        truth = factors[batch.tiles]
        cell = self.cell(features)
        drawn = truth[..., 0] > 0
        helper = F.cross_entropy(cell[..., :KINDS].flatten(0, 1), truth[..., 0].flatten())
        if drawn.any():
            helper = helper + F.cross_entropy(cell[..., KINDS : KINDS + N_COLOURS][drawn], truth[..., 1][drawn])
        helper = helper + F.cross_entropy(cell[..., KINDS + N_COLOURS :].flatten(0, 1), truth[..., 2].flatten())
        said = self.net.aligner(features)
        cells = torch.arange(CELLS, device=factors.device).expand(len(said), -1)
        helper = helper + F.cross_entropy(self.seen_at(said).flatten(0, 1), cells.flatten())
        if drawn.any():
            helper = helper + self.named(said[drawn], truth[drawn])
        embeds = self.net.text_embeds(batch.ids)
        embeds = embeds.masked_scatter(batch.picture[..., None], said)
        early, hidden = self.run(embeds, self.net.text_embeds(prefix)[None])
        found = self.sought(early[:, :, 0], batch, truth)
        known = batch.about[..., 0] >= 0
        if known.any():
            looked = self.look(early[:, :, 1][known])
            found = found + F.binary_cross_entropy_with_logits(looked, batch.about[known])
        wanted = batch.ids.roll(-1, 1)[batch.answer]
        logits = self.net.language_model.lm_head(hidden[batch.answer])
        loss = F.cross_entropy(logits, wanted)
        right = float((logits.argmax(-1) == wanted).float().mean())
        seen = {"say": float(loss.detach()), "words": right}
        return loss + 0.2 * helper + found, seen | {"cell": float(helper.detach()), "seek": float(found.detach())}


def tile_loss(
    kind: Tensor,
    colour: Tensor,
    ground: Tensor,
    truth: Tensor,
    seen: Known | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The cross-entropy over all tiles, whose logits are kind + colour (drawn kinds only) + background.

    The normaliser is (e^empty + sum of drawn e^kind * sum e^colour) * sum e^background, so adding logsumexp(colour) to
    the drawn kinds makes three independent softmaxes. Which kind, given that one is drawn, counts double: it is one
    decision a picture. Only what is `seen` counts. All values have an equal part in a share `smoothing` of the target.
    """
    drawn = truth[..., 0] > 0
    kinds, colours, grounds = (seen.kind, seen.colour, seen.ground) if seen else (torch.ones_like(drawn),) * 3
    kind = torch.cat([kind[..., :1], kind[..., 1:] + colour.logsumexp(-1, keepdim=True)], dim=-1)
    loss_of = partial(F.cross_entropy, label_smoothing=smoothing)
    place = loss_of(kind[kinds], truth[..., 0][kinds])
    which = loss_of(kind[..., 1:][drawn & kinds], truth[..., 0][drawn & kinds] - 1)
    hue = loss_of(colour[drawn & colours], truth[..., 1][drawn & colours])
    behind = loss_of(ground[grounds], truth[..., 2][grounds])
    loss = place + which + hue + behind
    return loss, {"place": float(place.detach()), "which": float(which.detach()), "hue": float(hue.detach())}


def coming(truth: Tensor) -> tuple[Tensor, Tensor]:
    """For every cell, the thing and the colour of the first object that starts there or later; [n, 36] each."""
    kind = truth[..., 0]
    part = (kind - 1) % PARTS
    starts = (kind > 0) & ((part == 0) | (part == SMALL))
    thing = torch.full_like(kind, N_THINGS)
    colour = torch.full_like(kind, -1)
    for i in range(CELLS - 1, -1, -1):
        later = (thing[:, i + 1], colour[:, i + 1]) if i + 1 < CELLS else (thing[:, i], colour[:, i])
        thing[:, i] = torch.where(starts[:, i], (kind[:, i] - 1) // PARTS, later[0])
        colour[:, i] = torch.where(starts[:, i], truth[:, i, 1], later[1])
    return thing, colour


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    file, text = args.out / "joint.pt", args.out / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(text)) if args.resume and text.exists() else train_text(args.out, args.seed)
    words = Words(tokenizer)
    model = Joint(words.vocabulary, words.names()).to(device)
    painter, factors = Painter(device), torch.from_numpy(tile_factors()).to(device)
    prefix = torch.tensor(words.prefix, device=device)
    blocks = ("model.layers.", "vision_tower.blocks.")
    made = optimisers(model, lambda name, p: p.ndim == 2 and any(b in name for b in blocks), args.lr, 0.75 * args.lr)
    run = Run(args, made)
    if args.resume and file.exists():
        state = load_state(file)
        model.load_state_dict(state["model"])
        run.resume(state, model.net.parameters())
    rng = np.random.default_rng((args.seed, run.step))
    for _ in run.steps(file, lambda: {"model": model.state_dict()}):
        draw, conversations = drawings(rng, words, args.batch), talks(rng, words, args.batch // 2)
        loss, values = model.draw_loss(draw.to(device), factors)
        loss.backward()
        run.log(values)
        means: dict[str, float] = defaultdict(float)
        for part in conversations:
            loss, values = model.talk_loss(part.to(device), painter, factors, prefix)
            (loss / len(conversations)).backward()
            for name, value in values.items():
                means[name] += value / len(conversations)
        run.log(means)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=60, lr=4e-3, decay=0.7)
    parser.add_argument("--batch", type=int, default=48, help="drawings a step; half as many conversations")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
