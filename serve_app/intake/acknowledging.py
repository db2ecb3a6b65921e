"""Writes results to the journal and acknowledges messages in groups: one call for many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from serve_app.intake.retrying import Retrier, Stopped, call_broker
from serve_app.queues import Message, Queue
from serve_app.results import Outcome, ResultStore

__all__ = ["Acknowledger"]

_GATHER_S = 0.25


class Acknowledger:
    """Collects finished messages. Use it from one event loop.

    Args:
        at: the number of messages that are acknowledged without waiting for more.
        done: called with each message, and whether it was acknowledged; otherwise it is delivered again.
    """

    def __init__(
        self, queue: Queue, store: ResultStore, retrier: Retrier, at: int, done: Callable[[Message, bool], None]
    ) -> None:
        self._queue = queue
        self._store = store
        self._retrier = retrier
        self._at = at
        self._done = done
        self._waiting: list[tuple[Message, Sequence[Outcome]]] = []
        self._any = asyncio.Event()
        self._many = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def add(self, message: Message, outcomes: Sequence[Outcome | None]) -> None:
        """Add a message whose jobs have all finished."""
        self._waiting.append((message, [outcome for outcome in outcomes if outcome is not None]))
        self._any.set()
        if len(self._waiting) >= self._at:
            self._many.set()

    async def run(self) -> None:
        """Acknowledge until cancelled."""
        while True:
            await self._any.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._many.wait()
            await self.flush()

    async def flush(self) -> None:
        """Acknowledge all messages that wait."""
        async with self._one_at_a_time:
            group, self._waiting = self._waiting, []
            self._any.clear()
            self._many.clear()
            if not group:
                return
            messages = [message for message, _ in group]
            outcomes = [outcome for _, outcomes in group for outcome in outcomes]
            try:
                await self._retrier.until_it_works(lambda: self._store.journal(outcomes))
                is_ended = await call_broker(lambda: self._queue.ack(messages), "acknowledge messages")
            except Stopped:  # the messages are delivered again, and their outcomes are found
                is_ended = False
            for message in messages:
                self._done(message, is_ended)
