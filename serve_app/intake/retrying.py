"""Retrying: calls to the store until they work, and calls to the broker a few times."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from serve_app.queues import BadQueueUrl, QueueUnavailable
from serve_app.results import BadResultsUri, StoreUnavailable

__all__ = ["QUEUE_ERRORS", "STORE_ERRORS", "Retrier", "Stopped", "backoff", "call_broker"]

# A queue or a bucket that was deleted may be created again.
QUEUE_ERRORS = (QueueUnavailable, BadQueueUrl)
STORE_ERRORS = (StoreUnavailable, BadResultsUri)

T = TypeVar("T")

_BROKER_CALLS = 3
_LOG_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The worker is stopping: messages that it has not finished are requeued."""


def backoff(tries: int, first_s: float, longest_s: float) -> float:
    """Seconds before the next try: twice as long each time, plus or minus a quarter."""
    # beyond that it is the longest anyway, and the number would overflow
    wait_s: float = min(longest_s, first_s * 2.0 ** min(tries - 1, 60))
    return wait_s * random.uniform(0.75, 1.25)


async def call_broker(call: Callable[[], Awaitable[Any]], what: str) -> bool:
    """Call. When the broker stays unavailable, the message's lease expires, and it is delivered again.

    Returns:
        Whether it worked.
    """
    for attempt in range(1, _BROKER_CALLS + 1):
        try:
            await call()
            return True
        except QUEUE_ERRORS as error:
            if attempt == _BROKER_CALLS:
                _log.warning("could not %s; they are delivered again when their leases expire: %s", what, error)
                break
            await asyncio.sleep(backoff(attempt, 0.2, 5.0))
    return False


class Retrier:
    """Repeats calls until they work or the worker is stopped. Use it from one event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.waited_at = -math.inf
        """When a call last failed and was delayed, by the monotonic clock: a worker that waits is not stuck."""
        self._logged_at = -math.inf

    async def until_it_works(
        self,
        call: Callable[[], Awaitable[T]],
        errors: tuple[type[Exception], ...] = STORE_ERRORS,
        *,
        but_not: tuple[type[Exception], ...] = (),
        longest_s: float = 5.0,
    ) -> T:
        """Call, and repeat the call after one of ``errors``, except for ``but_not``.

        Raises:
            Stopped: the worker is stopping.
        """
        tries = 0
        while True:
            try:
                return await call()
            except but_not:
                raise
            except errors as error:
                tries += 1
                self.waited_at = time.monotonic()
                if self.waited_at - self._logged_at >= _LOG_EVERY_S:  # not once for each image
                    self._logged_at = self.waited_at
                    _log.warning("waiting: %s", error)
                await self.sleep(backoff(tries, 0.1, longest_s))
                if self.stopping.is_set():
                    raise Stopped from error

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
