"""Predicted against measured memory: load, draw and answer in a fresh process, and compare with the prediction.

    python -m benchmarks.memory [--model FOLDER_OR_ID ...] [--precision fp32,bf16,int8,nf4] [--count 1,4] [--json]

Without --model: a checkpoint of a few hundred megabytes with random weights, and the embedded one. On a CPU the peak of
the resident set is measured, minus what the interpreter and the libraries take after a warm-up with the embedded model;
on a card, the allocator's peak. It is compared with the prediction of `runtime.fit` without the reserve.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.random_checkpoint import Size, write
from benchmarks.running import finished, open_model
from janus_app.models.common.memory import Job
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.devices import resolve_device
from janus_app.runtime.fit import running_peak, usual_job, weight_bytes
from janus_app.runtime.malloc import trim
from janus_app.types import ChatRequest, GenerateRequest, Turn

PROMPT = "a red house and a blue car under a yellow sun " * 5
ANSWER = 32  # tokens; the cache is allocated for the longest answer


@dataclass(frozen=True)
class Row:
    """Bytes. `weights` and `peak` are predicted; the peaks of `loading`, `drawing` and `answering`, and `held` after
    loading, are measured."""

    model: str
    precision: str
    count: int
    device: str
    weights: int
    peak: int
    held: int
    loading: int
    drawing: int
    answering: int

    @property
    def measured(self) -> int:
        return max(self.loading, self.drawing, self.answering)

    @property
    def ratio(self) -> float:
        return self.peak / self.measured


class Gauge:
    """Bytes in use and their peak since the last reset."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = 0

    def now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) - self.baseline
        return _status("VmRSS") - self.baseline

    def peak_of(self, work: Callable[[], object]) -> int:
        """The peak while `work` runs."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            return torch.cuda.max_memory_allocated(self.device) - self.baseline
        Path("/proc/self/clear_refs").write_text("5")
        work()
        return _status("VmHWM") - self.baseline


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(variant: Variant, precision: str, count: int, device: str) -> Row:
    """Measure one row in this process, which should be a new one."""
    where = resolve_device(device)
    embedded = load_catalog().default()
    _work(embedded, precision, device, 1)  # libraries load parts at first use
    gauge = Gauge(where)
    trim()
    gauge.baseline = gauge.now()
    if variant.id == embedded.id:
        variant = replace(variant, id="")
    model = None

    def load() -> None:
        nonlocal model
        model = open_model(variant, precision, str(where))

    loading = gauge.peak_of(load)
    assert model is not None
    gc.collect()
    held = gauge.now()
    drawing = gauge.peak_of(lambda: finished(model.generate(_draw(count))))
    answering = gauge.peak_of(lambda: finished(model.chat(_ask(variant))))
    words = len(model.tokenizer.encode(PROMPT))  # type: ignore[attr-defined]
    job = replace(_job(variant, count), prompt=words, words=24)
    weights = weight_bytes(variant, precision, device=where.type)
    peak = weights + running_peak(variant, precision, where, job).total
    return Row(variant.title, precision, count, str(where), weights, peak, held, loading, drawing, answering)


def _job(variant: Variant, count: int) -> Job:
    return replace(usual_job(variant), count=count, guided=True, answer=ANSWER)


def _draw(count: int) -> GenerateRequest:
    return GenerateRequest(PROMPT, count=count, guidance=5.0)


def _ask(variant: Variant) -> ChatRequest:
    return ChatRequest((Turn("user", "What is it?", (Image.new("RGB", variant.size),)),), max_new_tokens=ANSWER)


def _work(variant: Variant, precision: str, device: str, count: int) -> None:
    model = open_model(variant, precision, device)
    finished(model.generate(_draw(count)))
    finished(model.chat(_ask(variant)))


def rows(names: list[str], precisions: list[str], counts: list[int], device: str) -> list[Row]:
    """Measure every combination, each in a new process."""
    found = []
    for name in names:
        for precision in precisions:
            for count in counts:
                command = [sys.executable, "-m", "benchmarks.memory", "--one", name, "--device", device]
                command += ["--precision", precision, "--count", str(count)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found.append(Row(**json.loads(done.stdout.splitlines()[-1])))
                print(line(found[-1]), file=sys.stderr, flush=True)
    return found


HEAD = (
    "| model | precision | pictures | weights predicted / held | peak of loading | of drawing | of answering | "
    "predicted peak | predicted / measured |\n|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    def mb(size: int) -> str:
        return f"{size / 1e6:.0f}"

    cells = [row.model, row.precision, str(row.count), f"{mb(row.weights)} / {mb(row.held)}", mb(row.loading)]
    cells += [mb(row.drawing), mb(row.answering), mb(row.peak), f"{row.ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="*", help="ids or folders; default: random and embedded weights")
    parser.add_argument("--precision", default="fp32,bf16,int8,nf4")
    parser.add_argument("--count", default="1,4", help="pictures drawn together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    precisions, counts = args.precision.split(","), [int(n) for n in args.count.split(",")]
    if args.one:
        row = measure(load_catalog().resolve(args.one), precisions[0], counts[0], args.device)
        print(json.dumps(asdict(row)))
        return
    with tempfile.TemporaryDirectory() as folder:
        names = args.model or [str(write(Path(folder) / "random", Size())), "janus-embedded"]
        found = rows(names, precisions, counts, args.device)
    if args.json:
        for row in found:
            print(json.dumps(asdict(row) | {"measured": row.measured, "ratio": round(row.ratio, 3)}))
    else:
        print("\n".join([HEAD, *map(line, found)]))


if __name__ == "__main__":
    main()
