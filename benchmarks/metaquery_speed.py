"""MetaQuery: how long drawing takes when computed as the reference does and as the app does, at equal steps.

    python -m benchmarks.metaquery_speed [--device cuda] [--steps 10] [--rounds 3] [--json] [--tiny]

The reference (facebookresearch/metaquery, sample_images) repeats a prompt's rows for every picture before the language
model and the connector, and its diffuser projects the captions and their keys and values anew at every step. It is
written here with diffusers' SANA, so that nothing but the order of computation differs. The command fails if the
latents disagree. Weights are random; times do not depend on them.

The columns "work" are arithmetic, not time: operations at the real size (SANA 1.6B at 512 pixels, 256 queries, the
24-layer connector of MetaQuery-L, 30 steps), counted on the meta device. The language model is left out: it is read as
often as the connector, once for every picture's rows there and once for the prompt's here. Times are of a small SANA
with the real number of tokens where there is no card. --tiny is for CI: meaningless times.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.running import floating_point_operations, in_turns, timed
from janus_app.models.common.denoiser import Denoiser
from janus_app.models.metaquery.connector import connector
from janus_app.nn.diffusion import TextImageGuidance, denoise

ROWS, QUERIES, SIDE = 2, 256, 16
REAL: dict[str, Any] = {}  # SanaTransformer2DModel's defaults are SANA 1.6B's numbers
SMALL = {"num_attention_heads": 10, "num_cross_attention_heads": 5, "cross_attention_head_dim": 64, "num_layers": 4}
SMALL |= {"cross_attention_dim": 320, "caption_channels": 256}
TINY = SMALL | {"num_layers": 1}


def sana(size: dict[str, Any]) -> Any:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(**size, sample_size=SIDE).eval().requires_grad_(False)


def solver() -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


@torch.inference_mode()
def reference(network: nn.Module, reader: nn.Module, states: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Rows first repeated, then read; captions handed to every step."""
    captions = reader(states.repeat_interleave(len(noise), 0))
    guidance, schedule, latents = TextImageGuidance(4.5), solver(), noise
    schedule.set_timesteps(steps)
    for moment in schedule.timesteps:
        batch = latents.to(captions.dtype).repeat(ROWS, 1, 1, 1)
        times = moment.to(batch.device).expand(len(batch))
        raw = network(batch, encoder_hidden_states=captions, timestep=times, return_dict=False)[0].float()
        latents = schedule.step(guidance.mix(raw.unflatten(0, (ROWS, -1))), moment, latents, return_dict=False)[0]
    return latents


@torch.inference_mode()
def ours(denoiser: Denoiser, reader: nn.Module, states: Tensor, noise: Tensor, steps: int) -> Tensor:
    denoiser.set_conditioning(reader(states))
    for step in denoise(denoiser, solver(), noise, TextImageGuidance(4.5), steps):
        latents = step.latents
    return latents


def work(count: int, steps: int) -> dict[str, float]:
    """Operations in 10^12 at the real size: the reading part and the diffuser's steps, both ways."""
    with torch.device("meta"):
        plain, reader = sana(REAL), connector(2048, 24, 2304)
        states, batch = torch.empty(ROWS, QUERIES, 2048), torch.empty(ROWS * count, 32, SIDE, SIDE)
        captions, times = torch.empty(ROWS * count, QUERIES, 2304), torch.empty(ROWS * count)
    held = Denoiser(copy.deepcopy(plain))

    def counted(act: Callable[[], Any]) -> float:
        with torch.inference_mode():
            return floating_point_operations(act) / 1e12

    step = counted(lambda: plain(batch, encoder_hidden_states=captions, timestep=times))
    once = counted(lambda: held.set_conditioning(captions[:ROWS]))
    lean = counted(lambda: held.network(batch, encoder_hidden_states=captions[:, :1], timestep=times))
    row = counted(lambda: reader(states))
    return {
        "reading, theirs": count * row,
        "reading, ours": row,
        "steps, theirs": steps * step,
        "steps, ours": once + steps * lean,
    }


def measure(count: int, size: dict[str, Any], device: torch.device, steps: int, rounds: int) -> dict[str, float]:
    """Median seconds of both ways in alternating order, and how far their latents are apart."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    plain = sana(size).to(device, dtype)
    width = plain.config.caption_channels
    reader = connector(256, 2, width).eval().requires_grad_(False).to(device, dtype)
    held = Denoiser(copy.deepcopy(plain))
    states = torch.randn(ROWS, QUERIES, 256).to(device, dtype)
    noise = torch.randn(count, plain.config.in_channels, SIDE, SIDE).to(device)
    ways = {
        "theirs": lambda: reference(plain, reader, states, noise, steps),
        "ours": lambda: ours(held, reader, states, noise, steps),
    }
    results = [way() for way in ways.values()]  # warms up too
    apart = float((results[0] - results[1]).abs().max() / results[0].abs().max())
    if apart > (1e-4 if dtype == torch.float32 else 0.05):
        raise SystemExit(f"the two ways differ by {apart:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name in in_turns(ways, rounds):
        seconds[name].append(timed(ways[name], device)[1])
    return {name: statistics.median(values) for name, values in seconds.items()} | {"apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    size = TINY if args.tiny else REAL if device.type == "cuda" else SMALL
    found = {}
    for count in (1, 4):
        times = measure(count, size, device, 1 if args.tiny else args.steps, 1 if args.tiny else args.rounds)
        found[count] = {"seconds": times, "ratio": times["theirs"] / times["ours"], "work": work(count, 30)}
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print("| pictures | theirs s | ours s | ratio | reading, theirs / ours TFLOP | 30 steps, theirs / ours TFLOP |")
    print("|---|---|---|---|---|---|")
    for count, row in found.items():
        seconds, ops = row["seconds"], row["work"]
        print(
            f"| {count} | {seconds['theirs']:.2f} | {seconds['ours']:.2f} | {row['ratio']:.2f} "
            f"| {ops['reading, theirs']:.2f} / {ops['reading, ours']:.2f} "
            f"| {ops['steps, theirs']:.1f} / {ops['steps, ours']:.1f} |"
        )


if __name__ == "__main__":
    main()
