"""One large file over several connections at once, still written and hashed from its first byte to its last.

Each lane fetches the next piece nobody has. The piece that the file ends at goes straight to disk; later ones wait in
memory until the bytes before them are there. So the unfinished file never has a hole, and what is on disk is always
the beginning of the file, as if one connection had fetched it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from janus_app.hub.errors import Asked, Trouble
from janus_app.hub.transfer import NoRangesError, Remote, Retrier, Sink, Transfer, too_long


class _Piece:
    """Bytes [start, end) of the file; `waiting` are those received and not yet on disk."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.reached = start
        self.waiting = bytearray()


class RangeDownload:
    """The rest of one file. Raises AppError, NoRangesError, OSError."""

    def __init__(self, transfer: Transfer, asked: Asked, remote: Remote, sink: Sink) -> None:
        self._transfer, self._asked, self._remote, self._sink = transfer, asked, remote, sink
        self._next = sink.kept
        self._pieces: deque[_Piece] = deque()  # begun and not yet wholly on disk, in order
        self._moved = asyncio.Event()

    async def run(self) -> None:
        lanes = [asyncio.ensure_future(self._lane()) for _ in range(self._transfer.width.lanes)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            lost = sum(len(piece.waiting) for piece in self._pieces)
            if lost:
                self._transfer.meter.moved(-lost)

    async def _lane(self) -> None:
        while (piece := await self._take()) is not None:
            await self._fetch(piece)

    async def _take(self) -> _Piece | None:
        """The next piece; waits while too much is ahead of the file's end."""
        width, size = self._transfer.width, self._remote.size
        while self._next < size and self._next - self._sink.kept >= width.lanes * width.piece:
            self._moved.clear()
            await self._moved.wait()
        if self._next >= size:
            return None
        piece = _Piece(self._next, min(self._next + width.piece, size))
        self._next = piece.end
        self._pieces.append(piece)
        return piece

    async def _fetch(self, piece: _Piece) -> None:
        transfer, asked, remote = self._transfer, self._asked, self._remote
        tries = Retrier(asked, transfer.patience, transfer.meter, furthest=piece.reached)
        while piece.reached < piece.end:
            try:
                stream = transfer.stream(asked, remote, piece.reached, piece.end)
                async with contextlib.aclosing(stream) as blocks:
                    async for block in blocks:
                        if block is None:
                            raise NoRangesError
                        if piece.reached + len(block) > piece.end:
                            raise too_long(asked, remote)
                        piece.waiting += block
                        piece.reached += len(block)
                        transfer.meter.done += len(block)
                        self._flush()
                trouble = Trouble("a connection ended early")
            except Trouble as caught:
                trouble = caught
            if piece.reached < piece.end:
                await tries.failed(trouble, reached=piece.reached, kept=self._sink.kept)

    def _flush(self) -> None:
        """Write what follows the end of the file without a gap."""
        while self._pieces:
            first = self._pieces[0]
            if first.waiting:
                block, first.waiting = bytes(first.waiting), bytearray()
                self._sink.append(block)
            if first.reached < first.end:
                break
            self._pieces.popleft()
        self._moved.set()
