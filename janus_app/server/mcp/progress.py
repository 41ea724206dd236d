"""How far a call is, as MCP reports it: numbers that only grow."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
from mcp.server import ServerRequestContext

from janus_app.errors import Message
from janus_app.runtime.face import Session
from janus_app.server.api.context import STALL_SECONDS
from janus_app.server.bridge import ClientGone
from janus_app.types import Event, Progress, Queued, TextDelta

AGAIN_SECONDS = 5.0  # clients give up a call of which they hear nothing


@dataclass
class Meter:
    """`row` is the last number that was reported; what comes before the first one is reported as parts of it.

    Tokens of text count like rows; `text` is the number at the end of the last text, behind which a drawing counts on.
    """

    ctx: ServerRequestContext
    session: Session
    language: str
    row: int = 0
    text: int = 0
    waits: int = 0
    said: Message | None = None
    said_at: float = 0.0

    async def see(self, event: Event) -> None:
        """Report an event of a job. Raises ClientGone where the client does not read."""
        if isinstance(event, Queued):
            await self.wait(Message("cli_waiting", place=event.place))
        elif isinstance(event, Progress) and event.stage in ("draw", "rank"):
            total = self._rows() if event.unit == "tokens" else event.total
            done = event.done * total // max(event.total, 1)
            if (row := self.text + done) > self.row:
                await self._report(row, self.text + total, Message("mcp_progress", done=done, total=total))
                self.row = row
        elif isinstance(event, TextDelta):
            self.row = self.text = self.row + 1
            await self._report(self.row, None, None)
        elif isinstance(event, Progress) and not self.row:
            await self.wait(Message("mcp_preparing"))

    def _rows(self) -> int:
        """The rows of image tokens of the model that draws."""
        able = self.session.state.capabilities
        return able.size[1] // able.cell if able and able.cell else 1

    async def wait(self, reason: Message) -> None:
        """Report that the work has not begun, whenever the reason changes and now and then."""
        now = time.monotonic()
        if reason == self.said and now - self.said_at < AGAIN_SECONDS:
            return
        self.said, self.said_at = reason, now
        self.waits += 1
        await self._report(1 - 1 / (1 + self.waits), None, reason)

    async def _report(self, done: float, total: int | None, message: Message | None) -> None:
        text = message.text(self.language) if message else None
        with anyio.move_on_after(STALL_SECONDS) as limit:
            await self.ctx.session.report_progress(done, total, text)
        if limit.cancelled_caught:
            raise ClientGone
