"""JanusFlow: how long drawing takes when computed as the reference does and as the app does, at equal steps.

    python -m benchmarks.flow_speed [--device cuda] [--steps 10] [--rounds 5] [--json] [--tiny]

The reference loop (deepseek-ai/Janus, demo/app_janusflow.py) sends the whole prompt through the language model at
every step, behind a mask over the batch; its unconditional rows hold padding of the prompt's length; the encoder runs
for both rows of a picture, and the time embedding at every step. It is written here with the app's layers, so that
nothing but the order of computation differs. The demo also draws five pictures whatever was asked for, which the rows
"demo" show. The command fails if the latents disagree. Weights are random; times do not depend on them.

Without a card: 1/8 of JanusFlow-1.3B's widths and 1/4 of its layers, with its real number of tokens. The column "work"
is arithmetic, not time: the operations of both ways at JanusFlow-1.3B's real size and 30 steps, counted on the meta
device. --tiny is for CI: a few tokens, meaningless times.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.running import floating_point_operations, in_turns, timed
from janus_app.models.janusflow.config import FlowDecoderConfig, FlowEncoderConfig, JanusFlowConfig
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.nn.diffusion import FlowSchedule, IntervalGuidance, integrate_flow
from janus_app.nn.llama import DecoderConfig, causal_attention
from janus_app.nn.siglip import VisionConfig

GUIDANCE = 2.0
DEMO_PICTURES = 5  # the demo always draws this many
FLOAT32, HALF = 1e-4, 0.05  # allowed difference of latents: absolute in float32, relative in bfloat16


@dataclass(frozen=True)
class Size:
    """hidden, layers and heads of the language model, width of the flow's encoder, side of the latents."""

    hidden: int
    layers: int
    heads: int
    width: int
    side: int
    vocabulary: int = 1024


REAL = Size(hidden=2048, layers=24, heads=16, width=768, side=48)
SMALL = Size(hidden=256, layers=6, heads=4, width=96, side=48)
TINY = Size(hidden=64, layers=2, heads=4, width=32, side=12)


@dataclass(frozen=True)
class Row:
    """Medians over the rounds. Seconds are wall-clock time; `ratio` is the median of the ratios of the rounds.

    cpu_ratio is that of processor time, which other programs disturb less; 0 on a card. work_ratio is that of the
    operations at the size of JanusFlow-1.3B.
    """

    wanted: int
    prompt: int
    against: str
    reference_seconds: float
    seconds: float
    ratio: float
    cpu_ratio: float
    work_ratio: float
    difference: float


def config_of(size: Size) -> JanusFlowConfig:
    feed_forward = size.hidden * 11 // 4
    return JanusFlowConfig(
        DecoderConfig(size.vocabulary, size.hidden, feed_forward, size.layers, size.heads, size.heads, 16384),
        VisionConfig(32, 32, 1, 2, 16, 2.0),  # not used here
        FlowEncoderConfig(4, size.width, 2, 2, 0, 2, size.hidden, 1e-6, True),
        FlowDecoderConfig(size.width, size.width, 4, 1, 2, size.hidden, 1e-6, True),
    )


def network_of(size: Size, device: torch.device, dtype: torch.dtype) -> JanusFlowNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = JanusFlowNetwork(config_of(size)).eval().requires_grad_(False)
        for name, tensor in network.named_parameters():
            if name.endswith("norm.weight"):  # scales of norms
                nn.init.ones_(tensor) if tensor.dim() == 1 else nn.init.normal_(tensor, 0.0, 0.5)
            elif tensor.dim() == 1 and "layernorm" in name:
                nn.init.ones_(tensor)
            elif name.endswith(("channelwise_norm.bias", "beg_of_und_embed", "pos_embed")):
                nn.init.normal_(tensor, 0.0, 0.02)
    return network.to(device, dtype)


class _Masked:
    """Stands in for a KV cache and gives every attention the same mask [rows, 1, T, T]."""

    length = 0

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask
        self.device = mask.device

    def mask(self, steps: int) -> Tensor:
        return self._mask

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return causal_attention(query, key, value, mask)

    def advance(self, steps: int) -> None:
        pass


