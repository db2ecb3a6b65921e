"""Batches that close when the model is free: full under load, without a wait when idle."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item", bound=Sized)
Outcome = TypeVar("Outcome")


class Batcher(Generic[Item, Outcome]):
    """One thread that calls ``process`` with all waiting items, up to a size, as soon as the last call is done.

    An item whose caller is cancelled while it waits is dropped.

    Args:
        process: N items to N outcomes. What it raises is raised in each caller.
        max_size: upper bound on the sum of the items' lengths in one call; a longer item is processed alone.
        name: of the thread.
    """

    def __init__(self, process: Callable[[Sequence[Item]], Sequence[Outcome]], max_size: int, name: str) -> None:
        self._process = process
        self._max_size = max_size
        self._waiting: deque[tuple[Item, Future[Outcome]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def submit(self, item: Item) -> Outcome:
        """Wait for the outcome of one item.

        Raises:
            RuntimeError: the batcher is closed.
        """
        future: Future[Outcome] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the pipeline is closed")
            self._waiting.append((item, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Cancel waiting items, and end the thread when the running call is done."""
        with self._changed:
            self._closed = True
            for _, future in self._waiting:
                future.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                outcomes = self._process([item for item, _ in batch])
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    future.set_result(outcome)
            except BaseException as error:  # noqa: BLE001 - raised in each caller that has no outcome yet
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[tuple[Item, Future[Outcome]]]:
        """The next batch; empty when closed and nothing is waiting."""
        batch: list[tuple[Item, Future[Outcome]]] = []
        size = 0
        with self._changed:
            while not batch:
                while not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self._max_size):
                    item, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((item, future))
                        size += len(item)
        return batch
