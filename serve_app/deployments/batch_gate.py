"""Lets calls through to ``@serve.batch`` in groups, when the model is free.

``@serve.batch`` closes a batch before the model is free for it, and nothing is added to that batch while it waits: with
a short ``batch_wait_timeout_s`` batches stay tiny under load, with a long one an idle server waits for nothing. Held
back until the model is free and let through together, the waiting calls fill one batch at once, and a lone call never
waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that are held back now."""
        return len(self._waiting)

    @asynccontextmanager
    async def __call__(self, size: int) -> AsyncIterator[None]:
        """Wait to be let through, and hold the gate until the block ends. A cancelled call leaves the queue."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._open_soon()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._inside -= 1
                self._open_soon()

    def _open_soon(self) -> None:
        """Open once the wait is over or the group is full; never at once: calls of the same moment go together."""
        if self._inside or not self._waiting:
            return
        full = sum(size for size, _ in self._waiting) >= self.max_size
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
        while (self._waiting and self._inside == 0) or (self._waiting and total + self._waiting[0][0] <= self.max_size):
            size, turn = self._waiting.popleft()
            if not turn.done():  # otherwise its caller was cancelled
                turn.set_result(None)
                self._inside += 1
                total += size
