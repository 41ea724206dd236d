"""The page under load: how soon it answers one visitor, and whether many visitors break it.

    python -m benchmarks.page [--model ID] [--visitors 20] [--seconds 180]

With one visitor: the time from a click to the first preview, from Stop to idle, and between previews of a long drawing.
Then many visitors at once: each of them draws, stops a drawing, asks, or reconnects, at random. Every picture that a
visitor gets must have the prompt and seed that this visitor asked for, no job may be left in the queue at the end, and
memory must not grow. Requests go through Gradio's client; a browser takes additional time to render.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

EASEL, GALLERY = 0, 3  # indices in the outputs of "draw"
DRAWN = 4  # pictures per click, the default of the page
LONG, LONG_ROUNDS = 16, 3  # pictures of a long drawing, and how often it is measured
LOCK = threading.Lock()  # guards the one Crowd of a process
SAMPLES = 6  # measurements of memory while the crowd is active
IDLE_SECONDS = 30.0  # after this time a stopped job counts as hung
PATIENT = {"timeout": 120}  # seconds; a busy machine is slow
SEEDS = 100_000  # per visitor, so that a seed identifies the visitor
NOUNS = ("circle", "square", "star", "heart")
COLOURS = ("red", "blue", "green", "yellow")


@dataclass
class Crowd:
    """What happened to all visitors; `wrong` has a line for each picture that reached the wrong visitor."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # seconds from asking to the finished picture or answer

    def note(self, what: str, seconds: float | None = None) -> None:
        with LOCK:
            self.done[what] += 1
            if seconds is not None:
                self.waits.append(seconds)


def submit_drawing(client: Any, model: str, prompt: str, count: int, seed: int) -> Any:
    return client.submit(prompt=prompt, count=count, new_seed=False, seed=seed, model=model, api_name="/draw")


def gallery(outputs: Sequence[Any]) -> list[Path]:
    """The pictures of the first answer with a gallery, or an empty list."""
    for answer in outputs:
        shown = answer[GALLERY]
        pictures = shown.get("value") if isinstance(shown, dict) else shown
        if pictures:
            return [Path(item["image"]) for item in pictures]
    return []


def visit(url: str, model: str, number: int, until: float, crowd: Crowd) -> None:
    """Act as one visitor, with random actions seeded by `number`, until the time `until`."""
    from gradio_client import Client

    chance = random.Random(number)
    client = Client(url, verbose=False, httpx_kwargs=PATIENT)
    act = 0
    while time.monotonic() < until:
        act += 1
        prompt = f"a {chance.choice(COLOURS)} {chance.choice(NOUNS)}"
        seed, count = SEEDS * (number + 1) + 10 * act, chance.choice((1, 2))
        begun = time.monotonic()
        kind = chance.choices(("draw", "stop", "ask", "return"), (5, 2, 3, 1))[0]
        try:
            if kind == "draw":
                job = submit_drawing(client, model, prompt, count, seed)
                job.result(timeout=600)
                check(gallery(job.outputs()), prompt, seed, count, crowd)
            elif kind == "stop":
                job = submit_drawing(client, model, prompt, 4, seed)
                time.sleep(chance.uniform(0.1, 2.0))
                job.cancel()
            elif kind == "ask":
                question = {"text": "What can you do?", "files": []}
                job = client.submit(message=question, max_new_tokens=24, model=model, api_name="/chat")
                answer = job.result(timeout=600)[0]
                if not answer or answer[-1]["role"] != "assistant":
                    raise ValueError(f"no answer: {answer}")
            else:
                client = Client(url, verbose=False, httpx_kwargs=PATIENT)
            crowd.note(kind, time.monotonic() - begun if kind in ("draw", "ask") else None)
        except CancelledError:
            crowd.note("stop")
        except Exception as error:  # any failure is a result
            with LOCK:
                crowd.failed.append(f"{kind}: {type(error).__name__}: {error}"[:200])