@torch.inference_mode()
def reference(network: JanusFlowNetwork, ids: Sequence[int], z: Tensor, steps: int) -> Tensor:
    """The final latents as the reference computes them; `ids` without the final begin-of-image."""
    count, length, device = len(z), len(ids), network.device
    rows = torch.tensor([list(ids)] * count + [[ids[0], *[0] * (length - 1)]] * count, device=device)
    prompt = network.text_embeds(rows)
    tokens = (z.shape[2] // network.config.encoder.stride) ** 2
    total = length + 1 + tokens
    seen = torch.ones(2 * count, total, dtype=torch.bool, device=device)
    seen[count:, 1:length] = False
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    for step in range(steps):
        mask = causal & seen[:, None, None]  # the reference also makes it in every forward pass
        mask = mask | torch.eye(total, dtype=torch.bool, device=device)  # a masked query may see itself
        time_embeds = network.time_embeds(torch.full((2 * count,), step / steps, dtype=torch.float64))
        both = torch.cat([z, z]).to(network.dtype)
        latents, skip = network.encode(both, time_embeds)
        inputs = torch.cat([prompt, time_embeds[:, None], latents], dim=1)
        hidden = network(inputs, None, _Masked(mask))[:, -tokens:]
        conditional, unconditional = network.decode(hidden, skip, time_embeds).float().chunk(2)
        z = z + (GUIDANCE * conditional - (GUIDANCE - 1) * unconditional) / steps
    return z


def ours(network: JanusFlowNetwork, ids: Sequence[int], z: Tensor, steps: int) -> Tensor:
    """The final latents as the app computes them, with the prompt's prefill."""
    velocity, schedule = PromptVelocity(network, ids), FlowSchedule(steps)
    velocity.prepare(schedule.time(step) for step in range(steps))
    *_, last = integrate_flow(velocity, z, schedule, guidance=IntervalGuidance(GUIDANCE))
    return last.latent


@lru_cache
def _operations(size: Size, prompt: int) -> tuple[int, int, int]:
    """Floating-point operations for one picture: a step of the reference, a step of ours, and ours before the steps."""
    with torch.device("meta"):
        network = JanusFlowNetwork(config_of(size)).to(torch.bfloat16)
        noise = torch.zeros(1, 4, size.side, size.side)

    def count(way: Callable[..., Tensor], steps: int) -> int:
        return floating_point_operations(lambda: way(network, [1] * prompt, noise, steps))

    one, two = count(ours, 1), count(ours, 2)
    return count(reference, 1), two - one, 2 * one - two


def work(size: Size, prompt: int, drawn: int, wanted: int) -> float:
    """The reference's operations over ours for 30 steps; every step and every picture costs the same."""
    theirs, step, before = _operations(size, prompt)
    return 30 * theirs * drawn / (before + 30 * step * wanted)


def compare(
    network: JanusFlowNetwork, size: Size, prompt: int, wanted: int, demo: bool, steps: int, rounds: int
) -> Row:
    """Measure one row: both methods in every round, in alternating order."""
    device = network.device
    stream = torch.Generator("cpu").manual_seed(1)
    ids = [1, *torch.randint(2, size.vocabulary, (prompt - 1,), generator=stream).tolist()]
    drawn = DEMO_PICTURES if demo else wanted
    noise = torch.randn(max(drawn, wanted), 4, size.side, size.side, generator=stream).to(device)
    ways: dict[str, Callable[[int], Tensor]] = {
        "reference": lambda steps: reference(network, ids, noise[:drawn], steps),
        "ours": lambda steps: ours(network, ids, noise[:wanted], steps),
    }
    for way in ways.values():  # warm up
        way(1)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Tensor] = {}
    for name in in_turns(ways, rounds):
        results[name], seconds, worked = timed(lambda way=ways[name]: way(steps), device)
        wall[name].append(seconds)
        cpu[name].append(worked)
    pairs = list(zip(wall["reference"], wall["ours"], strict=True))
    worked_pairs = list(zip(cpu["reference"], cpu["ours"], strict=True))
    return Row(
        wanted,
        prompt,
        f"{DEMO_PICTURES} (the demo)" if demo else "as many",
        statistics.median(wall["reference"]),
        statistics.median(wall["ours"]),
        statistics.median(a / b for a, b in pairs),
        statistics.median(a / b for a, b in worked_pairs) if device.type == "cpu" else 0.0,
        work(TINY if size == TINY else REAL, prompt, drawn, wanted),
        _difference(results["ours"], results["reference"][:wanted], network.dtype),
    )


def _difference(mine: Tensor, other: Tensor, dtype: torch.dtype) -> float:
    """The largest difference of any number; in half precision that of the whole latent, relative to its norm."""
    apart = (mine - other).float()
    return float(apart.abs().max() if dtype == torch.float32 else apart.norm() / other.float().norm())


def check(row: Row, dtype: torch.dtype) -> None:
    limit = FLOAT32 if dtype == torch.float32 else HALF
    if not row.difference <= limit:
        raise SystemExit(f"the two methods disagree by {row.difference:g} (at most {limit:g}): {row}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a few tokens, two steps: whether it runs and agrees")
    parser.add_argument("--json", action="store_true", help="one line of JSON a row")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = TINY if args.tiny else REAL if device.type == "cuda" else SMALL
    steps, rounds = (2, 1) if args.tiny else (args.steps, args.rounds)
    network = network_of(size, device, dtype)
    rows = []
    for prompt in (40, 100):
        for wanted, demo in ((1, False), (5, False), (1, True)):
            row = compare(network, size, prompt, wanted, demo, steps, rounds)
            check(row, dtype)
            rows.append(row)
            if args.json:
                print(json.dumps(asdict(row)), flush=True)
    if not args.json:
        print(f"{device}, {dtype}, {size}, {steps} steps, {rounds} rounds, torch {torch.__version__}\n")
        print(
            "| pictures | prompt | reference draws | reference s | ours s | ratio | CPU time | work at 1.3B | apart |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row.wanted} | {row.prompt} | {row.against} | {row.reference_seconds:.2f} | {row.seconds:.2f} | "
                f"{row.ratio:.2f} | {row.cpu_ratio:.2f} | {row.work_ratio:.2f} | {row.difference:.1e} |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
