"""Compaction, and what else a store needs, at intervals, in a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from classifiers import VisionError

__all__ = ["Compactor"]

_MAX_FAILURES = 3

_log = logging.getLogger(__name__)


class Compactor:
    """Calls ``run`` every ``every_s`` seconds. Use it from one event loop.

    Args:
        run: compacts the results; called in a thread.
        is_mine: whether this process compacts; while two do, no harm is done.
    """

    def __init__(self, run: Callable[[], object], every_s: float, is_mine: Callable[[], bool]) -> None:
        self._compact = run
        self._every_s = every_s
        self._is_mine = is_mine
        self._failures = 0
        self._last_error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first run is after ``every_s``."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End; the next run, here or elsewhere, finishes one that is in progress."""
        if self._task is not None:
            self._task.cancel()

    def failure(self) -> str | None:
        """Why results are not compacted any more; ``None``: they are, or may be by the next run."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return f"compaction of results has ended: {self._task.exception()!r}"
        if self._failures >= _MAX_FAILURES:
            return f"compaction of results failed {self._failures} times in a row: {self._last_error!r}"
        return None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if not self._is_mine():
                continue
            try:
                await asyncio.to_thread(self._compact)
            except Exception as error:  # noqa: BLE001 - counted, and reported by the health check
                self._failures += 1
                self._last_error = error
                traceback = None if isinstance(error, VisionError) else error
                _log.warning("results could not be compacted: %r", error, exc_info=traceback)
            else:
                self._failures = 0
