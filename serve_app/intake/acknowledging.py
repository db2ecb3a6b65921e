"""Results to compaction and messages back to the broker, in groups: one call for many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from serve_app.intake.broker import STORE_AWAY, call_broker
from serve_app.intake.patience import Patience, Stopped
from serve_app.queues import Message, Queue
from serve_app.results import Outcome, ResultStore

__all__ = ["Acknowledger"]

_GATHER_S = 0.25


class Done(Protocol):
    """Hears of a message that is no longer held."""

    def __call__(self, message: Message, *, is_ended: bool) -> None: ...


class Acknowledger:
    """Gathers what has ended. Use it from one event loop.

    Args:
        queue: whose messages they are.
        store: takes their results.
        patience: waits for the store.
        at: messages that are not waited beyond.
        done: hears of each message that was acknowledged, or could not be and will come again.
    """

    def __init__(self, queue: Queue, store: ResultStore, patience: Patience, at: int, done: Done) -> None:
        self._queue = queue
        self._store = store
        self._patience = patience
        self._at = at
        self._done = done
        self._waiting: list[tuple[Message, Sequence[Outcome]]] = []
        self._any = asyncio.Event()
        self._many = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def add(self, message: Message, outcomes: Sequence[Outcome | None]) -> None:
        """A message whose jobs have all ended."""
        self._waiting.append((message, [outcome for outcome in outcomes if outcome is not None]))
        self._any.set()
        if len(self._waiting) >= self._at:
            self._many.set()

    async def run(self) -> None:
        """Acknowledge until cancelled."""
        while True:
            await self._any.wait()
            try:
                async with asyncio.timeout(_GATHER_S):
                    await self._many.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Acknowledge all that waits."""
        async with self._one_at_a_time:
            group, self._waiting = self._waiting, []
            self._any.clear()
            self._many.clear()
            if not group:
                return
            messages = [message for message, _ in group]
            is_ended = await self._journal([outcome for _, outcomes in group for outcome in outcomes])
            if is_ended:
                is_ended = await call_broker(lambda: self._queue.ack(messages), "acknowledge messages")
            for message in messages:
                self._done(message, is_ended=is_ended)

    async def _journal(self, outcomes: Sequence[Outcome]) -> bool:
        try:
            await self._patience.until_it_works(lambda: self._store.journal(outcomes), STORE_AWAY)
        except Stopped:  # the messages come again, and find their results
            return False
        return True
