"""`python -m janus_app mcp` with a session that waits for its test: FOLDER and the options of the command.

After a drawing's first row nothing goes on until FOLDER/go exists. FOLDER/ended has a line for each job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from janus_app.cli import main
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, Finished, Progress
from tests.page_server import wait_until

FOLDER = Path(sys.argv[1])
run_on = ModelSession.run_on


def held(self: ModelSession, *args: Any) -> Iterator[Event]:
    end = "closed"
    try:
        with closing(run_on(self, *args)) as events:
            for event in events:
                end = "finished" if isinstance(event, Finished) else end
                yield event
                if isinstance(event, Progress) and event.stage == "draw" and event.done * 6 >= event.total:
                    wait_until((FOLDER / "go").exists)
                    time.sleep(0.1)  # what was sent before is read meanwhile
    finally:
        with (FOLDER / "ended").open("a", encoding="utf-8") as ended:
            ended.write(f"{end}\n")


if __name__ == "__main__":
    ModelSession.run_on = held  # type: ignore[method-assign]
    sys.exit(main(["mcp", "--out", str(FOLDER), *sys.argv[2:]]))
