"""The deadline of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from graph.failures import DeadlineExceeded

__all__ = ["deadline"]


@asynccontextmanager
async def deadline(limit_s: float | None, since: float | None = None) -> AsyncIterator[None]:
    """Cancel the block at a deadline.

    Args:
        limit_s: how long the block may take; ``None``: any time.
        since: the event loop's time at which ``limit_s`` begins; default: now.

    Raises:
        DeadlineExceeded: the deadline passed.
    """
    since = asyncio.get_running_loop().time() if since is None else since
    try:
        async with asyncio.timeout_at(None if limit_s is None else since + limit_s) as limit:
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
