"""The quality of the embedded models: answers, drawings and edits, judged by a program.

    python -m benchmarks.quality [--model ID] [--precision fp32,bf16,int8] [--n 100] [--parts edits] [--json]

A long measurement can be made in pieces, of which docs/make_cards.py adds up the counts: `--n 50 --json` for the first
50 prompts, `--first 50 --n 50 --json` for the next ones, and so on.

Prompts and pictures come from fixed seeds that training never uses. "held-out" rows ask for (object, colour) pairs, or
orders of two objects, that did not occur in training. Every number is a percentage of n, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import sqrt

import numpy as np
from PIL import Image

from benchmarks.editing import measure_edits
from benchmarks.faithful import checks, names_place
from benchmarks.judge import look
from benchmarks.running import default_settings, finished, open_model
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Model, Turn
from training.captions import caption
from training.objects import COLOURS, HELD_OUT_PAIRS, THINGS
from training.pictures import SIDE, TILE, render
from training.scenes import Plan, plan, seen_scene
from training.talk import TYPES, Exchange, ask, compare
from training.world import Scene, grid

SEED = 7_000_000  # far from the seeds of training
CHECKS = ("object", "colour", "count", "place", "background", "all")


@dataclass(frozen=True)
class Row:
    """A share in percent of n, and its 95 % interval."""

    variant: str
    precision: str
    verb: str
    metric: str
    value: float
    n: int
    low: float
    high: float


def interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share in percent (Wilson 1927)."""
    z, share = 1.96, right / n
    middle, spread = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return round(100 * max(0.0, low), 1), round(100 * min(1.0, high), 1)


@dataclass(frozen=True)
class Settings:
    """`numbers` are the settings (guidance, temperature, steps, ...); `n` prompts after the `first` ones are drawn with
    `seeds` seeds each."""

    numbers: dict[str, float]
    n: int
    seeds: int = 1
    first: int = 0

    @property
    def end(self) -> int:
        return self.first + self.n

    def draw(self, prompt: str, seed: int, count: int = 1) -> GenerateRequest:
        steps = int(self.numbers.get("steps", 30))
        guidance, temperature = self.numbers["guidance"], self.numbers.get("temperature", 1.0)
        return GenerateRequest(prompt, guidance=guidance, temperature=temperature, seed=seed, steps=steps, count=count)


