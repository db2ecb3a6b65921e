"""Calls to the broker that may fail: what then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from serve_app.intake.patience import backoff
from serve_app.queues import BadQueueUrl, QueueUnavailable
from serve_app.results import BadResultsUri, StoreUnavailable

__all__ = ["QUEUE_AWAY", "STORE_AWAY", "call_broker"]

# A queue or a bucket that somebody deleted may be made again.
QUEUE_AWAY = (QueueUnavailable, BadQueueUrl)
STORE_AWAY = (StoreUnavailable, BadResultsUri)

_CALLS = 3

_log = logging.getLogger(__name__)


async def call_broker(call: Callable[[], Awaitable[Any]], what: str) -> bool:
    """Call; where the broker stays away, let it be: the message's lease runs out, and it comes again.

    Returns:
        Whether it worked.
    """
    for attempt in range(1, _CALLS + 1):
        try:
            await call()
            return True
        except QUEUE_AWAY as error:
            if attempt == _CALLS:
                _log.warning("could not %s; they come again when their lease runs out: %s", what, error)
                break
            await asyncio.sleep(backoff(attempt, 0.2, 5.0))
    return False
