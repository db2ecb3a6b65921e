"""Ends a request's work when its client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar, cast

from fastapi import Request
from starlette.requests import ClientDisconnect

__all__ = ["unless_gone"]

T = TypeVar("T")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Do the work, and cancel it when the client disconnects. The request's body must have been read.

    Serve cancels too, but a client can switch that off with the header ``x-request-disconnect-disabled``.

    Raises:
        ClientDisconnect: the client has disconnected.
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
        if gone and worker.uncancel() == before:  # else something else has cancelled it too
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
