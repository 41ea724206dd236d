"""Runs one case of running out of memory: `python -m tests.faults_child CASE` prints what happened as JSON.

The system itself refuses memory (RLIMIT_DATA), so it fails as it does on a user's machine.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks.random_checkpoint import Size, write
from janus_app.errors import AppError, LoadOutOfMemory
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.malloc import trim
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, Event, Finished, GenerateRequest, Notice, Turn

MB = 1 << 20
# Keys and values take 2 MB for one picture (a conditional and an unconditional row), 27 MB for sixteen.
SIZE = Size(512, 1024, 4, 8, 4096, 96, 32, 512, 128, 2)
COUNT = 16
DRAW = GenerateRequest("A small red house.", count=COUNT, seed=5)
ASK = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=4)


def limit(spare: int | None) -> None:
    """Allow `spare` bytes beyond what the process has mapped for data; None lifts the limit."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if spare is None:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        return
    gc.collect()
    trim()  # else freed memory would serve what the limit should refuse
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + spare, hard))


def run(events: Any) -> None:
    for _ in events:
        pass


def finish(events: Any) -> tuple[Finished, list[str]]:
    notices: list[str] = []
    last: Event | None = None
    for last in events:
        if isinstance(last, Notice):
            notices.append(last.text)
    assert isinstance(last, Finished)
    return last, notices


def failing(events: Any) -> AppError:
    try:
        run(events)
    except AppError as error:
        error.__context__ = None  # its frames would keep what was half loaded
        return error.with_traceback(None)
    raise AssertionError("nothing failed")


def pictures(done: Finished) -> list[list[int]]:
    return [list(p.image_tokens) for p in done.pictures]


def turns(session: ModelSession, folder: str) -> dict[str, Any]:
    expected = [pictures(finish(session.run(replace(DRAW, count=1, seed=5 + i)))[0])[0] for i in (0, 7, 15)]
    limit(22 * MB)
    done, notices = finish(session.run(DRAW))
    limit(None)
    drawn = pictures(done)
    assert session.loaded is not None
    batch = session.loaded.model.batch  # type: ignore[attr-defined]
    return {
        "notices": notices,
        "pictures": [drawn[0], drawn[7], drawn[15]],
        "expected": expected,
        "batch": batch,
        "count": COUNT,
    }


def job(session: ModelSession, folder: str) -> dict[str, Any]:
    expected = list(finish(session.run(ASK))[0].token_ids)
    limit(0)
    error = failing(session.run(replace(DRAW, count=1)))
    phase = session.state.phase
    limit(None)
    answer = list(finish(session.run(ASK))[0].token_ids)
    return {"error": str(error), "phase": phase, "expected": expected, "answer": answer}


def load(session: ModelSession, folder: str) -> dict[str, Any]:
    parameters = os.path.getsize(Path(folder) / "model.safetensors") // 2
    limit(3 * parameters)  # between 2 bytes a parameter in bf16 and 4 in fp32; the mapped file does not count
    error = failing(session.load(folder, "cpu", "fp32"))
    phase = session.state.phase
    offer = error.smaller_precision if isinstance(error, LoadOutOfMemory) else None
    limit(None)
    run(session.load(folder, "cpu", offer or "bf16"))
    return {"error": str(error), "offer": offer, "phase": phase, "after": session.state.phase}


CASES: dict[str, Callable[[ModelSession, str], dict[str, Any]]] = {"turns": turns, "job": job, "load": load}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        size = replace(SIZE, hidden=1024, feed_forward=2816) if sys.argv[1] == "load" else SIZE
        folder = str(write(Path(temporary) / "made-up", size))
        session = ModelSession(load_catalog(), Hub())
        if sys.argv[1] != "load":
            run(session.load(folder, "cpu", "fp32"))
        print(json.dumps(CASES[sys.argv[1]](session, folder)))


if __name__ == "__main__":
    main()
