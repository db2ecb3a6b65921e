"""Two limits: for requests whose body is still arriving, and for requests that are processed.

A client that sends its body slowly must not slow down others. Serve counts a request from its first byte on, so its own
limit is set high, and these two apply instead.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from starlette.types import Message, Receive

from classifiers import VisionError
from graph import Overloaded
from serve_app.http.problems import SlowBody

__all__ = ["Arrival", "Arrivals", "Slots"]

# A mobile connection may stall for some seconds.
_GRACE_S = 5.0


class Slots:
    """Requests that this process handles at a time, and those that wait. Use it from one event loop.

    Args:
        working: number of requests that are processed at a time.
        waiting: number that may wait; ``None``: any number.
    """

    def __init__(self, working: int, waiting: int | None) -> None:
        self._free = asyncio.Semaphore(working)
        self._waiting = 0
        self._max_waiting = waiting

    async def take(self) -> None:
        """Wait for a slot.

        Raises:
            Overloaded: too many requests wait.
        """
        if self._free.locked() and self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise Overloaded("too many requests are under way; try again", retry_after_s=1)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def release(self) -> None:
        """Free the slot: the request has been answered."""
        self._free.release()


class Arrivals:
    """Limits of bodies that are arriving. Use it from one event loop.

    Args:
        min_bytes_per_s: least rate of a body, in each period of 5 s; 0: no limit.
        max_per_client: while an address has more bodies arriving, those that began more than 5 s ago are refused, the
            oldest first.
    """

    def __init__(self, min_bytes_per_s: int, max_per_client: int) -> None:
        self.min_bytes = min_bytes_per_s * _GRACE_S
        self.max_per_client = max_per_client
        self.by_client: defaultdict[str, dict[Arrival, None]] = defaultdict(dict)
        """The oldest first."""


class Arrival:
    """One body; its first message is the beginning."""

    def __init__(self, arrivals: Arrivals, client: str) -> None:
        self._limits = arrivals
        self._client = client
        self._size = self._size_before = 0  # bytes: now, and when the period began
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: VisionError | None = None
        self._waiting: asyncio.Timeout | None = None

    async def receive(self, receive: Receive) -> Message:
        """The next message of the request.

        Raises:
            SlowBody, Overloaded: it took too long.
        """
        if self._timer is None:
            self._limits.by_client[self._client][self] = None
            self._begin_period()
        if self._refusal is not None:
            raise self._refusal
        try:
            async with asyncio.timeout(None) as self._waiting:
                message = await receive()
        except TimeoutError:
            if self._refusal is None:
                raise
            raise self._refusal from None
        finally:
            self._waiting = None
        self._size += len(message.get("body", b""))
        return message

    def end(self) -> None:
        """The body is complete, or nobody waits for it."""
        if self._timer is not None:
            self._timer.cancel()
        self._limits.by_client[self._client].pop(self, None)
        if not self._limits.by_client[self._client]:
            del self._limits.by_client[self._client]

    def _begin_period(self) -> None:
        self._size_before = self._size
        self._timer = asyncio.get_running_loop().call_later(_GRACE_S, self._end_period)

    def _end_period(self) -> None:
        of_client, most = list(self._limits.by_client[self._client]), self._limits.max_per_client
        if of_client.index(self) < len(of_client) - most:
            self._refusal = Overloaded(
                f"more than {most} bodies from this address are arriving; try again", retry_after_s=1
            )
        elif self._size - self._size_before < self._limits.min_bytes:
            self._refusal = SlowBody(
                f"the body brought less than {self._limits.min_bytes:,.0f} bytes in {_GRACE_S:g} s; send a smaller "
                "image, or use a faster connection"
            )
        else:
            self._begin_period()
        if self._refusal is not None and self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
