"""Answers an image that was seen before with its result: same bytes, same pipeline, same metadata as its rules read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from graph import Engine, Frame, Plan
from serve_app.results.objects import StoreUnavailable
from serve_app.results.store import ResultStore, content_key

__all__ = ["Reuse"]

_log = logging.getLogger(__name__)


class Reuse:
    """Runs an engine on what was not seen before. A store that is away costs time, not results.

    Args:
        store: where results are kept under their content.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store

    async def run(
        self,
        engine: Engine,
        frame: Frame,
        *,
        metadata: Mapping[str, Any],
        request_id: str,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """As :meth:`graph.Engine.run`. ``steps`` of a result that is used again say how long they took then."""
        fingerprint = await engine.fingerprint()
        key = content_key(frame.sha256, fingerprint, metadata if _reads_metadata(engine.plan) else {})
        known = None
        try:
            known = await self._store.cached(key)
        except StoreUnavailable as error:
            _log.warning("results cannot be looked up: %s", error)
        if known is not None:
            image = {**known["image"], "uri": frame.uri}
            pipeline = {**known["pipeline"], "name": engine.plan.name}
            return {**known, "id": request_id, "image": image, "pipeline": pipeline, "metadata": dict(metadata)}
        result = await engine.run(frame, metadata=metadata, request_id=request_id, timeout_s=timeout_s)
        # A result that two configurations had a part in has a fingerprint of its own: it is nobody's.
        if result["pipeline"]["fingerprint"] == fingerprint == await engine.fingerprint() and _is_whole(result):
            with suppress(StoreUnavailable):
                await self._store.keep(key, result)
        return result


def _reads_metadata(plan: Plan) -> bool:
    rules = [rule for step in plan for rule in (step.condition, step.crops) if rule is not None]
    return any(rule.reads_metadata for rule in rules)


def _is_whole(result: Mapping[str, Any]) -> bool:
    """Nothing in it failed: next time it might not."""
    return all(step["status"] in ("ok", "skipped") for step in result["steps"])
