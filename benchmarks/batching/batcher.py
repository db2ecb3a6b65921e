"""The batcher under test, with its callers beside it."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import mean, median

from ray import serve
from starlette.requests import Request

from graph.engine import Priority
from serve_app.deployments.batch_gate import BatchGate

__all__ = ["Batcher"]

_MODEL_S, _ITEM_S = 0.030, 0.001
_MAX_BATCH = 32
_APART_S = 0.010
_SEED = 7


@serve.deployment(max_ongoing_requests=2 * _MAX_BATCH)
class Batcher:
    """A model that takes 30 ms a call and 1 ms an item, in one thread, as a step's replica has it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._gate: BatchGate | None = None
        self._sizes: list[int] = []

    async def __call__(self, request: Request) -> dict[str, float]:
        """Measure what the request's JSON asks for."""
        return await self._measure(**await request.json())

    async def _measure(self, admission: bool, wait_s: float, callers: int, seconds: float) -> dict[str, float]:
        """So many callers in this process, each with one call under way nearly all the time."""
        self._gate = BatchGate(_MAX_BATCH) if admission else None
        self._infer.set_batch_wait_timeout_s(wait_s)
        self._sizes.clear()
        times: list[float] = []
        pick = random.Random(_SEED)
        end = (start := time.perf_counter()) + seconds

        async def call_again_and_again(number: int) -> None:
            while time.perf_counter() < end:
                # Real calls come from other processes and are decoded first. In lock-step they would fill any batch.
                await asyncio.sleep(pick.uniform(0, _APART_S))
                begun = time.perf_counter()
                await self._call(number)
                times.append(1000 * (time.perf_counter() - begun))

        await asyncio.gather(*(call_again_and_again(number) for number in range(callers)))
        return {
            "items_per_s": len(times) / (time.perf_counter() - start),
            "p50_ms": median(times),
            "mean_batch": mean(self._sizes),
        }

    async def _call(self, item: int) -> int:
        if self._gate is None:
            return await self._infer(item)
        async with self._gate(1, Priority.INTERACTIVE, time.monotonic()):
            return await self._infer(item)

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=0.0)
    async def _infer(self, items: list[int]) -> list[int]:
        self._sizes.append(len(items))
        await asyncio.get_running_loop().run_in_executor(self._thread, time.sleep, _MODEL_S + _ITEM_S * len(items))
        return items
