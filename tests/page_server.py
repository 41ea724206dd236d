"""A real page for the tests: a real session with tiny checkpoints of random weights."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, Progress, Request, TextDelta, drain

GOLDEN = Path(__file__).parent / "golden" / "janus"
START = "tiny-a"  # the model that is loaded at the start
MANIFEST = """
variants:
{rows}
"""
ROW = """
  - id: {id}
    title: {title}
    family: janus
    folder: {folder}
    code_licence: MIT
    weights_licence: none, random weights
    verbs: [chat, generate, edit]
    size: [96, 96]
    context: 512
    settings:
      guidance: {{default: {guidance}, low: 1.0, high: 10.0, step: 0.5}}
      temperature: {{default: 1.0, low: 0.0, high: 2.0, step: 0.05}}
      count: {{default: 2, low: 1, high: 16, step: 1}}
      strength: {{default: 0.6, low: 0.05, high: 1.0, step: 0.05}}
      chat_temperature: {{default: 0.0, low: 0.0, high: 2.0, step: 0.05}}
      top_p: {{default: 0.95, low: 0.05, high: 1.0, step: 0.05}}
      max_new_tokens: {{default: 24, low: 8, high: 256, step: 8}}
    examples: {{en: {{chat: ["What is {title}?"], generate: ["a {title} circle"]}}}}
    status: Random weights, for tests only.
"""
FLOW_ROW = """
  - id: {id}
    title: {title}
    family: janusflow
    folder: {folder}
    code_licence: MIT
    weights_licence: none, random weights
    verbs: [chat, generate, edit]
    size: [96, 96]
    context: 512
    solvers: [euler, heun, ab2]
    settings:
      guidance: {{default: 2.0, low: 1.0, high: 10.0, step: 0.5}}
      image_guidance: {{default: 1.5, low: 1.0, high: 10.0, step: 0.1}}
      steps: {{default: 6, low: 1, high: 100, step: 1}}
      guidance_start: {{default: 0.0, low: 0.0, high: 1.0, step: 0.05}}
      guidance_end: {{default: 1.0, low: 0.0, high: 1.0, step: 0.05}}
      count: {{default: 2, low: 1, high: 16, step: 1}}
      strength: {{default: 0.6, low: 0.05, high: 1.0, step: 0.05}}
      chat_temperature: {{default: 0.0, low: 0.0, high: 2.0, step: 0.05}}
      top_p: {{default: 0.95, low: 0.05, high: 1.0, step: 0.05}}
      max_new_tokens: {{default: 24, low: 8, high: 256, step: 8}}
    examples: {{en: {{chat: ["What is {title}?"], generate: ["a {title} circle"]}}}}
    status: Random weights, for tests only.
"""
MQ_ROW = """
  - id: {id}
    title: {title}
    family: metaquery
    folder: {folder}
    code_licence: MIT
    weights_licence: none, random weights
    verbs: [chat, generate, edit]
    size: [128, 128]
    context: 2048
    settings:
      guidance: {{default: 4.5, low: 1.0, high: 10.0, step: 0.5}}
      image_guidance: {{default: 1.5, low: 1.0, high: 10.0, step: 0.5}}
      steps: {{default: 4, low: 1, high: 100, step: 1}}
      count: {{default: 1, low: 1, high: 16, step: 1}}
      chat_temperature: {{default: 0.0, low: 0.0, high: 2.0, step: 0.05}}
      top_p: {{default: 0.95, low: 0.05, high: 1.0, step: 0.05}}
      max_new_tokens: {{default: 24, low: 8, high: 256, step: 8}}
    examples: {{en: {{generate: ["a {title} circle"], edit: ["make the circle blue"]}}}}
    status: Random weights, for tests only.
"""


@dataclass(frozen=True)
class Served:
    """A running page: its address, its session, and the folders of its pictures and conversations."""

    url: str
    session: PacedSession
    outputs: Path
    data: Path
    demo: Any


class PacedSession(ModelSession):
    """A session that pauses after each token: the tiny checkpoints would finish before a test could look."""

    pace = 0.0  # seconds

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open, self._free = threading.Event(), 1
        self._open.set()

    @contextmanager
    def held(self, after: int = 1) -> Iterator[None]:
        """Inside, no job gets past its first tokens, `after` of them: a test can look as long as it likes."""
        self._free = after
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def run(self, request: Request) -> Iterator[Event]:
        yield from self._paced(super().run(request))

    def run_on(self, *args: Any) -> Iterator[Event]:
        yield from self._paced(super().run_on(*args))

    def _paced(self, job: Any) -> Iterator[Event]:
        tokens = 0
        with closing(job) as events:
            for event in events:
                if isinstance(event, TextDelta) or (isinstance(event, Progress) and event.stage == "draw"):
                    tokens += 1
                    assert tokens <= self._free or self._open.wait(120), "a test held a job and did not let it go"
                    time.sleep(self.pace)
                yield event


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what is bound to happen, on a busy machine late."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition was never met"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(folder: Path, pace: float = 0.0, more: str = "", **options: Any) -> Iterator[Served]:
    """Serve a page whose catalog also has `tiny-a`, which is loaded, `tiny-b`, `tiny-flow` and
    `tiny-mq`.

    `pace` is how many seconds the session pauses after each token, `more` further rows.
    """
    from janus_app.ui.app import launch

    rows = [
        ROW.format(id="tiny-a", title="Tiny A", folder=GOLDEN / "janus_pro_1b" / "checkpoint", guidance=5.0),
        ROW.format(id="tiny-b", title="Tiny B", folder=GOLDEN / "janus_1_3b" / "checkpoint", guidance=4.0),
        FLOW_ROW.format(id="tiny-flow", title="Tiny Flow", folder=GOLDEN / "janusflow_1_3b" / "checkpoint"),
        MQ_ROW.format(id="tiny-mq", title="Tiny MetaQuery", folder=GOLDEN.parent / "metaquery" / "ckpt_llavaov_sana"),
    ]
    manifest = folder / "models.yaml"
    manifest.write_text(MANIFEST.format(rows="".join([*rows, more])), encoding="utf-8")
    catalog = load_catalog(manifest)
    session = PacedSession(catalog, Hub())
    session.pace = pace
    drain(session.load(START, device="cpu"))
    outputs, data = folder / "outputs", folder / "data"
    port = free_port()
    demo = launch(session, catalog, port=port, outputs=outputs, data=data, prevent_thread_lock=True, **options)
    try:
        yield Served(f"http://127.0.0.1:{port}", session, outputs, data, demo)
    finally:
        demo.close()
