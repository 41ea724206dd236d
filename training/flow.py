"""Train the embedded JanusFlow: the joint model's language model and vision tower learn a rectified flow.

    python -m training.flow --joint runs/joint --out runs/flow --minutes 90 [--resume]

The language model, the vision tower and the auxiliary heads start with the weights of `training.joint`; the
generation encoder and decoder and the one-layer aligner are new. Latents are looked up (`flow_codes`), so no
autoencoder runs here. Captions teach the velocity picture - noise (Liu et al. 2022); a smaller share of conversations
preserves chatting.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from janus_app.models.janusflow.config import FlowDecoderConfig, FlowEncoderConfig, JanusFlowConfig
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from training.batches import CELLS, Drawings, Words, drawings, talks
from training.export import TOKENIZER_FILES
from training.flow_codes import LATENT_CHANNELS, SCALE, latent_table, latents_of, weights
from training.joint import Joint, coming, tile_loss
from training.joint import config as joint_config
from training.objects import N_THINGS
from training.optim import optimisers
from training.picture_tokenizer import noisy, random_scene
from training.pictures import Painter, painter
from training.trainer import Run, device_of, load_state, options_parser
from training.world import grid, tile_factors

WIDTH = 96  # features of the generation encoder and decoder; a token carries 64 latent numbers
BLOCKS = 2
# Before this time the noise hides a picture, and what the prompt leaves open is decided as always: learning all that it
# may be would teach to draw their mean. After it any picture of the prompt is seen, so that edits of one go on from it.
VISIBLE = 0.45


def config(vocabulary: int) -> JanusFlowConfig:
    joint = joint_config(vocabulary)
    hidden = joint.language.hidden_size
    encoder = FlowEncoderConfig(LATENT_CHANNELS, WIDTH, 2, 2, 0, BLOCKS, hidden, 1e-6, True)
    decoder = FlowDecoderConfig(WIDTH, WIDTH, LATENT_CHANNELS, 1, BLOCKS, hidden, 1e-6, True)
    return JanusFlowConfig(joint.language, joint.vision, encoder, decoder)


class Flow(nn.Module):
    """The network to export (`net`), and the joint model that shares its language model and tower and adds losses.

    The learned begin-of-understanding row is the embedding of begin-of-image, which is not used elsewhere in the flow.
    """

    def __init__(self, vocabulary: int, names: Tensor, joint: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.joint = Joint(vocabulary, names)
        if joint is not None:
            self.joint.load_state_dict(joint)
        old_aligner = self.joint.net.aligner
        self.net = JanusFlowNetwork(config(vocabulary))
        initialise(self.net)
        self.net.language_model = self.joint.net.language_model
        self.net.vision_und_enc_model.vision_tower = self.joint.net.vision_model.vision_tower
        self.joint.net.aligner = self.net.vision_und_enc_aligner  # type: ignore[assignment]
        if joint is not None:
            self._fit_aligner(old_aligner)
        self.net.beg_of_und_embed.requires_grad_(False)
        for part in (self.joint.net.gen_embed, self.joint.net.gen_aligner):
            part.requires_grad_(False)  # used only to draw tokens

    @torch.no_grad()
    def _fit_aligner(self, old: nn.Module) -> None:
        """Fit the linear aligner to the joint model's two-layer one by least squares on random pictures."""
        rng = np.random.default_rng(0)
        tokens = torch.from_numpy(np.stack([grid(random_scene(rng)) for _ in range(200)]))
        pixels = noisy(painter().seen(tokens))
        features = torch.cat([self.net.vision_und_enc_model.vision_tower(p) for p in pixels.split(20)]).flatten(0, 1)
        target = old(features)
        padded = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        solution = torch.linalg.lstsq(padded, target).solution
        self.net.vision_und_enc_aligner.weight.copy_(solution[:-1].T)
        self.net.vision_und_enc_aligner.bias.copy_(solution[-1])
        error = float((padded @ solution - target).square().mean() / target.var())
        print(f"one-layer aligner: {100 * error:.1f} % of the two-layer one's variance is lost", flush=True)

    def velocity(self, prompt: Tensor, ends: Tensor, z: Tensor, t: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Velocities [n, 16, 12, 12], and the hidden states behind them after the second layer and the last norm.

        prompt [n, L, hidden] is right-padded; ends [n] is the position of the time embedding, which the latents follow.
        """
        time_embeds = self.net.time_embeds(t)
        tokens, skip = self.net.encode(z, time_embeds)
        rows = torch.arange(len(z), device=z.device)[:, None]
        places = ends[:, None] + torch.arange(CELLS + 1, device=z.device)
        embeds = torch.cat([prompt, prompt.new_zeros(len(z), CELLS, prompt.shape[-1])], dim=1)
        embeds = embeds.index_put((rows, places), torch.cat([time_embeds[:, None], tokens], dim=1))
        early: list[Tensor] = []
        hook = self.net.language_model.model.layers[1].register_forward_hook(lambda _m, _i, out: early.append(out))
        hidden = self.net(embeds, positions)[rows, places[:, 1:]]
        hook.remove()
        return self.net.decode(hidden, skip, time_embeds), early[0][rows, places[:, 1:]], hidden

    def draw_loss(self, batch: Drawings, codes: Tensor, factors: Tensor, free: int) -> tuple[Tensor, dict[str, float]]:
        """The flow loss on captions.

        The first `free` rows are unconditional, computed as for guidance: begin-of-sentence alone, with the positions
        of the whole prompt.
        """
        ids, ends = batch.ids, batch.ends
        n = len(ids)
        t = torch.rand(n, device=ids.device).square()  # more steps near the noise, where it is decided what to draw
        scenes = torch.where(t[:, None] < VISIBLE, batch.usual, batch.tiles)
        z1 = SCALE * latents_of(scenes, codes)
        z0 = torch.randn_like(z1)
        z = z0.lerp(z1, t[:, None, None, None])
        positions = torch.arange(ids.shape[1] + CELLS, device=ids.device).expand(n, -1)
        conditional = self.velocity(self.net.text_embeds(ids[free:]), ends[free:], z[free:], t[free:], positions[free:])
        first = torch.cat([ids[:free, :1], ids[:free, :1]], dim=1)  # the second position is that of the time embedding
        moved = torch.cat([positions[:free, :1], ends[:free, None] + torch.arange(CELLS + 1, device=ids.device)], dim=1)
        unconditional = self.velocity(
            self.net.text_embeds(first), torch.ones_like(ends[:free]), z[:free], t[:free], moved
        )
        v, early, hidden = (torch.cat([a, b]) for a, b in zip(unconditional, conditional, strict=True))
        truth = factors[scenes]
        error = ((v - (z1 - z0)).square() * weights(truth, z.shape[-1])).mean((1, 2, 3))
        # Near the picture a velocity magnifies tiny errors, which would outweigh the early decisions.
        flow = (error * (1 - t)).mean()
        features = F.gelu(self.joint.net.gen_head.output_mlp_projector(hidden))
        tiles, parts = tile_loss(
            self.joint.kind(features), self.joint.colour(features), self.joint.ground(features), truth
        )
        thing, colour = coming(truth)
        guess = self.joint.next(hidden)
        helper = F.cross_entropy(guess[..., : N_THINGS + 1].flatten(0, 1), thing.flatten())
        helper = helper + F.cross_entropy(guess[..., N_THINGS + 1 :].flatten(0, 1), colour.flatten(), ignore_index=-1)
        cells = torch.arange(CELLS, device=ids.device).expand(n, -1)
        at = F.cross_entropy(self.joint.drawn_at(early).flatten(0, 1), cells.flatten())
        aimed = (error.detach() * (1 - t).square()).mean()
        seen = {"flow": float(flow.detach()), "aim": float(aimed)} | parts | {"at": float(at.detach())}
        return 6 * flow + 0.3 * tiles + 0.1 * helper + 0.1 * at, seen


@torch.no_grad()
def initialise(net: JanusFlowNetwork) -> None:
    """Random weights, and a path on which noise passes through the encoder and leaves the decoder negated."""
    for name, p in net.named_parameters():
        if p.ndim == 1 and name.endswith("weight"):
            nn.init.ones_(p)
        elif name.endswith("bias") or "channelwise_norm" in name:
            nn.init.zeros_(p)
        elif "depthwise" in name:
            nn.init.normal_(p, std=1 / 7)
        elif "channelwise_linear_2" in name or "cond_embeds_mapper" in name:
            nn.init.normal_(p, std=0.2 * p.shape[-1] ** -0.5)
        else:
            nn.init.normal_(p, std=p.flatten(1).shape[-1] ** -0.5)
    inward = nn.init.orthogonal_(torch.empty(WIDTH, 4 * LATENT_CHANNELS))
    net.vision_gen_enc_model.in_conv.weight.copy_(inward.view(WIDTH, LATENT_CHANNELS, 2, 2))
    outward = net.vision_gen_dec_model.out_convs[0].unpatch_conv.weight
    outward.mul_(0.2)
    outward[:, WIDTH:, 0, 0] -= inward.T


def by_length(batch: Drawings, parts: int) -> list[Drawings]:
    """Split the batch into `parts` of similar prompt length, each padded to its own longest prompt."""
    order = batch.ends.argsort()
    split = []
    for rows in order.chunk(parts):
        rows = rows[torch.randperm(len(rows))]  # the first ones are trained without their prompt
        ends = batch.ends[rows]
        split.append(Drawings(batch.ids[rows, : int(ends.max()) + 1], ends, batch.tiles[rows], batch.usual[rows]))
    return split


def training_state(flow: Flow) -> dict[str, Tensor]:
    """The state with the shared modules once, under the network's names."""
    shared = ("joint.net.language_model.", "joint.net.vision_model.", "joint.net.aligner.")
    return {n: p for n, p in flow.state_dict().items() if not n.startswith(shared)}


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "flow.pt"
    resumed = args.resume and file.exists()
    if not resumed and args.joint is None:
        raise SystemExit(f"there is no state in {args.out} to go on from: say with --joint what to begin with")
    if not resumed:
        for name in TOKENIZER_FILES:
            shutil.copy(args.joint / name, args.out / name)
    words = Words(Tokenizer.from_file(str(args.out / "tokenizer.json")))
    joint = None if resumed else load_state(args.joint / "joint.pt")["model"]
    model = Flow(words.vocabulary, words.names(), joint).to(device)
    artist, factors = Painter(device), torch.from_numpy(tile_factors()).to(device)
    codes, prefix = latent_table().to(device), torch.tensor(words.prefix, device=device)
    blocks = ("model.layers.", "vision_tower.blocks.", "channelwise_linear", "cond_embeds_mapper")
    made = optimisers(model, lambda name, p: p.ndim == 2 and any(b in name for b in blocks), args.lr, 0.75 * args.lr)
    run = Run(args, made, resumed_warmup=60)
    if resumed:
        state = load_state(file)
        model.load_state_dict(state["model"], strict=False)
        run.resume(state)
    rng = np.random.default_rng((args.seed, 1, run.step))
    torch.manual_seed(args.seed + run.step)
    for _ in run.steps(file, lambda: {"model": training_state(model)}):
        for part in by_length(drawings(rng, words, args.batch, dropout=0.0), args.parts):
            batch = part.to(device)
            loss, values = model.draw_loss(batch, codes, factors, free=max(1, len(batch.ids) // 12))
            (loss / args.parts).backward()
            run.log(values)
        if run.step % args.talk_every == 0:
            conversations = talks(rng, words, args.talks, parts=2)
            for talk in conversations:
                loss, values = model.joint.talk_loss(talk.to(device), artist, factors, prefix)
                (args.talk_weight * loss / len(conversations)).backward()
                run.log(values)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=60, lr=3e-3, decay=0.7)
    parser.add_argument("--joint", type=Path, help="the folder of training.joint to begin with; not with --resume")
    parser.add_argument("--batch", type=int, default=48, help="drawings a step")
    parser.add_argument("--parts", type=int, default=3, help="batches of similar length a step's drawings are split in")
    parser.add_argument("--talks", type=int, default=12, help="conversations in a step that has some")
    parser.add_argument("--talk-every", type=int, default=2, help="conversations in every Nth step")
    parser.add_argument("--talk-weight", type=float, default=1.0, help="of the conversations' loss")
    return parser.parse_args(arguments)


def main() -> None:
    train(options())


if __name__ == "__main__":
    main()
