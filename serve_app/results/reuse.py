"""Reuses the result of the same bytes, pipeline and metadata (where a rule reads it)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from graph import Engine, Frame
from serve_app.results.store import ResultStore, content_key

__all__ = ["Reuse"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Reuse:
    """Runs an engine on images without a known result. Without a working store each image is run.

    Args:
        patience_s: how long an image waits for the store. After an error it is not asked for ten times as long.
    """

    def __init__(self, store: ResultStore, patience_s: float = 2.0) -> None:
        self._store = store
        self._patience_s = patience_s
        self._asks_again_at = -math.inf

    async def run(
        self,
        engine: Engine,
        frame: Frame,
        *,
        metadata: Mapping[str, Any],
        request_id: str,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """As :meth:`graph.Engine.run`. The durations in a reused result are those of its run."""
        result, key = await self.run_or_find(
            engine, frame, metadata=metadata, request_id=request_id, timeout_s=timeout_s
        )
        await self.keep(key, result)
        return result

    async def run_or_find(
        self,
        engine: Engine,
        frame: Frame,
        *,
        metadata: Mapping[str, Any],
        request_id: str,
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], str | None]:
        """As :meth:`run`, without keeping the result: it comes with the key for :meth:`keep`, if it may be kept."""
        fingerprint = await engine.fingerprint()
        rules = (rule for step in engine.plan for rule in (step.condition, step.crops) if rule is not None)
        read = metadata if any(rule.reads_metadata for rule in rules) else {}
        key = content_key(frame.sha256, fingerprint, read)
        known = await self._ask(self._store.cached, key)
        if known is not None:
            image = {**known["image"], "uri": frame.uri}
            pipeline = {**known["pipeline"], "name": engine.plan.name}
            found = {**known, "id": request_id, "image": image, "pipeline": pipeline, "metadata": dict(metadata)}
            return found, None
        result = await engine.run(frame, metadata=metadata, request_id=request_id, timeout_s=timeout_s)
        # A result of two configurations has a fingerprint of its own, and is not reused; nor is one with a failure.
        is_whole = all(step["status"] in ("ok", "skipped") for step in result["steps"])
        is_one = result["pipeline"]["fingerprint"] == fingerprint == await engine.fingerprint()
        return result, key if is_whole and is_one else None

    async def keep(self, key: str | None, result: Mapping[str, Any]) -> None:
        """Keep a result of :meth:`run_or_find`, without what only its own request says."""
        if key is not None:
            bare = {**result, "id": "", "image": {**result["image"], "uri": None}, "metadata": {}}
            await self._ask(self._store.keep, key, bare)

    async def _ask(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T | None:
        """The answer of the store; ``None``: it does not answer."""
        if time.monotonic() < self._asks_again_at:
            return None
        try:
            async with asyncio.timeout(self._patience_s):
                return await call(*arguments)
        except ValueError as error:  # of this image alone: its object is damaged
            _log.warning("a kept result cannot be read: %s", error)
            return None
        except Exception as error:  # noqa: BLE001 - any reason why the store does not answer
            pause_s = 10 * self._patience_s
            self._asks_again_at = time.monotonic() + pause_s
            words = f"no answer within {self._patience_s:g} s" if isinstance(error, TimeoutError) else repr(error)
            _log.warning("results are not reused for %g s: %s", pause_s, words)
            return None
