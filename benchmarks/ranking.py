"""Does the model's ranking choose better pictures? N are drawn for each prompt, ranked by the model, and judged.

    python -m benchmarks.ranking [--model janus-embedded] [--n 100] [--best-of 4] [--temperature 1.0] [--json]

Prompts are those of benchmarks/quality.py. "one" is the share of correct pictures among all drawn, which is what
drawing a single picture gives; "best of N" is the share of prompts whose highest-ranked picture is correct; "any of
N" is the share of prompts with a correct picture among the N, an upper bound for any ranking. A picture is correct if
everything that the prompt names is. `between` is the standard error of (best of N - one) over prompts, in percentage
points; a gain below twice that is not significant.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.faithful import checks
from benchmarks.judge import look
from benchmarks.quality import SEED, Settings, held_out_plan
from benchmarks.running import default_settings, finished, open_model
from janus_app.registry.catalog import load_catalog
from janus_app.types import Model, Ranker, RankRequest
from training.captions import caption
from training.scenes import plan


@dataclass(frozen=True)
class Row:
    side: str
    temperature: float
    n: int
    best_of: int
    one: float
    ranked: float
    possible: float
    between: float
    order: float  # share of (correct, wrong) pairs of a prompt that the scores order, ties count half; 0.5 = chance


def measure(model: Model, settings: Settings, held_out: bool) -> Row:
    """Measure one row, for prompts with pairs of object and colour that occurred in training or not."""
    assert isinstance(model, Ranker)
    rng = np.random.default_rng(SEED + 60 + held_out)
    gains, one, best, any_right, pairs = list[float](), list[float](), list[bool](), list[bool](), list[float]()
    for i in range(settings.n):
        wanted = held_out_plan(rng) if held_out else plan(rng)
        prompt = caption(wanted, rng)
        request = settings.draw(prompt, settings.seeds * i, settings.seeds)
        pictures = [picture.image for picture in finished(model.generate(request)).pictures]
        right = np.array([checks(wanted, look(picture))["all"] for picture in pictures])
        scores = np.array(finished(model.rank(RankRequest(prompt, tuple(pictures)))).scores)
        first = bool(right[int(scores.argmax())])
        one.append(float(right.mean()))
        best.append(first)
        any_right.append(bool(right.any()))
        gains.append(first - float(right.mean()))
        apart = scores[right][:, None] - scores[~right][None]
        pairs += (0.5 + 0.5 * np.sign(apart)).reshape(-1).tolist()
    error = round(100 * float(np.std(gains, ddof=1)) / settings.n**0.5, 1)
    order = round(float(np.mean(pairs)), 2) if pairs else float("nan")
    side = "held-out" if held_out else "seen"
    single, ranked, possible = (round(100 * float(np.mean(np.array(v))), 1) for v in (one, best, any_right))
    temperature = settings.numbers["temperature"]
    return Row(side, temperature, settings.n, settings.seeds, single, ranked, possible, error, order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janus-embedded")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--n", type=int, default=100, help="prompts of each side")
    parser.add_argument("--best-of", type=int, default=4, help="pictures drawn for every prompt")
    parser.add_argument("--temperature", type=float, help="instead of the variant's own")
    parser.add_argument("--side", choices=("seen", "held-out"), help="one side alone")
    parser.add_argument("--json", action="store_true", help="one object a row")
    args = parser.parse_args()
    variant = load_catalog().resolve(args.model)
    model = open_model(variant, args.precision)
    numbers = default_settings(variant)
    if args.temperature is not None:
        numbers["temperature"] = args.temperature
    for held_out in (False, True):
        if args.side is not None and held_out != (args.side == "held-out"):
            continue
        row = measure(model, Settings(numbers, args.n, args.best_of), held_out)
        if args.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(
                f"{row.side:9} temperature {row.temperature:g}  {row.n} prompts  one {row.one:.1f} %  "
                f"best of {row.best_of} {row.ranked:.1f} %  any {row.possible:.1f} %  between {row.between:.1f}  "
                f"order {row.order:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