def check(files: Sequence[Path], prompt: str, seed: int, count: int, crowd: Crowd) -> None:
    """Check that the newest of these pictures are those just requested, and the others are of the same visitor."""
    from janus_app.outputs.metadata import read_metadata

    got = [(record.prompt, record.seed) for record in map(read_metadata, files) if record]
    asked = [(prompt, seed + i) for i in range(count)]
    strange = [one for one in got[count:] if one[1] // SEEDS != seed // SEEDS]
    if got[:count] != asked or strange:
        with LOCK:
            crowd.wrong.append(f"asked for {asked}, got {got[:count]} and {strange}")


def latencies(url: str, session: Any, model: str, rounds: int) -> list[tuple[str, list[float]]]:
    """Latencies for a single visitor: what was measured, and all times in seconds."""
    from gradio_client import Client

    client = Client(url, verbose=False)
    first, between, stopped = [], [], []
    for number in range(rounds):
        begun = time.monotonic()
        job = submit_drawing(client, model, "a red circle", DRAWN, 1000 * number)
        for answer in job:
            if "data:image/jpeg" in str(answer[EASEL]):
                first.append(time.monotonic() - begun)
                break
        asked = time.monotonic()
        job.cancel()
        while session.state.phase != "ready" or session.state.queue:
            if time.monotonic() - asked > IDLE_SECONDS:
                raise SystemExit("the session was not idle after Stop")
            time.sleep(0.002)
        stopped.append(time.monotonic() - asked)
    for number in range(LONG_ROUNDS):
        watched = submit_drawing(client, model, "a red circle", LONG, 1000 * number)
        seen = [time.monotonic() for answer in watched if "data:image/jpeg" in str(answer[EASEL])]
        between += [later - earlier for earlier, later in pairwise(seen)]
    return [
        ("click to first preview", first),
        ("Stop to idle", stopped),
        (f"between previews of {LONG} pictures", between),
    ]


def crowd_in(url: str, model: str, visitors: int, seconds: float) -> Crowd:
    """Run all visitors at once, each in a thread."""
    crowd, until = Crowd(), time.monotonic() + seconds
    threads = [threading.Thread(target=visit, args=(url, model, n, until, crowd), daemon=True) for n in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=seconds + 600)
    return crowd


def watched_crowd(url: str, model: str, visitors: int, seconds: float) -> tuple[Crowd, list[int]]:
    """Run the visitors in another process; also returns the bytes of this process during and after that."""
    import psutil

    held, process = [], psutil.Process()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as street:
        crowd = street.submit(crowd_in, url, model, visitors, seconds)
        for _ in range(SAMPLES):
            time.sleep(seconds / SAMPLES)
            held.append(process.memory_info().rss)
        return crowd.result(), [*held, process.memory_info().rss]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a variant's id or a checkpoint folder; default: the embedded one")
    parser.add_argument("--visitors", type=int, default=20, help="0 = only the measurements with one visitor")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--rounds", type=int, default=12, help="of the measurements with one visitor")
    args = parser.parse_args(arguments)

    from janus_app.hub import Hub
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import drain
    from janus_app.ui.app import launch

    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    model = args.model or catalog.default().id
    drain(session.load(model, device="cpu"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as kept:
        demo = launch(
            session,
            catalog,
            port=port,
            outputs=Path(kept) / "outputs",
            data=Path(kept) / "data",
            prevent_thread_lock=True,
        )
        try:
            print(f"\n{platform.platform()}, Python {platform.python_version()}, {model} on the CPU\n")
            print("| one visitor | median | largest | times seen |\n|---|---|---|---|")
            for name, seconds in latencies(demo.local_url, session, model, args.rounds):
                times = [f"{1e3 * of(seconds):.0f} ms" for of in (statistics.median, max) if seconds]
                print(f"| {name} | {' | '.join(times) if seconds else 'never | never'} | {len(seconds)} |")
            if not args.visitors:
                return 0
            crowd, held = watched_crowd(demo.local_url, model, args.visitors, args.seconds)
        finally:
            demo.close()
    state = session.state
    print(f"\n| {args.visitors} visitors, {args.seconds:.0f} s | |\n|---|---|")
    for name, value in (
        ("actions", ", ".join(f"{count} {what}" for what, count in sorted(crowd.done.items()))),
        ("pictures for the wrong visitor", len(crowd.wrong)),
        ("failures", len(crowd.failed)),
        ("median / longest wait for a picture or answer", waits(crowd.waits)),
        ("jobs left in the queue", state.queue),
        ("memory at equal times, and at the end", f"{', '.join(f'{size / 1e6:.0f}' for size in held)} MB"),
    ):
        print(f"| {name} | {value} |")
    for line in [*crowd.wrong, *crowd.failed][:20]:
        print(line)
    return 1 if crowd.wrong or crowd.failed or state.queue else 0


def waits(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} / {max(seconds):.1f} s" if seconds else "none"


if __name__ == "__main__":
    raise SystemExit(main())
