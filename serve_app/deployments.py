"""One step of the pipeline as a Serve deployment: a thin shell around ``graph.runner.StepRunner``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from graph.config import merge
from graph.messages import StepAnswer, StepError, StepInfo, StepRequest
from graph.plan import Plan
from graph.runner import Prepared, StepRunner, load_classifier
from serve_app.admission import Admission

__all__ = ["StepDeployment"]

# A batch that has been in the model for longer than this will not come back: Serve replaces the replica.
_STUCK_AFTER_S = 300.0


class StepDeployment:
    """Loads one step's model and answers its calls, in batches.

    Decoding, cropping and the model run in threads of their own, so that the event loop is free to accept and
    answer. The model
    is only ever called by one thread, one batch at a time.

    Args:
        structure: the pipeline without its tunables, see :func:`graph.config.structure`.
        step: which of its steps this is.
    """

    def __init__(self, structure: Mapping[str, Any], step: str) -> None:
        self._structure = structure
        self._name = step
        plan = Plan.from_config(merge(structure, {}))
        _cap_gpu_memory(plan[step].serve.num_gpus)
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{step}")
        self._pixel_threads = ThreadPoolExecutor(2, thread_name_prefix=f"pixels-{step}")
        # In the model's own thread: some runtimes bind to the thread that loads them.
        self._runner = self._model_thread.submit(lambda: StepRunner(plan, step, load_classifier(plan[step]))).result()
        self._model_thread.submit(self._runner.warm_up).result()
        options = plan[step].serve
        self._admission = Admission(options.max_batch_size, options.batch_wait_ms / 1000)
        self._batch_started: float | None = None

    async def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Take new tunables; between two batches, and without loading the model again."""
        plan = Plan.from_config(merge(self._structure, tunables))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._model_thread, self._runner.reconfigure, plan, self._name)
        options = plan[self._name].serve
        self._admission.max_size = options.max_batch_size
        self._admission.wait_s = options.batch_wait_ms / 1000
        self._infer.set_max_batch_size(options.max_batch_size)  # type: ignore[attr-defined]

    async def describe(self) -> StepInfo:
        """What the step says of itself."""
        return self._runner.info

    async def __call__(self, request: StepRequest) -> StepAnswer:
        """Answer one call."""
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._pixel_threads, self._runner.prepare, request)
        if isinstance(prepared, StepAnswer):
            return prepared
        async with self._admission(len(prepared)):
            outcome = await self._infer(prepared)
        return await loop.run_in_executor(self._pixel_threads, self._runner.finish, prepared, outcome)

    # No wait of its own: the group that the gate lets through is the batch.
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.0)
    async def _infer(self, batch: list[Prepared]) -> list[list[Any] | StepError]:
        self._batch_started = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._model_thread, self._runner.infer, batch)
        finally:
            self._batch_started = None

    def check_health(self) -> None:
        """Called by Serve; an exception makes it replace the replica."""
        started = self._batch_started
        if started is not None and time.monotonic() - started > _STUCK_AFTER_S:
            raise RuntimeError(f"step '{self._name}': a batch has been in the model for over {_STUCK_AFTER_S:.0f} s")


def _cap_gpu_memory(share: float) -> None:
    """Hold this process to its share of the GPU's memory, which Ray's fractional GPUs do not: they only count."""
    if not 0 < share < 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
