"""Steps in this process: one thread per model, no cluster."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from graph.engine import StepAnswer, StepError, StepInfo, StepRequest
from graph.plan import Plan
from graph.runtime.batcher import Batcher
from graph.runtime.runner import Prepared, StepRunner, load_classifier

__all__ = ["LocalBackend"]


class LocalBackend:
    """Loads every model of a plan in this process. Images that wait for the same model are classified together.

    Args:
        plan: the pipeline.
        decoders: threads that decode and crop.

    Attributes:
        busy_since: when the running batch of each step began, by :func:`time.monotonic`; without idle steps.

    Raises:
        SetupError: a model could not be loaded; the message names the step.
    """

    crop_budget_bytes: int | None = None  # crops stay in this process

    def __init__(self, plan: Plan, decoders: int = 2) -> None:
        self.busy_since: dict[str, float] = {}
        self._runners = {
            step.name: StepRunner(plan, step.name, load_classifier(step), functools.partial(self._is_busy, step.name))
            for step in plan
        }
        self._infos: Mapping[str, StepInfo] = {name: runner.info for name, runner in self._runners.items()}
        self._batchers: dict[str, Batcher[Prepared, list[Any] | StepError]] = {
            step.name: Batcher(
                functools.partial(self._infer, step.name), step.serve.max_batch_size, f"step-{step.name}"
            )
            for step in plan
        }
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    async def describe(self) -> Mapping[str, StepInfo]:
        """See :class:`graph.engine.engine.StepBackend`."""
        return self._infos

    async def ready(self) -> None:
        """See :class:`graph.engine.engine.StepBackend`; the constructor has loaded everything."""

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """See :class:`graph.engine.engine.StepBackend`."""
        runner, loop = self._runners[step], asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._pool, runner.prepare, request)
        if isinstance(prepared, StepAnswer):
            return prepared
        outcome = await self._batchers[step].submit(prepared)
        return await loop.run_in_executor(self._pool, runner.finish, prepared, outcome)

    def _infer(self, step: str, batch: Sequence[Prepared]) -> list[list[Any] | StepError]:
        try:
            return self._runners[step].infer(batch)
        finally:
            self.busy_since.pop(step, None)

    def _is_busy(self, step: str) -> None:
        self.busy_since[step] = time.monotonic()

    def close(self) -> None:
        """End the threads after their running calls."""
        for batcher in self._batchers.values():
            batcher.close()
        self._pool.shutdown(cancel_futures=True)
