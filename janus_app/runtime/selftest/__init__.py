"""The self-test: does this device compute right, how fast is it, and is memory predicted right?

    for item in examine("cuda:0", minutes=3):     # Result: a line of the report; Progress: which check is running
        ...

Each check stands alone: what one raises becomes its result, and the next one runs. Closing the generator stops the
running check within a step. What a check needs more time for than is left is left out, with a sentence.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from janus_app.errors import Message
from janus_app.runtime import malloc
from janus_app.runtime.devices import resolve_device, under_device
from janus_app.runtime.selftest import embedded, hardware, products
from janus_app.runtime.selftest.result import Bench, Item, Result, isolated
from janus_app.types import Progress

__all__ = ["MINUTES", "Result", "examine", "failed", "verdict"]
MINUTES = 3.0


@dataclass(frozen=True)
class Check:
    """`seconds` is what it takes at most on a usual machine; it is left out where less is left."""

    name: str
    what: Message
    seconds: float
    run: Callable[[Bench], Iterator[Item]]


CHECKS = (
    Check("machine", Message("selftest_machine"), 0, hardware.machine),
    Check("ceilings", Message("selftest_ceilings"), 2, hardware.ceilings),
    Check("kernels", Message("selftest_kernels"), 10, products.kernels),
    Check("products", Message("selftest_products"), 2, products.quantized),
    Check("embedded", Message("selftest_embedded"), 5, embedded.models),
    Check("graphs", Message("selftest_graphs"), 10, embedded.graphs),
    Check("precisions", Message("selftest_precisions"), 5, embedded.precisions),
    Check("memory", Message("selftest_memory"), 3, hardware.memory),
    Check("decoder", Message("selftest_decoder"), 5, hardware.decoder),
)


def examine(device: str = "auto", minutes: float = MINUTES) -> Generator[Progress | Result, None, None]:
    """Run all checks on a device of `--device`. Below a minute they use small sizes, whose speeds mean little.

    Raises AppError for an absent device, before the first check.
    """
    bench = Bench(resolve_device(device), 60 * minutes)
    yield from under_device(bench.device, _examine(bench))


def failed(results: list[Result]) -> bool:
    """Whether something computes wrongly or not at all; warnings and what was left out are no failures."""
    return any(result.level == "FAIL" for result in results)


def verdict(results: list[Result]) -> Message:
    """All results in a sentence."""
    count = {level: sum(result.level == level for result in results) for level in ("OK", "WARN", "FAIL", "SKIP")}
    passed = {"passed": count["OK"], "skipped": count["SKIP"]}
    if count["FAIL"]:
        return Message("selftest_bad", failed=count["FAIL"], **passed)
    if count["WARN"]:
        return Message("selftest_warnings", warnings=count["WARN"], **passed)
    return Message("selftest_good", **passed)


def _examine(bench: Bench) -> Generator[Progress | Result, None, None]:
    for number, check in enumerate(CHECKS):
        yield Progress("selftest", number, len(CHECKS), detail=check.what)
        if check.seconds and bench.left() < check.seconds:
            detail = Message("selftest_no_time", left=max(0.0, bench.left()), needed=check.seconds)
            yield Result("SKIP", check.what, detail, Message("selftest_more_minutes"), check.name)
            continue
        with closing(isolated(check.run(bench))) as items:
            for item in items:
                if isinstance(item, Result):
                    yield replace(item, what=item.what or check.what, check=check.name)
                else:
                    yield Progress("selftest", number, len(CHECKS), detail=check.what)
        _free_memory(bench)
    yield Progress("selftest", len(CHECKS), len(CHECKS))


def _free_memory(bench: Bench) -> None:
    gc.collect()
    if bench.on_cuda:
        torch.cuda.empty_cache()
    malloc.trim()
