"""Teach the embedded Janus to plan: to write what stands where, then to draw exactly that.

    python -m training.planner --out runs/planner --minutes 30
    python -m training.planner --out runs/planner --measure 100

A caption leaves open where things are. The plan, written by the model's own text head, says it object by object in
reading order, and the background last; the picture follows in the same answer, as in GoT-R1 (Duan et al. 2025). Only a
LoRA adapter of the language model is trained; it is written to OUT/adapter. `THINKING` belongs into the model's row.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.models.common.prompts import PromptStyle
from janus_app.models.common.tokenizer import IMAGE_BEGIN, PAD, Special, Tokenizer
from janus_app.models.janus import think
from janus_app.models.janus.pipeline import JanusModel
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.adapters import Adapter
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.types import Finished, GenerateRequest, Picture, Thinking, drain, result_of
from training.batches import ASSISTANT, CELLS, RNG, USER, as_typed, padded
from training.captions import caption, words, words_zh
from training.lora import Lora
from training.objects import BACKGROUNDS, N_COLOURS, N_THINGS, PLACES, PLACES_ZH
from training.scenes import plan
from training.trainer import Run, device_of, load_state, options_parser
from training.world import Item, Scene, grid, read_grid

CHECKPOINT = Path(__file__).parent.parent / "assets" / "janus_embedded"
THINKING = Thinking(ask="Plan this picture: {prompt}", temperature=0.0, tokens=96)
RANK = 8
POOL = 6  # batches of examples from which one of similar lengths is taken
_STYLE = PromptStyle(USER, ASSISTANT, roles_are_tokens=True)


def written(scene: Scene, zh: bool = False) -> str:
    """The plan of a scene: "a red cat on the left, a star in the centre, on a white background"."""
    ground = BACKGROUNDS[scene.background]
    parts = [_item(item, zh) for item in scene.items]
    return ",".join([*parts, ground.zh_phrases[0]]) if zh else ", ".join([*parts, ground.phrases[0]])


def scene_of(text: str) -> Scene | None:
    """The scene whose plan this is; None if it is no plan, or two things stand in one place."""
    parts = [part.strip() for part in text.split(",")]
    items, grounds = _phrases()
    if parts[-1] not in grounds or any(part not in items for part in parts[:-1]):
        return None
    found = [items[part] for part in parts[:-1]]
    return Scene.of(grounds[parts[-1]], found) if len({item.slot for item in found}) == len(found) else None


def _item(item: Item, zh: bool) -> str:
    named = (words_zh if zh else words)(1, item.thing, item.colour, item.small)
    return f"{PLACES_ZH[item.slot][0]}有{named}" if zh else f"{named} {PLACES[item.slot][0]}"


@lru_cache(maxsize=1)
def _phrases() -> tuple[dict[str, Item], dict[str, int]]:
    """What every phrase of a plan says: an object in its place, or the background."""
    made = [
        Item(thing, colour, slot, small)
        for thing in range(N_THINGS)
        for colour in range(N_COLOURS)
        for slot in range(len(PLACES))
        for small in (False, True)
    ]
    grounds = {g.zh_phrases[0]: i for i, g in enumerate(BACKGROUNDS)} | {
        g.phrases[0]: i for i, g in enumerate(BACKGROUNDS)
    }
    return {_item(item, zh): item for item in made for zh in (False, True)}, grounds


def asked(rng: RNG, held_out: bool = False) -> tuple[str, Scene, bool]:
    """A caption as people type it, a scene that it describes, and whether it is in Chinese."""
    one = plan(rng, held_out=held_out)
    text = caption(one, rng)
    return as_typed(text, rng), one.scene, any("\u4e00" <= c <= "\u9fff" for c in text)


def batch(rng: RNG, tokenizer: Tokenizer, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids [n, L], right-padded: questions with their plans and begin-of-image; learned [n, L]: the positions t that
    learn to predict ids[t + 1]; ends [n]: where begin-of-image is; tiles [n, 36]."""
    made = sorted((_example(rng, tokenizer) for _ in range(POOL * count)), key=lambda one: len(one[0]))
    first = int(rng.integers(len(made) - count + 1))  # of similar length: else padding were half of the work
    rows, starts, tiles = zip(*made[first : first + count], strict=True)
    ids, ends = padded(list(rows), tokenizer.id(PAD)), torch.tensor([len(row) - 1 for row in rows])
    at = torch.arange(ids.shape[1])
    learned = (at >= torch.tensor(starts)[:, None] - 1) & (at < ends[:, None])
    return ids, learned, ends, torch.from_numpy(np.stack(tiles))


def _example(rng: RNG, tokenizer: Tokenizer) -> tuple[list[int], int, np.ndarray]:
    """Ids of a question, its plan and begin-of-image; the length of the question; the tiles of the picture."""
    prompt, scene, zh = asked(rng)
    question = think.question(THINKING, prompt, _STYLE)
    pieces = [*question, f" {written(scene, zh)}", Special(IMAGE_BEGIN)]
    return tokenizer.encode(pieces), len(tokenizer.encode(question)), grid(scene)