class Tally:
    """Counts of correct and of all results for every metric of a verb."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, verb: str, metric: str, right: bool) -> None:
        self.counts[verb, metric][0] += right
        self.counts[verb, metric][1] += 1

    def rows(self, variant: str, precision: str) -> list[Row]:
        return [
            Row(variant, precision, verb, metric, round(100 * right / n, 1), n, *interval(right, n))
            for (verb, metric), (right, n) in self.counts.items()
        ]


def drawing(model: Model, settings: Settings, tally: Tally) -> None:
    """Draw random plans, seen and held-out, and judge the pictures."""
    for held_out in (False, True):
        rng = np.random.default_rng(SEED + held_out)
        for i in range(settings.end):
            p = held_out_plan(rng) if held_out else plan(rng)
            prompt = caption(p, rng)
            if i < settings.first:
                continue
            request = settings.draw(prompt, settings.seeds * i, settings.seeds)
            for picture in finished(model.generate(request)).pictures:
                result = checks(p, look(picture.image))
                for name in CHECKS:
                    if name != "place" or names_place(p):
                        tally.add("generate", f"{name}, {'held-out' if held_out else 'seen'}", result[name])


def held_out_plan(rng: np.random.Generator) -> Plan:
    form = str(rng.choice(["one", "placed", "many", "relation", "list"]))
    return plan(rng, form, held_out=True)


def held_out_scene(rng: np.random.Generator) -> Scene:
    """A scene with a held-out (object, colour) pair."""
    scene = seen_scene(rng)
    thing, colour = sorted(HELD_OUT_PAIRS)[int(rng.integers(len(HELD_OUT_PAIRS)))]
    items = [replace(i, thing=thing, colour=colour) if i.slot == scene.items[0].slot else i for i in scene.items]
    return Scene.of(scene.background, [i for i in items if i.thing != thing or i.colour == colour])


def answers(model: Model, settings: Settings, tally: Tally) -> None:
    """Questions of every type about pictures, seen and held-out, in both languages, answered greedily."""
    for held_out in (False, True):
        rng = np.random.default_rng(SEED + 10 + held_out)
        side = "held-out" if held_out else "seen"
        for number in range(settings.end):
            measured = number >= settings.first
            for wanted in TYPES:
                scene = held_out_scene(rng) if held_out else seen_scene(rng)
                one = ask(scene, rng, number % 3 == 2, wanted)
                if measured and one.type == wanted:
                    _answer(model, tally, one, (render(scene),), side)
            if not held_out:
                pair = seen_scene(rng), seen_scene(rng)
                one = compare(*pair, rng, number % 3 == 2)
                if measured:
                    _answer(model, tally, one, tuple(render(s) for s in pair), side)


def _answer(model: Model, tally: Tally, one: Exchange, pictures: tuple[Image.Image, ...], side: str) -> None:
    request = ChatRequest((Turn("user", one.question, pictures),), temperature=0, max_new_tokens=80)
    right = one.key.lower() in finished(model.chat(request)).text.strip().lower()
    tally.add("chat", f"{one.type}, {side}", right)
    tally.add("chat", f"all questions, {side}", right)


def follow_ups(model: Model, settings: Settings, tally: Tally) -> None:
    """Draw a picture and ask about it twice; the second question refers to the picture of the first turn."""
    for i in range(settings.first, settings.end):
        rng = np.random.default_rng((SEED + 20, i))
        p = plan(rng)
        image = finished(model.generate(settings.draw(caption(p, rng), i))).pictures[0].image
        verdict = look(image)
        if not verdict.clear or not verdict.scene.items:
            continue
        zh = i % 3 == 2
        first, second = ask(verdict.scene, rng, zh, "what"), ask(verdict.scene, rng, zh, "count")
        turns: tuple[Turn, ...] = (Turn("user", first.question, (image,)),)
        said = finished(model.chat(ChatRequest(turns, temperature=0, max_new_tokens=80))).text
        turns += (Turn("assistant", said), Turn("user", second.question))
        again = finished(model.chat(ChatRequest(turns, temperature=0, max_new_tokens=80))).text
        tally.add("chat", "own drawing described", first.key.lower() in said.lower())
        tally.add("chat", "then counted in a second turn", second.key.lower() in again.lower())


def edits(model: Model, settings: Settings, tally: Tally) -> None:
    """Measure every kind of edit with every method of the model (benchmarks/editing.py)."""
    measure_edits(model, settings.numbers, SEED + 30, settings.first // 4, max(1, settings.n // 4), tally)


def tokenizer(model: Model, settings: Settings, tally: Tally) -> None:
    """Encode pictures with the picture tokenizer and decode them: an upper bound for everything else."""
    rng = np.random.default_rng(SEED + 40)
    corner = np.zeros((SIDE, SIDE), dtype=np.uint8)
    corner[-TILE:, -TILE:] = 255
    for i in range(settings.end):
        scene = seen_scene(rng)
        if i < settings.first:
            continue
        request = EditRequest(listing_prompt(scene), render(scene), Image.fromarray(corner), temperature=0, seed=i)
        picture = finished(model.edit(request)).pictures[0]
        wanted = grid(scene)[:-1]
        tally.add("tokenizer", "picture to the exact 35 tokens", tuple(wanted.tolist()) == picture.image_tokens[:-1])
        error = (np.asarray(picture.image, float) - np.asarray(render(scene), float))[mask_out(corner)]
        tally.add("tokenizer", "round trip above 25 dB", float((error**2).mean()) < 255**2 / 10**2.5)


def listing_prompt(scene: Scene) -> str:
    return " and ".join(f"{COLOURS[i.colour].name} {THINGS[i.thing].name}".strip() for i in scene.items) or "nothing"


def mask_out(mask: np.ndarray) -> np.ndarray:
    return mask == 0


PARTS = {part.__name__: part for part in (drawing, answers, follow_ups, edits, tokenizer)}
INSTEAD = ("guidance", "image_guidance", "temperature", "steps", "strength")


def measure(variant: Variant, precisions: list[str], settings: Settings, parts: Iterable[str] = PARTS) -> list[Row]:
    """The rows of a variant; `parts` are keys of PARTS."""
    rows: list[Row] = []
    for precision in precisions:
        model = open_model(variant, precision)
        tally = Tally()
        for part in (PARTS[key] for key in parts):
            if part is not tokenizer or model.capabilities.cell:
                part(model, settings, tally)
        rows += tally.rows(variant.id, precision)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janus-embedded")
    parser.add_argument("--precision", default="fp32", help="one or several, with commas")
    parser.add_argument("--n", type=int, default=100, help="prompts, and questions of each type")
    parser.add_argument("--first", type=int, default=0, help="prompts to leave out before them")
    parser.add_argument("--seeds", type=int, default=1, help="pictures drawn for every prompt")
    for name in INSTEAD:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help="instead of the variant's own setting")
    parser.add_argument("--parts", help=f"only these, with commas: {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="one object a row")
    args = parser.parse_args()
    instead = {name: getattr(args, name) for name in INSTEAD}
    instead = {name: value for name, value in instead.items() if value is not None}
    parts = args.parts.split(",") if args.parts else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    variant = load_catalog().resolve(args.model)
    settings = Settings(default_settings(variant) | instead, args.n, args.seeds, args.first)
    for row in measure(variant, args.precision.split(","), settings, parts):
        if args.json:
            print(json.dumps(asdict(row)))
        else:
            between = f"({row.low:.0f} to {row.high:.0f})"
            print(f"{row.precision:5} {row.verb:10} {row.metric:45} {row.value:6.1f} % {between:12} of {row.n}")


if __name__ == "__main__":
    main()
