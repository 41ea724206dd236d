"""Loading a saved quantized copy against quantizing at load, measured in turns with random weights.

    python -m benchmarks.loading [--rounds 5] [--layers 4] [--device cpu]
    python -m benchmarks.loading --model NAME [--model FOLDER ...]

Both start from files that the system has cached: a slow disk favours the copy more, because its files are smaller.
Without `--model`, the widths are those of Janus-Pro-1B, and `--layers` of its 24 layers are made. A model of any family
that copies are made of can be measured, if all its parts are in its folder.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.random_checkpoint import Size, write
from benchmarks.running import in_turns, open_model, timed
from janus_app.formatting import size_text
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import variant_of_folder
from janus_app.registry.types import Variant
from janus_app.runtime.save_copy import CopyOptions, save_copy
from janus_app.types import QUANTIZED_PRECISIONS, result_of

SIZE = Size(2048, 5632, 4, 16, 2048, 96, 32, 16384, 64, 1)


def measure(original: Variant, place: Path, precision: str, rounds: int, device: str) -> str:
    """A line of the table: median seconds of both ways, and the bytes that they read."""
    copy = result_of(save_copy(Hub(), original, place / precision, CopyOptions(precision=precision)))
    variants = {"quantize": original, "copy": variant_of_folder(copy)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for name in in_turns(variants, rounds + 1):
        _, took, _ = timed(lambda name=name: open_model(variants[name], precision, device), torch.device(device))
        seconds[name].append(took)
        gc.collect()
    slow, fast = (statistics.median(times[1:]) for times in seconds.values())  # the first round fills the cache
    sizes = [size_text(sum(file.stat().st_size for file in weights(one))) for one in (original.folder, copy)]
    line = f"{slow:.2f} s, {sizes[0]} | {fast:.2f} s, {sizes[1]} | {slow / fast:.1f}"
    return f"| {original.title} | {precision} | {line} |"


def weights(folder: Path | None) -> list[Path]:
    """The weight files in a folder, those of its parts included."""
    assert folder is not None
    return sorted(folder.rglob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=SIZE.layers)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", action="append", help="a name or a folder; may be given several times")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made = [str(write(place / "made", replace(SIZE, layers=args.layers)))] if not args.model else []
        print("| model | precision | quantized at load | saved copy | ratio |\n|---|---|---|---|---|")
        for number, model in enumerate(args.model or made):
            original = load_catalog().resolve(model)
            for precision in QUANTIZED_PRECISIONS:
                print(measure(original, place / str(number), precision, args.rounds, args.device), flush=True)


if __name__ == "__main__":
    main()
