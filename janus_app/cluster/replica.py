"""The process that Ray Serve starts for each replica: a session of its own, with one model."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass

from janus_app.cluster.line import Wanted
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession, SessionState
from janus_app.server.bridge import steps
from janus_app.types import Event, Events, Progress, Request, drain

PROGRESS_SECONDS = 0.05  # nobody sees more of it, and each event costs the head as much as any other


@dataclass(frozen=True)
class Report:
    """What a replica says of itself once its model is loaded."""

    state: SessionState
    machine: str
    process: int


class ReplicaProcess:
    """Loads its model before it answers. What it cannot load it says to whoever asks, instead of starting forever."""

    def __init__(self, wanted: Wanted) -> None:
        self.session = ModelSession(load_catalog(), Hub())
        self.workers = ThreadPoolExecutor(4, "job")
        self.failure: AppError | None = None
        try:
            drain(self.session.load(wanted.name, wanted.device, wanted.precision))
        except AppError as error:
            self.failure = error

    async def report(self) -> Report:
        """Raises AppError where the model could not be loaded."""
        if self.failure is not None:
            raise self.failure
        return Report(self.session.state, socket.gethostname(), os.getpid())

    async def run(self, request: Request | None) -> AsyncGenerator[Event, None]:
        """The events of a request, or of a check of the weights (None). A caller that cancels stops it in one step."""
        job: Events = self.session.check_weights() if request is None else self.session.run(request)
        last, sent = "", 0.0
        async with aclosing(steps(job, self.workers)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    now = time.monotonic()
                    if event.stage == last and event.done < event.total and now - sent < PROGRESS_SECONDS:
                        continue
                    last, sent = event.stage, now
                yield event
