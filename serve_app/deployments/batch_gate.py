"""Lets calls through to ``@serve.batch`` in groups, when the model is free.

``@serve.batch`` closes a batch before the model is free for it, and nothing is added to that batch while it waits: with
a short ``batch_wait_timeout_s`` batches stay tiny under load, with a long one an idle server waits for nothing. Held
back until the model is free and let through together, the waiting calls fill one batch at once, and a lone call never
waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from graph.engine import Priority
from serve_app.deployments.waiting_line import WaitingLine

__all__ = ["BatchGate"]


class BatchGate:
    """The gate before one model. Use it from one event loop.

    Args:
        max_size: upper bound on the sum of the sizes of the calls that are let through together; a larger call goes
            alone.
        wait_s: how long a free model waits for a group to fill.
    """

    def __init__(self, max_size: int, wait_s: float = 0.0) -> None:
        self.max_size = max_size
        self.wait_s = wait_s
        self._opening: asyncio.TimerHandle | None = None
        self._inside = 0
        self._waiting_size = 0
        self._line: WaitingLine[tuple[int, asyncio.Future[None]]] = WaitingLine()

    @property
    def waiting(self) -> int:
        """Calls that are held back now."""
        return len(self._line)

    @asynccontextmanager
    async def __call__(self, size: int, priority: Priority, since: float) -> AsyncIterator[None]:
        """Wait to be let through, and hold the gate until the block ends. A cancelled call leaves the line.

        Args:
            size: images or crops of the call.
            priority: its priority among those that wait.
            since: when the call came, by the event loop's clock.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = self._line.add((size, turn), priority, since)
        self._waiting_size += size
        self._open_soon()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._inside -= 1
                self._open_soon()
            elif self._line.remove(place):
                self._waiting_size -= size

    def _open_soon(self) -> None:
        """Open once the wait is over or the group is full; never at once: calls of the same moment go together."""
        if self._inside or not self._line:
            return
        full = self._waiting_size >= self.max_size
        if self._opening is not None:
            if not full:
                return
            self._opening.cancel()
        self._opening = asyncio.get_running_loop().call_later(0 if full else self.wait_s, self._let_through)

    def _let_through(self) -> None:
        self._opening = None
        if self._inside:
            return
        total = 0
        while self._line and (self._inside == 0 or total + self._line.first()[0] <= self.max_size):
            size, turn = self._line.take()
            self._waiting_size -= size
            if not turn.done():  # otherwise its caller was cancelled
                turn.set_result(None)
                self._inside += 1
                total += size
