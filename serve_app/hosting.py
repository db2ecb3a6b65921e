"""Steps that are loaded in this process: their threads, their batches, and how they are called."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

from ray import serve

from classifiers.threads import thread_count
from graph.messages import Carried, StepAnswer, StepError, StepInfo, StepRequest
from graph.plan import Plan
from graph.runner import Prepared, StepRunner, load_classifier
from serve_app.admission import Admission

__all__ = ["StepHost"]

# A batch that has been in the model for longer than this will not come back: Serve replaces the replica.
_STUCK_AFTER_S = 300.0

# A thread that feeds a GPU gives up Python's interpreter at each of its calls, and where another thread runs Python it
# gets it back only after this time, 5 ms by default: 300 calls took 287 ms then, and 12 with this (benchmarks/gpu).
_GPU_SWITCH_INTERVAL_S = 0.0005

_Outcome = list[object] | StepError


class StepHost:
    """The steps of one process.

    Decoding, cropping and the models run in other threads than the event loop, which is free to accept and answer. Each
    model is only ever called by one thread, one batch at a time. Several steps in a process of one core take turns in
    one thread: in threads of their own they would push each other out of the core's cache.

    Nothing is loaded before the first :meth:`reconfigure`.

    Args:
        plan: the pipeline.
        host: whose process this is: the step that has the deployment, or ``INGRESS``.
    """

    def __init__(self, plan: Plan, host: str) -> None:
        self._host = host
        self._names = frozenset(step.name for step in plan.hosted_by(host))
        self._steps: dict[str, _HostedStep] = {}

    def __contains__(self, step: object) -> bool:
        return step in self._names

    async def reconfigure(self, plan: Plan) -> None:
        """Take new tunables. The first ones load the models and warm them up; later ones come between two batches.

        Raises:
            SetupError: a model could not be loaded; the message names the step.
        """
        if not self._steps:
            # In a thread: the event loop has to answer meanwhile whether this replica is alive.
            self._steps = await asyncio.to_thread(self._load, plan)
            return
        for step in self._steps.values():
            await step.reconfigure(plan)

    def _load(self, plan: Plan) -> dict[str, _HostedStep]:
        together = plan.hosted_by(self._host)
        gpus = sum(step.serve.num_gpus for step in together)
        if gpus:
            _cap_gpu_memory(gpus)
            sys.setswitchinterval(_GPU_SWITCH_INTERVAL_S)
        take_turns = len(together) > 1 and not gpus and thread_count() == 1
        one = ThreadPoolExecutor(1, thread_name_prefix="steps") if take_turns else None
        return {step.name: _HostedStep(plan, step.name, one) for step in together}

    def describe(self) -> dict[str, StepInfo]:
        """What the steps say of themselves, by name."""
        return {name: step.info for name, step in self._steps.items()}

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """Answer one call, and those of the steps that are answered along with it."""
        answer, along = await self._steps[step].call(request)
        if not along:
            return answer
        carried = await asyncio.gather(*(self._carry(*call) for call in along.items()))
        crops = {name: images for name, images in answer.crops.items() if name not in along}
        return replace(answer, crops=crops, carried=dict(zip(along, carried, strict=True)))

    def check_health(self) -> None:
        """
        Raises:
            RuntimeError: a model hangs; the message names the step.
        """
        for name, step in self._steps.items():
            if step.is_stuck:
                raise RuntimeError(f"step '{name}': a batch has been in the model for over {_STUCK_AFTER_S:.0f} s")

    async def _carry(self, step: str, request: StepRequest) -> Carried:
        started = time.perf_counter()
        answer, _ = await self._steps[step].call(
            request
        )  # it looks at crops: nothing hangs on it that could come along
        targets = tuple(target.index for target in request.targets or ())
        return Carried(targets, answer, round(1000 * (time.perf_counter() - started), 1))


class _HostedStep:
    """One loaded step; ``thread``: the one that it shares with others."""

    def __init__(self, plan: Plan, name: str, thread: ThreadPoolExecutor | None) -> None:
        self._name = name
        self._model_thread = thread or ThreadPoolExecutor(1, thread_name_prefix=f"model-{name}")
        self._pixel_threads = thread or ThreadPoolExecutor(2, thread_name_prefix=f"pixels-{name}")
        # In the model's own thread: some runtimes bind to the thread that loads them.
        self._runner = self._model_thread.submit(lambda: StepRunner(plan, name, load_classifier(plan[name]))).result()
        self._model_thread.submit(self._runner.warm_up).result()
        options = plan[name].serve
        self._admission = Admission(options.max_batch_size, options.batch_wait_ms / 1000)
        # Decorated here, not in the class: the decorator keeps one queue for all instances. And no wait of its own: the
        # group that the gate lets through is the batch.
        self._batched = serve.batch(max_batch_size=options.max_batch_size, batch_wait_timeout_s=0.0)(self._infer)
        self._batch_started: float | None = None

    @property
    def info(self) -> StepInfo:
        return self._runner.info

    @property
    def is_stuck(self) -> bool:
        started = self._batch_started
        return started is not None and time.monotonic() - started > _STUCK_AFTER_S

    async def reconfigure(self, plan: Plan) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._model_thread, self._runner.reconfigure, plan, self._name)
        options = plan[self._name].serve
        if options.max_batch_size > self._admission.max_size:
            await loop.run_in_executor(self._model_thread, self._runner.warm_up)
        self._admission.max_size = options.max_batch_size
        self._admission.wait_s = options.batch_wait_ms / 1000
        self._batched.set_max_batch_size(options.max_batch_size)  # type: ignore[attr-defined]

    async def call(self, request: StepRequest) -> tuple[StepAnswer, Mapping[str, StepRequest]]:
        """The answer, and the calls of the steps that are to be answered along with it."""
        loop = asyncio.get_running_loop()
        if request.crops is None:
            prepared = await loop.run_in_executor(self._pixel_threads, self._runner.prepare, request)
        else:  # nothing to decode or to cut: a thread would cost more
            prepared = self._runner.prepare(request)
        if isinstance(prepared, StepAnswer):
            return prepared, {}
        async with self._admission(len(prepared)):
            outcome = await cast("Callable[[Prepared], Awaitable[_Outcome]]", self._batched)(prepared)
        if request.cut_for:
            answer = await loop.run_in_executor(self._pixel_threads, self._runner.finish, prepared, outcome)
        else:
            answer = self._runner.finish(prepared, outcome)
        return answer, self._runner.calls_along(prepared, answer)

    async def _infer(self, batch: list[Prepared]) -> list[_Outcome]:
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, self._run, batch)

    def _run(self, batch: list[Prepared]) -> list[_Outcome]:
        self._batch_started = time.monotonic()
        try:
            return self._runner.infer(batch)
        finally:
            self._batch_started = None


def _cap_gpu_memory(share: float) -> None:
    """Hold this process to its share of the GPU's memory, which Ray's fractional GPUs do not: they only count."""
    if share >= 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
