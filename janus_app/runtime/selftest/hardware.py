"""What the machine is, how fast it moves and multiplies numbers, and what of that a decoder of 1B parameters gets."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import Message
from janus_app.formatting import size_text
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner
from janus_app.nn.fast.decode_step import can_capture, make_decode_step
from janus_app.nn.llama import DecoderConfig, KVCache, LlamaModel
from janus_app.runtime.devices import device_memory
from janus_app.runtime.fit import plan_load, usual_job
from janus_app.runtime.loader import load
from janus_app.runtime.quantization import plain_dtype
from janus_app.runtime.selftest.embedded import drawing, observe, shipped
from janus_app.runtime.selftest.result import DTYPE_NAMES, Bench, Item, Result, alive, rate_text
from janus_app.version import __version__

# The decoder of Janus-Pro-1B, without its table of words, which a drawing does not read.
DECODER_1B = DecoderConfig(64, 2048, 5632, 24, 16, 16)
SMALL_DECODER = DecoderConfig(64, 256, 704, 2, 4, 4)
CPU_LAYERS = 4  # of the 24: enough to leave every processor's caches
FILLED, SLOTS = 352, 640  # the middle of a picture of 576 tokens after a prompt of 64
ROWS = 2  # one picture, with guidance
SLOW = 0.25  # of the bandwidth; below it something is wrong with a card or its driver


def machine(bench: Bench) -> Iterator[Item]:
    """Which device, processor, system and libraries this report is about."""
    device, memory = device_name(bench.device), device_memory(bench.device)
    numbers: dict[str, Any] = {"app": __version__, "torch": torch.__version__, "python": platform.python_version()}
    numbers |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "system": platform.system(), "device": device}
    numbers |= {"memory_bytes": memory.total, "free_bytes": memory.free, "threads": torch.get_num_threads()}
    detail = Message(
        "selftest_machine_is",
        device=device,
        free=memory.free / 1e9,
        total=memory.total / 1e9,
        torch=torch.__version__,
        system=platform.system(),
        app=__version__,
    )
    yield Result("OK", "", detail, numbers=numbers)


def device_name(device: torch.device) -> str:
    """The name of a card with what it was built for, or of the processor."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{device}: {torch.cuda.get_device_name(device)} (capability {major}.{minor})"
    if device.type == "cpu":
        return f"cpu: {_processor()} ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
    return str(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def ceilings(bench: Bench) -> Iterator[Item]:
    """Bytes per second of copying and reading, operations per second of a matrix product."""
    on_cpu = bench.device.type == "cpu"
    wanted = 1 << 24 if bench.small else 1 << 28 if on_cpu else 1 << 30
    size = int(min(wanted, device_memory(bench.device).free / 8))
    side = 256 if bench.small else 1024 if on_cpu else 8192
    dtype = torch.float32 if on_cpu else plain_dtype("int8", bench.device)
    source = torch.ones(size // 4, device=bench.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / (yield from bench.seconds_of(lambda: target.copy_(source)))
    read = source.nbytes / (yield from bench.seconds_of(source.sum))
    left = torch.ones(side, side, device=bench.device, dtype=dtype)
    matrix = 2 * side**3 / (yield from bench.seconds_of(lambda: left @ left))
    bench.bandwidth = max(copied, read)
    numbers = {"copy_gb_per_s": copied / 1e9, "read_gb_per_s": read / 1e9, "matrix_tflops": matrix / 1e12}
    detail = Message(
        "selftest_ceilings_are",
        copy=rate_text(copied),
        read=rate_text(read),
        matrix=matrix / 1e12,
        dtype=DTYPE_NAMES[dtype],
    )
    yield Result("OK", "", detail, numbers={name: round(value, 3) for name, value in numbers.items()})


def memory(bench: Bench) -> Iterator[Item]:
    """The default embedded model's memory, predicted and measured.

    The weights are compared on every device; the peak of a job only on CUDA, whose allocator keeps it. A prediction
    that is too small fails loads that were promised to fit.
    """
    variant, precision = shipped()[0], "fp32"
    job = replace(usual_job(variant), count=drawing().count)
    plan = plan_load(variant, variant.folder, str(bench.device), job=job).choose(precision)
    before = torch.cuda.memory_allocated(bench.device) if bench.on_cuda else 0
    if bench.on_cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    loaded = yield from load(plan)
    network = next(value for value in vars(loaded.model).values() if isinstance(value, nn.Module))
    held, predicted = sum(tensor.nbytes for tensor in network.state_dict().values()), plan.need.weights
    numbers = {"weights_predicted": predicted, "weights_held": held}
    values = {"predicted": size_text(predicted), "held": size_text(held)}
    good = predicted == held
    detail = Message("selftest_weights_predicted", **values)
    if bench.on_cuda:
        yield from observe(loaded.model)
        peak = torch.cuda.max_memory_allocated(bench.device) - before
        numbers |= {"peak_predicted": plan.need.total, "reserve": plan.need.reserve, "peak_measured": peak}
        good = good and peak <= plan.need.total
        need, reserve = size_text(plan.need.total), size_text(plan.need.reserve)
        detail = Message("selftest_peak_predicted", need=need, reserve=reserve, peak=size_text(peak), **values)
    remedy = None if good else Message("selftest_memory_more")
    yield Result("OK" if good else "WARN", "", detail, remedy, numbers=numbers)


def decoder(bench: Bench) -> Iterator[Item]:
    """Time of a token in a decoder of Janus-Pro-1B's size with random weights, and its share of the bandwidth."""
    dtype = torch.float32 if bench.device.type == "cpu" else plain_dtype("int8", bench.device)
    config = SMALL_DECODER if bench.small else DECODER_1B
    if bench.device.type == "cpu" and not bench.small:
        config = replace(config, num_hidden_layers=CPU_LAYERS)
    layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    weights = layer * config.num_hidden_layers * dtype.itemsize
    cache = 2 * ROWS * SLOTS * config.hidden_size * config.num_hidden_layers * 4
    needed, free = int(1.2 * (weights + cache)), device_memory(bench.device).free
    if needed > free:
        detail = Message("selftest_decoder_too_large", needed=size_text(needed), free=size_text(free))
        yield Result("SKIP", "", detail, Message("selftest_free_memory"))
        return
    model = yield from random_decoder(config, bench.device, dtype)
    steps = 2 if bench.small else 8 if bench.device.type == "cpu" else 64
    run, cache_bytes = _steps(model, bench.device, dtype, steps)
    spent = (yield from bench.seconds_of(run)) / steps
    yield _decoder_result(bench, config, DTYPE_NAMES[dtype], spent, weights + cache_bytes)


def random_decoder(
    config: DecoderConfig, device: torch.device, dtype: torch.dtype
) -> Generator[Item, None, LlamaModel]:
    """A decoder with random weights that keep the size of what they are applied to; one step for each layer."""
    with torch.device("meta"):
        model = LlamaModel(config).eval().requires_grad_(False)
    for name, tensor in list(model.named_parameters()):
        yield alive()
        made = torch.ones(tensor.shape, device=device, dtype=dtype)
        if tensor.dim() == 2:
            limit = math.sqrt(3 / tensor.shape[1])
            made.uniform_(-limit, limit)
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(made, requires_grad=False))
    model.fuse()
    return model


@torch.inference_mode()
def _steps(model: LlamaModel, device: torch.device, dtype: torch.dtype, count: int) -> tuple[Callable[[], None], int]:
    """A function that runs `count` decode steps as a drawing does, and the bytes of the cache that a step reads."""
    cache = KVCache(model.config, ROWS, SLOTS, device=device, dtype=dtype)
    cache.length = FILLED
    step = make_decode_step(model, cache)
    hidden = torch.ones(ROWS, model.config.hidden_size, device=device, dtype=dtype)

    def advance(span: int) -> None:
        hidden.copy_(step(hidden, span))

    run: Callable[[int], None] = advance
    if can_capture(model, device, hidden):
        state: tuple[Tensor, ...] = (hidden, step.position)
        run = CudaGraphRunner(advance, device, state, cache.capacity, step.bucket)

    @torch.inference_mode()
    def steps() -> None:
        cache.length = FILLED
        step.position.fill_(FILLED)
        for _ in range(count):
            run(cache.length + 1)
            cache.length += 1

    return steps, cache.kv.nbytes * FILLED // SLOTS


def _decoder_result(bench: Bench, config: DecoderConfig, dtype: str, seconds: float, size: int) -> Result:
    """`seconds` and `size` in bytes are those of a token in all measured layers."""
    share = size / seconds / bench.bandwidth if bench.bandwidth else 0.0
    layers = config.num_hidden_layers
    whole = seconds * DECODER_1B.num_hidden_layers / layers
    numbers = {
        "ms_per_token": round(1e3 * whole, 3),
        "layers_measured": layers,
        "gb_per_s": round(size / seconds / 1e9, 3),
        "share_of_bandwidth": round(share, 3),
        "small": bench.small,
    }
    if bench.small:
        return Result("OK", "", Message("selftest_decoder_small", share=share), numbers=numbers)
    values = {"ms": 1e3 * whole, "dtype": dtype, "share": share, "picture": 576 * whole}
    all_layers = layers == DECODER_1B.num_hidden_layers
    detail = (
        Message("selftest_decoder_takes", **values)
        if all_layers
        else Message("selftest_decoder_scaled", layers=layers, of=DECODER_1B.num_hidden_layers, **values)
    )
    slow = bench.on_cuda and share < SLOW
    return Result("WARN" if slow else "OK", "", detail, Message("selftest_slow") if slow else None, numbers=numbers)
