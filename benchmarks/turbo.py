"""Turbo against plain drawing: passes and seconds per picture, and whether pictures are the same and as good.

    python -m benchmarks.turbo [--n 40] [--count 1,4] [--precision fp32,bf16,int8] [--device cpu] [--trunk] [--tiny]

Prompts are the quality command's (fixed seeds the trainer never used), drawn on the embedded model at its own
settings, both methods in one process in turns. A pass is a forward pass of the language model; plain drawing has one
for the prompt and one for each cell but the last. "All right" is the share of pictures that pass every check of the
judge. Pictures may differ where a wide pass rounds a near-tie the other way, so they are counted.

--trunk compares the cost of a wide pass and of a narrow one without a trained model of that size: random weights, the
widths of the 1B model, four of its layers. How many tokens a pass yields can only be measured with a trained model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import speed_ways as ways
from benchmarks.faithful import checks
from benchmarks.judge import look
from benchmarks.quality import SEED
from benchmarks.running import finished, open_model
from benchmarks.speed import SIZES
from janus_app.models.janus.draw import SamplingRule, draw_tokens
from janus_app.models.janus.jacobi import jacobi_decode, window_size
from janus_app.registry.catalog import load_catalog
from janus_app.types import GenerateRequest
from training.captions import caption
from training.scenes import plan

SIDES = ("plain", "turbo")


class Tally:
    """Results of one method: seconds and passes of every request, tokens, and how many pictures were all right."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.passes: list[int] = []
        self.tokens: list[tuple[int, ...]] = []
        self.right = 0


def drawn(model: Any, n: int, count: int) -> dict[str, Tally]:
    """Draw n prompts with both methods, `count` pictures each."""
    tallies, rng, calls = {side: Tally() for side in SIDES}, np.random.default_rng(SEED), 0

    def counted(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model.network.gen_head.register_forward_hook(counted)
    try:
        for i in range(n):
            wanted = plan(rng)
            prompt = caption(wanted, rng)
            for side in SIDES if i % 2 == 0 else SIDES[::-1]:
                request, tally = (
                    GenerateRequest(prompt, count=count, seed=1000 * i, turbo=side == "turbo"),
                    tallies[side],
                )
                calls, started = 0, time.perf_counter()
                pictures = finished(model.generate(request)).pictures
                tally.seconds.append(time.perf_counter() - started)
                tally.passes.append(calls)
                tally.tokens += [picture.image_tokens for picture in pictures]
                tally.right += sum(checks(wanted, look(picture.image))["all"] for picture in pictures)
    finally:
        hook.remove()
    return tallies


def line(case: str, count: int, tallies: dict[str, Tally]) -> str:
    plain, turbo = (tallies[side] for side in SIDES)
    same = sum(a == b for a, b in zip(plain.tokens, turbo.tokens, strict=True))
    seconds = [statistics.median(tally.seconds) / count for tally in (plain, turbo)]
    ratio = statistics.median(a / b for a, b in zip(plain.seconds, turbo.seconds, strict=True))
    passes = [statistics.mean(tally.passes) for tally in (plain, turbo)]
    all_ = len(plain.tokens)
    return (
        f"| {case} | {count} | {passes[0]:.0f} | {passes[1]:.1f} ({min(turbo.passes)}-{max(turbo.passes)}) "
        f"| {seconds[0]:.3f} | {seconds[1]:.3f} | {ratio:.2f} | {same} of {all_} "
        f"| {100 * plain.right / all_:.0f} % / {100 * turbo.right / all_:.0f} % |"
    )


def pass_cost(precision: str, count: int, device: torch.device, passes: int) -> tuple[float, float]:
    """Median seconds of a step for one cell and of a pass over a window, at the widths of the 1B model."""
    plain = ways.DTYPES.get(precision, torch.float32)
    network = ways.random_network(SIZES["trunk"], device, plain)
    if precision == "int8":
        ways.eight_bit(network, device)
    network.arrange()
    job = ways.Job(count, passes + 2, torch.randint(5, 200, (64,), generator=torch.Generator().manual_seed(1)))
    embeds = list(network.text_embeds(job.rows().to(device)))

    def rule() -> SamplingRule:
        noise = job.noise(network.config.vq.codebook_size)
        return SamplingRule(
            ways.GUIDANCE, ways.TEMPERATURE, lambda cells: torch.stack([next(noise) for _ in range(cells)])
        )

    def spent(steps: Iterator[Any], skipped: int) -> float:
        """The median wall time of a step, without the first ones, which include the prompt."""
        ends = []
        for _, _ in zip(range(passes + skipped), steps, strict=False):
            ends.append(time.perf_counter())
        return statistics.median(b - a for a, b in zip(ends[skipped:], ends[skipped + 1 :], strict=False))

    known = torch.full((576,), -1)
    with torch.inference_mode():
        narrow = spent(draw_tokens(network, embeds, count, rule(), known), 2)
        wide = spent(jacobi_decode(network, embeds, count, rule(), known), 1)
    return narrow, wide


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--count", default="1,4")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trunk", action="store_true", help="what a wide pass costs at the 1B model's widths")
    parser.add_argument("--tiny", action="store_true", help="few prompts, and an error where pictures differ: for CI")
    args = parser.parse_args(arguments)
    counts, precisions = [int(c) for c in args.count.split(",")], args.precision.split(",")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    if args.trunk:
        print("| precision | pictures | window | plain ms | a pass ms | a pass in plain steps |\n" + "|---" * 6 + "|")
        device = torch.device(args.device)
        for precision in precisions:
            for count in counts:
                narrow, wide = pass_cost(precision, count, device, 12)
                window = window_size(2 * count, device)
                print(
                    f"| {precision} | {count} | {window} | {1e3 * narrow:.1f} | {1e3 * wide:.1f} "
                    f"| {wide / narrow:.2f} |",
                    flush=True,
                )
        return 0
    print(
        "| precision | pictures | passes, plain | passes, turbo | plain s/picture | turbo s/picture | ratio "
        "| same tokens | all right, plain / turbo |\n" + "|---" * 9 + "|"
    )
    different = 0
    for precision in precisions:
        model = open_model(load_catalog().resolve("janus-embedded"), precision, args.device)
        for count in counts:
            tallies = drawn(model, 3 if args.tiny else args.n, count)
            different += tallies["plain"].tokens != tallies["turbo"].tokens
            print(line(precision, count, tallies), flush=True)
    if args.tiny and different:
        raise SystemExit("turbo and plain drawing give different pictures")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
