"""Lets a number of calls in at once, and the others in the order of their priority."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from graph.engine import Priority
from serve_app.deployments.waiting_line import WaitingLine

__all__ = ["Admission"]


class Admission:
    """What :class:`asyncio.Semaphore` is, with priorities. Use it from one event loop.

    Args:
        most: calls that may be inside at once; may be changed at any time; ``None``: any number.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._inside = 0
        self._line: WaitingLine[asyncio.Future[None]] = WaitingLine()

    @asynccontextmanager
    async def __call__(self, priority: Priority, since: float) -> AsyncIterator[None]:
        """Wait to be let in, and stay inside until the block ends.

        Args:
            priority: of the call among those that wait.
            since: when the call came, by the event loop's clock.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = self._line.add(turn, priority, since)
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._inside -= 1
            else:
                self._line.remove(place)
            self._let_in()

    def _let_in(self) -> None:
        while self._line and (self.most is None or self._inside < self.most):
            turn = self._line.take()
            if not turn.done():  # else its caller was cancelled in this turn of the event loop
                turn.set_result(None)
                self._inside += 1
