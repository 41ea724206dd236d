"""A job for async code: steps on worker threads, and a client that leaves closes the job within one step.

A generator behind a streaming response is not closed when its client leaves, and a plain handler runs to its end after
the client's time-out. Either would keep the job's place in the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from janus_app.types import Event, Events

T = TypeVar("T")
_END: Any = object()


class ClientGone(Exception):
    """The client closed its connection, or has not read for a while. Nobody is left to answer."""


async def steps(job: Events, workers: ThreadPoolExecutor) -> AsyncGenerator[Event, None]:
    """The events of a job. Closing this generator, or cancelling its task, closes the job after its running step.

    Use it in `contextlib.aclosing`: a generator that is merely dropped is closed some time later.
    """
    loop = asyncio.get_running_loop()
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = loop.run_in_executor(workers, next, job, _END)
            event = await asyncio.shield(step)
            if event is _END:
                return
            yield event
    finally:
        await asyncio.shield(_close(job, step, workers))


async def _close(job: Events, step: asyncio.Future[Any] | None, workers: ThreadPoolExecutor) -> None:
    if step is not None:
        await asyncio.wait([step])  # a generator cannot be closed while it runs
        if not step.cancelled():
            step.exception()  # seen, whoever else awaited it
    await asyncio.get_running_loop().run_in_executor(workers, job.close)


async def until_gone(receive: Callable[[], Awaitable[Any]], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. `receive` is that of a request already read.

    Raises ClientGone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
