"""Watches a queue from a thread, for callers that must not wait for a broker."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from serve_app.queues import QueueStats, queue_from_url

__all__ = ["QueueWatcher"]

_log = logging.getLogger(__name__)

_EVERY_S = 2.0
_TIMEOUT_S = 10.0
_STALE_S = 20.0
_SAY_AGAIN_S = 300.0


class QueueWatcher:
    """Reads the statistics of a queue every 2 seconds, in a daemon thread. Never raises; errors are logged.

    Args:
        url: the queue's.
        every_s: seconds between two reads.
        clock: for tests.
    """

    def __init__(self, url: str, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._every_s = every_s
        self._clock = clock
        self._seen: tuple[QueueStats, float] | None = None
        self._stop = threading.Event()
        self._complained_at: float | None = None
        self.is_late = False
        """Whether the broker's numbers are minutes old."""

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="queue-watcher", daemon=True).start()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stop.set()

    @property
    def stats(self) -> QueueStats | None:
        """The latest statistics; ``None``: there are none, or they are stale."""
        stats, read_at = self._seen or (None, 0.0)
        return None if self._clock() - read_at > _STALE_S else stats

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
                async with asyncio.timeout(_TIMEOUT_S):
                    stats = await queue.stats()
                self._seen = stats, self._clock()
                self._complained_at = None
                await asyncio.to_thread(self._stop.wait, self._every_s)
        finally:
            await queue.close()

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if self._complained_at is None or now - self._complained_at > _SAY_AGAIN_S:
            self._complained_at = now
            _log.warning(
                "autoscaling cannot see the queue, the number of workers stays as it is: %s: %s",
                type(error).__name__,
                error,
            )
