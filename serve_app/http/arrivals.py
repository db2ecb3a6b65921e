"""Requests whose body is still arriving, and requests that are worked on: two limits.

A client that sends its body slowly must cost the others nothing. Serve counts a request from its first byte on, so its
own limit is set high, and these two count instead.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from classifiers import VisionError
from graph import Overloaded
from serve_app.http.problems import SlowBody

__all__ = ["Arrival", "Arrivals", "Slots"]

_LOOK_EVERY_S = 1.0

# A mobile connection may stall for some seconds.
_GRACE_S = 5.0


class Slots:
    """Requests that this process works on at a time, and those that wait for it. Use it from one event loop.

    Args:
        working: number of bodies that are processed at a time.
        waiting: number that may wait; ``None``: any number.
    """

    def __init__(self, working: int, waiting: int | None) -> None:
        self._free = asyncio.Semaphore(working)
        self._waiting = 0
        self._max_waiting = waiting

    async def take(self) -> None:
        """Wait for a slot.

        Raises:
            Overloaded: as many requests wait as may.
        """
        if self._free.locked() and self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise Overloaded("too many requests are under way; try again", retry_after_s=1)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def give_back(self) -> None:
        """The request has been answered."""
        self._free.release()


class Arrivals:
    """Ends bodies that arrive too slowly. Use it from one event loop.

    Args:
        min_bytes_per_s: what a body must bring in each period of 5 s; 0: nothing.
        max_per_client: where an address has more bodies under way, those that began more than 5 s ago are ended, the
            oldest first.
    """

    def __init__(self, min_bytes_per_s: int, max_per_client: int) -> None:
        self._min_bytes = min_bytes_per_s * _GRACE_S
        self._max_per_client = max_per_client
        self._by_client: dict[str, dict[Arrival, None]] = {}  # the oldest first
        self._looking: asyncio.TimerHandle | None = None

    def expect(self, client: str) -> Arrival:
        """The body of a request that has begun; ``client`` names the sender."""
        return Arrival(self, client)

    def begin(self, arrival: Arrival) -> None:
        """Watch it from now on."""
        self._by_client.setdefault(arrival.client, {})[arrival] = None
        if self._looking is None:
            self._look_later()

    def end(self, arrival: Arrival) -> None:
        """Watch it no longer."""
        of_client = self._by_client[arrival.client]
        del of_client[arrival]
        if not of_client:
            del self._by_client[arrival.client]

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looking = None
        now = asyncio.get_running_loop().time()
        for of_client in self._by_client.values():
            excess = len(of_client) - self._max_per_client
            for number, arrival in enumerate(list(of_client)):
                if number < excess and now - arrival.since >= _GRACE_S:
                    arrival.refuse(
                        Overloaded(
                            f"more than {self._max_per_client} bodies from this address are arriving; try again",
                            retry_after_s=1,
                        )
                    )
                elif arrival.brought_less_than(self._min_bytes, now):
                    arrival.refuse(
                        SlowBody(
                            f"the body brought less than {self._min_bytes:,.0f} bytes in {_GRACE_S:g} s; send a "
                            "smaller image, or use a faster connection"
                        )
                    )
        if self._by_client:
            self._look_later()


class Arrival:
    """One body.

    Attributes:
        client: who sends it.
        since: the event loop's time when it was first waited for.
    """

    def __init__(self, arrivals: Arrivals, client: str) -> None:
        self.client = client
        self.since = float("inf")
        self._arrivals: Arrivals | None = arrivals
        self._size = 0
        self._seen = 0.0, 0  # when, and how many bytes had come by then
        self._refusal: VisionError | None = None
        self._limit: asyncio.Timeout | None = None

    async def receive(self, receive: Receive) -> Message:
        """The next message of the request.

        Raises:
            SlowBody, Overloaded: it took too long.
        """
        if self.since == float("inf") and self._arrivals is not None:
            self.since = asyncio.get_running_loop().time()
            self._seen = self.since, 0
            self._arrivals.begin(self)
        if self._refusal is not None:
            raise self._refusal
        try:
            async with asyncio.timeout(None) as self._limit:
                message = await receive()
        except TimeoutError:
            if self._refusal is None:
                raise
            raise self._refusal from None
        finally:
            self._limit = None
        self._size += len(message.get("body", b""))
        return message

    def end(self) -> None:
        """It is complete, or nobody waits for it any more."""
        if self._arrivals is not None and self.since != float("inf"):
            self._arrivals.end(self)
        self._arrivals = None

    def brought_less_than(self, size: float, now: float) -> bool:
        """Whether the period that has just ended brought less; ``False`` while it lasts."""
        began, before = self._seen
        if now - began < _GRACE_S:
            return False
        self._seen = now, self._size
        return self._size - before < size

    def refuse(self, error: VisionError) -> None:
        """Let the waiting request fail."""
        self._refusal = error
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())
