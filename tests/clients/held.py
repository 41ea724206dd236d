"""Jobs that wait for their test, and say how they ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from janus_app.runtime.session import ModelSession
from janus_app.types import Event, Finished, Progress
from tests.page_server import wait_until


def hold_jobs(folder: Path) -> None:
    """A drawing goes no further than its first row while `folder`/hold exists.

    `folder`/begun is there once a job has begun, and `folder`/ended has a line for each that has ended.
    A job that was held goes on slowly, so that what its client sent meanwhile is read before it ends.
    """
    run_on, hold = ModelSession.run_on, folder / "hold"

    def held(self: ModelSession, *args: Any) -> Iterator[Event]:
        end, pace = "closed", 0.0
        (folder / "begun").touch()
        try:
            with closing(run_on(self, *args)) as events:
                for event in events:
                    end = "finished" if isinstance(event, Finished) else end
                    yield event
                    if isinstance(event, Progress) and event.stage == "draw" and event.done * 6 >= event.total:
                        pace = 0.1 if hold.exists() else pace
                        wait_until(lambda: not hold.exists())
                        time.sleep(pace)
        finally:
            with (folder / "ended").open("a", encoding="utf-8") as ended:
                ended.write(f"{end}\n")

    ModelSession.run_on = held  # type: ignore[method-assign]