def losses(model: Lora, ids: Tensor, learned: Tensor, ends: Tensor, tiles: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss of the plans' words and of the pictures behind them, and numbers for the log."""
    network = model.network
    text = network.text_embeds(ids)
    embeds = torch.cat([text, text.new_zeros(len(ids), CELLS - 1, text.shape[-1])], dim=1)
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    places = ends[:, None] + torch.arange(CELLS, device=ids.device)
    hidden = network(embeds.index_put((rows, places[:, 1:]), network.token_embeds(tiles[:, :-1])))
    wanted = ids.roll(-1, 1)[learned]
    logits = network.language_model.lm_head(hidden[:, : ids.shape[1]][learned])
    pictures = network.gen_head(hidden[rows, places])
    say, draw = F.cross_entropy(logits, wanted), F.cross_entropy(pictures.flatten(0, 1), tiles.flatten())
    values = {
        "say": float(say.detach()),
        "words": float((logits.argmax(-1) == wanted).float().mean()),
        "draw": float(draw.detach()),
        "whole": float((pictures.argmax(-1) == tiles).all(1).float().mean()),
    }
    return say + draw, values


def train(args: argparse.Namespace) -> None:
    device = device_of(args)
    model = Lora(CHECKPOINT, RANK).to(device)
    tokenizer, file = Tokenizer(CHECKPOINT / "tokenizer.json"), args.out / "planner.pt"
    halves = [*model.a, *model.b]
    optimiser = torch.optim.AdamW([{"params": halves, "initial_lr": args.lr}], lr=args.lr, weight_decay=0.0)
    run = Run(args, [optimiser])

    def state() -> dict[str, dict[str, Tensor]]:
        return {"model": {name: half for name, half in model.state_dict().items() if name[:2] in ("a.", "b.")}}

    if args.adapter:
        model.begin_with(args.adapter)
    if args.resume and file.exists():
        saved = load_state(file)
        model.load_state_dict(saved["model"], strict=False)
        run.resume(saved)
    rng = np.random.default_rng((args.seed, run.step))
    for _ in run.steps(file, state):
        loss, values = losses(model, *(tensor.to(device) for tensor in batch(rng, tokenizer, args.batch)))
        loss.backward()
        run.log(values)
    model.save(args.out / "adapter", "janus-embedded")


def planner(adapter: Path) -> JanusModel:
    """The embedded Janus with the adapter merged, as the app loads it, in float32."""
    ready = plan_load(load_catalog()["janus-embedded"], CHECKPOINT, "cpu").choose("fp32")
    network = result_of(load(replace(ready, adapters=(Adapter("planner", adapter),)))).model.network
    return JanusModel(network, CHECKPOINT, context=512, thinking=THINKING)


def drawn(model: JanusModel, prompt: str, seed: int) -> Picture:
    """A planned picture with the model's usual settings."""
    last = drain(model.generate(GenerateRequest(prompt, guidance=1.0, temperature=0.4, seed=seed, think=True)))
    assert isinstance(last, Finished)
    return last.pictures[0]


def measure(adapter: Path, count: int, held_out: bool) -> str:
    """How many of `count` new captions are planned as they say, and drawn as planned."""
    model, rng = planner(adapter), np.random.default_rng(1000)
    found: Counter[str] = Counter()
    for seed in range(count):
        prompt, scene, _ = asked(rng, held_out)
        picture = drawn(model, prompt, seed)
        planned = scene_of(picture.plan)
        if planned is None:
            print("no plan:", prompt, "->", picture.plan)
            continue
        right = contents(planned) == contents(scene)
        found += Counter(plans=1, right=right, drawn=read_grid(np.array(picture.image_tokens)) == planned)
        if not right:
            print("other:", prompt, "->", picture.plan)
    shares = {name: f"{found[name] / count:.0%}" for name in ("plans", "right", "drawn")}
    return "a plan {plans}, of what the caption names {right}, drawn as planned {drawn}".format(**shares)


def contents(scene: Scene) -> tuple[int, Counter[tuple[int, int, bool]]]:
    """Background and objects of a scene, wherever they stand."""
    return scene.background, Counter((item.thing, item.colour, item.small) for item in scene.items)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options, from `arguments` or the command line."""
    parser = options_parser(__doc__, minutes=30, lr=4e-3, decay=0.7)
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--adapter", type=Path, help="begin with it, as after more training of the embedded Janus")
    parser.add_argument(
        "--measure", type=int, default=0, help="train nothing: draw so many captions, seen and held-out"
    )
    return parser.parse_args(arguments)


def main() -> None:
    args = options()
    if not args.measure:
        return train(args)
    for held_out in (False, True):
        print("held-out:" if held_out else "seen:", measure(args.out / "adapter", args.measure, held_out))


if __name__ == "__main__":
    main()
