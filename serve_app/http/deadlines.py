"""Ends a request's work when its deadline passes or its client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

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


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and cancel it when the client hangs up. The request's body must have been read.

    Serve cancels too, but a client can switch that off with the header ``x-request-disconnect-disabled``.

    Raises:
        ClientDisconnect: the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
