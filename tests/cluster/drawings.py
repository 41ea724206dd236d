"""Drawings of several visitors at once, and what must be true of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from janus_app.cluster.session import ClusterSession
from janus_app.runtime.session import ModelSession
from janus_app.types import (
    ChatRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Preview,
    Progress,
    Started,
    Turn,
)

PROMPT = "A small red house."
ROW = 6  # image tokens
ASK = ChatRequest((Turn("user", "Hello"),), max_new_tokens=24, seed=5)


def pixels(finished: Event | None) -> list[bytes]:
    assert isinstance(finished, Finished)
    return [picture.image.tobytes() for picture in finished.pictures]


def eight_drawings(session: ClusterSession, on_third_row: Callable[[], None] = lambda: None) -> list[list[Event]]:
    """The events of eight drawings for four visitors at once; the first that shows its third row calls the function."""
    events: list[list[Event]] = [[] for _ in range(8)]
    lock, called = threading.Lock(), []

    def visit(visitor: int) -> None:
        for number in (visitor, visitor + 4):
            for event in session.run(GenerateRequest(PROMPT, seed=number)):
                events[number].append(event)
                if isinstance(event, Progress) and event.stage == "draw" and event.done >= 3 * ROW:
                    with lock:
                        if not called:
                            called.append(True)
                            on_third_row()

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return events


def check_drawings(events: list[list[Event]], alone: ModelSession) -> None:
    """Every drawing ended with the same bytes as on one model, and showed each step once."""
    for number, job in enumerate(events):
        expected = alone.result(GenerateRequest(PROMPT, seed=number))
        assert pixels(job[-1]) == pixels(expected)
        assert sum(isinstance(event, Started) for event in job) == 1
        drawn = [event.done for event in job if isinstance(event, Progress) and event.stage == "draw"]
        shown = [event.done for event in job if isinstance(event, Preview)]
        assert drawn == sorted(set(drawn)) and shown == sorted(set(shown))


def losses(events: list[list[Event]]) -> list[int]:
    return [sum(isinstance(event, Notice) and event.message.code == "replica_lost" for event in job) for job in events]
