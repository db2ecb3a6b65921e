"""Ends a request's work when its deadline passes or its client hangs up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from fastapi import Request
from starlette.requests import ClientDisconnect

from graph import DeadlineExceeded

__all__ = ["deadline", "unless_gone"]

T = TypeVar("T")


@asynccontextmanager
async def deadline(request: Request, limit_ms: int) -> AsyncIterator[None]:
    """Cancel the block ``limit_ms`` after the request arrived: reading it and fetching its image count too.

    Raises:
        DeadlineExceeded: they have.
    """
    try:
        async with asyncio.timeout_at(request.state.arrived + limit_ms / 1000) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            f"the deadline of {limit_ms} ms passed before every step had answered; allow more or send a smaller image",
            timeout_ms=limit_ms,
        ) from None


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Do the work, and cancel it when the client hangs up. The request's body must have been read.

    Serve cancels too, but a client can switch that off with the header ``x-request-disconnect-disabled``.

    Raises:
        ClientDisconnect: the client has gone.
    """
    worker = cast("asyncio.Task[object]", asyncio.current_task())
    before, gone = worker.cancelling(), False

    async def watch() -> None:
        nonlocal gone
        with contextlib.suppress(Exception):  # a server that cannot tell any more has lost the client
            while (await request.receive())["type"] != "http.disconnect":
                pass
        gone = True
        worker.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and worker.uncancel() == before:  # else something else wants it to end too
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
