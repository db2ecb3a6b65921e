"""Watches a queue from a thread, for those who may not wait for a broker."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.queues import Queue, QueueStats, queue_from_url

__all__ = ["QueueWatcher"]

_log = logging.getLogger(__name__)

_EVERY_S = 2.0
_TIMEOUT_S = 10.0
_STALE_S = 20.0
_SAY_AGAIN_S = 300.0


@dataclass(frozen=True, slots=True)
class _Seen:
    stats: QueueStats
    at: float


class QueueWatcher:
    """Asks a queue how it stands every 2 seconds, in a daemon thread. Never raises; what is wrong is logged.

    Args:
        url: the queue's.
        every_s: seconds between two questions.
        clock: for tests.
    """

    def __init__(self, url: str, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._every_s = every_s
        self._clock = clock
        self._seen: _Seen | None = None
        self._stop = threading.Event()
        self._complained_at: float | None = None
        self.is_late = False
        """Whether the broker's numbers are minutes old."""

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="queue-watcher", daemon=True).start()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stop.set()

    @property
    def stats(self) -> QueueStats | None:
        """How the queue stood moments ago; ``None``: that is not known."""
        seen = self._seen
        return None if seen is None or self._clock() - seen.at > _STALE_S else seen.stats

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._watch_connected())
            except Exception as error:  # noqa: BLE001 - a broker's client may raise anything; the next round asks again
                self._complain(error)
            self._stop.wait(self._every_s)

    async def _watch_connected(self) -> None:
        queue = queue_from_url(self._url)
        self.is_late = queue.stats_are_late
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await queue.open()
            while not self._stop.is_set():
                await self._ask(queue)
                await asyncio.to_thread(self._stop.wait, self._every_s)
        finally:
            await queue.close()

    async def _ask(self, queue: Queue) -> None:
        async with asyncio.timeout(_TIMEOUT_S):
            stats = await queue.stats()
        self._seen = _Seen(stats, self._clock())
        self._complained_at = None

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if self._complained_at is None or now - self._complained_at > _SAY_AGAIN_S:
            self._complained_at = now
            _log.warning(
                "autoscaling cannot see the queue, the number of workers stays as it is: %s: %s",
                type(error).__name__,
                error,
            )
