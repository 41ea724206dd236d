"""What a replica costs beside a model in the page's own process: times of drawings, measured in turns.

    python -m benchmarks.cluster [--rounds 10] [--count 1] [--model NAME] [--device cpu]

One process has the model; beside it, `local:1` has it in a replica. Each drawing is made by both, in alternating order,
with the same seed, and the pictures must be equal. Both use as many threads. The first round is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import closing

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of both; a page and a replica share the processor's cores

from benchmarks.running import default_settings, in_turns
from janus_app.cluster.ray_serve import RayServe
from janus_app.cluster.session import ClusterSession
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.face import Session
from janus_app.runtime.session import ModelSession
from janus_app.types import GenerateRequest, drain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    catalog = load_catalog()
    variant = catalog.resolve(args.model) if args.model else catalog.default()
    name, guidance = catalog.name_of(variant), default_settings(variant).get("guidance", 5.0)
    with closing(ClusterSession(catalog, Hub(), RayServe("local:1"))) as cluster:
        sessions: dict[str, Session] = {"in the page's process": ModelSession(catalog, Hub()), "one replica": cluster}
        for session in sessions.values():
            drain(session.load(name, args.device))
        seconds: dict[str, list[float]] = {way: [] for way in sessions}
        pixels: dict[int, bytes] = {}
        for number, way in enumerate(in_turns(sessions, args.rounds + 1)):
            seed = number // 2
            request = GenerateRequest("a red circle", count=args.count, guidance=guidance, seed=seed)
            started = time.perf_counter()
            finished = sessions[way].result(request)
            seconds[way].append(time.perf_counter() - started)
            drawn = b"".join(picture.image.tobytes() for picture in finished.pictures)
            if pixels.setdefault(seed, drawn) != drawn:
                raise SystemExit(f"seed {seed}: the replica drew another picture")
    report(variant.title, args, {way: times[1:] for way, times in seconds.items()})


def report(title: str, args: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    alone, replica = seconds.values()
    ratios = [there / here for here, there in zip(alone, replica, strict=True)]
    print(f"{title} on {args.device}, {args.count} picture(s), {len(ratios)} rounds, the same bytes")
    for way, times in seconds.items():
        print(f"  {way:22} median {statistics.median(times):.3f} s, fastest {min(times):.3f} s")
    print(f"  replica / own process  median of ratios {statistics.median(ratios):.3f}, of the fastest "
          f"{min(replica) / min(alone):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
