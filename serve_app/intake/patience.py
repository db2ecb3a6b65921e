"""Waiting for what may pass: how long, and when to stop."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["Patience", "Stopped", "backoff"]

T = TypeVar("T")

_SAY_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The worker is stopping: what it has not done is given back."""


def backoff(tries: int, first_s: float, longest_s: float) -> float:
    """Seconds before the next try: twice as long each time, give or take a quarter."""
    # after so many doublings it is the longest in any case, and numbers do not overflow
    wait_s: float = min(longest_s, first_s * 2.0 ** min(tries - 1, 60))
    return wait_s * random.uniform(0.75, 1.25)


class Patience:
    """Repeats calls until they work or the worker is stopped. Use it from one event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.waited_at = -math.inf
        """When a call was last put off, by the monotonic clock: who waits is not stuck."""
        self._said_at = -_SAY_EVERY_S

    async def until_it_works(
        self,
        call: Callable[[], Awaitable[T]],
        passing: tuple[type[Exception], ...],
        *,
        but_not: tuple[type[Exception], ...] = (),
        first_s: float = 0.1,
        longest_s: float = 5.0,
    ) -> T:
        """Call, and call again after an error that is ``passing`` and none of ``but_not``.

        Raises:
            Stopped: the worker is stopping.
        """
        tries = 0
        while True:
            try:
                return await call()
            except but_not:
                raise
            except passing as error:
                tries += 1
                self.waited_at = time.monotonic()
                self._say(error)
                await self.sleep(backoff(tries, first_s, longest_s))
                if self.stopping.is_set():
                    raise Stopped from error

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is stopped."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return

    def _say(self, error: Exception) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:  # a line a while, not one an image
            self._said_at = time.monotonic()
            _log.warning("waiting: %s", error)
