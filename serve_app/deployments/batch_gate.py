"""Lets calls through to ``@serve.batch`` in groups, when the model is free.

``@serve.batch`` closes a batch before the model is free for it, and nothing is added to that batch while it waits: with
a short ``batch_wait_timeout_s`` batches stay tiny under load, with a long one an idle server waits for nothing. Held
back until the model is free and let through together, the waiting calls fill one batch at once, and a lone call never
waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from graph.engine import Priority
from serve_app.deployments.waiting_line import WaitingLine

__all__ = ["BatchGate"]

# A running batch cannot be interrupted. While clients send calls, as in the last second, theirs wait behind a part
# of a batch of lower priority, not behind a whole one.
_CLIENTS_S = 1.0
_SHARE_BESIDE_CLIENTS = 1 / 4


class _Held(NamedTuple):
    size: int
    priority: Priority
    turn: asyncio.Future[None]


class BatchGate:
    """The gate before one model. Use it from one event loop.

    Calls are let through by priority and age. A batch is not filled up with calls of a lower priority than its first.

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
        self._client_came_at = -math.inf
        self._line: WaitingLine[_Held] = WaitingLine()

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
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if priority == Priority.INTERACTIVE:
            self._client_came_at = loop.time()
        place = self._line.add(_Held(size, priority, turn), priority, since)
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
        if self._inside or not self._line:
            return
        priority, total = self._line.first().priority, 0
        most = self._most(priority)
        while self._line:
            size, priority_of_next, turn = self._line.first()
            if self._inside and (total + size > most or priority_of_next > priority):
                return
            self._line.take()
            self._waiting_size -= size
            if not turn.done():  # otherwise its caller was cancelled
                turn.set_result(None)
                self._inside += 1
                total += size

    def _most(self, priority: Priority) -> int:
        """Upper bound of the size of a batch that begins with this priority."""
        clients_left_s = asyncio.get_running_loop().time() - self._client_came_at
        if priority == Priority.INTERACTIVE or clients_left_s > _CLIENTS_S:
            return self.max_size
        return max(1, int(self.max_size * _SHARE_BESIDE_CLIENTS))
