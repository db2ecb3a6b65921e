"""Compaction at intervals, in a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from classifiers import VisionError
from serve_app.results.object_stores import Objects

__all__ = ["Compactor"]

_MAX_FAILURES = 3

_log = logging.getLogger(__name__)


class Compactor:
    """Moves results to Parquet every ``every_s`` seconds. Use it from one event loop.

    Args:
        objects: the store.
        every_s: seconds between two runs.
        is_mine: whether it is for this process to do; no harm is done while two think that they are it.
    """

    def __init__(self, objects: Objects, every_s: float, is_mine: Callable[[], bool]) -> None:
        self._objects = objects
        self._every_s = every_s
        self._is_mine = is_mine
        self._failures = 0
        self._last_error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a wait."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End; a run under way is finished by the next one, here or elsewhere."""
        if self._task is not None:
            self._task.cancel()

    def failure(self) -> str | None:
        """Why results do not get to Parquet any more; ``None`` where they do, or may the next time."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return f"compaction of results has ended: {self._task.exception()!r}"
        if self._failures >= _MAX_FAILURES:
            return f"compaction of results failed {self._failures} times in a row: {self._last_error!r}"
        return None

    async def _run(self) -> None:
        # Here, for pyarrow takes a third of a second: the worker takes jobs before that.
        from serve_app.results.compaction import compact

        while True:
            await asyncio.sleep(self._every_s)
            if not self._is_mine():
                continue
            try:
                await asyncio.to_thread(compact, self._objects)
            except Exception as error:  # noqa: BLE001 - counted, and seen by the health check
                self._failures += 1
                self._last_error = error
                traceback = None if isinstance(error, VisionError) else error
                _log.warning("results are not in Parquet yet: %r", error, exc_info=traceback)
            else:
                self._failures = 0
