"""The deadline of a request. It travels with the calls of its steps, so that none works for a caller that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from graph.failures import DeadlineExceeded

__all__ = ["deadline", "expires_at"]

_EXPIRES_AT: ContextVar[float | None] = ContextVar("expires_at", default=None)


def expires_at(limit_s: float | None = None) -> float | None:
    """When the caller stops waiting, by the event loop's clock: at the deadline around it or after ``limit_s``,
    whichever is sooner; ``None``: never."""
    limit = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
    return min((at for at in (_EXPIRES_AT.get(), limit) if at is not None), default=None)


@asynccontextmanager
async def deadline(limit_s: float | None, since: float | None = None) -> AsyncIterator[None]:
    """Cancel the block at a deadline.

    Args:
        limit_s: how long the block may take; ``None``: any time.
        since: the event loop's time at which ``limit_s`` begins; default: now.

    Raises:
        DeadlineExceeded: the deadline passed.
    """
    now = asyncio.get_running_loop().time()
    until = None if limit_s is None else (now if since is None else since) + limit_s
    token = _EXPIRES_AT.set(expires_at(None if until is None else until - now))
    try:
        async with asyncio.timeout_at(until) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        limit_ms = round((limit_s or 0) * 1000)
        raise DeadlineExceeded(
            f"the deadline of {limit_ms} ms passed before every step had answered; "
            "allow more time or send a smaller image",
            timeout_ms=limit_ms,
        ) from None
    finally:
        _EXPIRES_AT.reset(token)
