"""Steps that are loaded in this process: their threads, their batches, their calls."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar, cast

from ray import serve

from classifiers.backends import thread_count
from graph.engine import Carried, StepAnswer, StepError, StepInfo, StepRequest
from graph.pipeline_file import INGRESS
from graph.plan import Plan, PlannedStep
from graph.runtime import Prepared, StepRunner, load_classifier
from serve_app.deployments.admission import Admission
from serve_app.deployments.batch_gate import BatchGate
from serve_app.deployments.crashes import Crashes, InProgress, Turns
from serve_app.deployments.replica_telemetry import replica_name
from serve_app.refusals import Quarantined
from serve_app.telemetry.recording import BatchRecorder
from serve_app.telemetry.tracing import record_batch, step_span

__all__ = ["StepHost"]

# Work never counts as stuck before this time, however short the timeout: some runtimes compile a model for each new
# shape of a batch.
_LEAST_STUCK_S = 20.0

# A thread that feeds a GPU releases Python's interpreter lock in each of its calls. While another thread runs Python,
# it gets the lock back only after this time, 5 ms by default: 300 calls took 287 ms then, and 12 with this
# (benchmarks/gpu).
_GPU_SWITCH_INTERVAL_S = 0.0005

_Outcome = list[object] | StepError
_T = TypeVar("_T")


class StepHost:
    """The steps of one process.

    Decoding, cropping and the models run in threads, and the event loop is free to accept and answer calls. Each model
    is called by one thread, one batch at a time. Several steps in a process of one core share one thread: in threads of
    their own they would evict each other from the core's cache.

    A process that has the deployment of a step works on as many calls at once as its ``max_ongoing_requests`` says; the
    others wait without being decoded.

    Nothing is loaded before the first :meth:`reconfigure`.

    Args:
        plan: the pipeline.
        host: the step that has the deployment of this process, or ``INGRESS``.
        deadline_s: of a request. A batch of a model without ``timeout_ms`` that takes longer is stuck.
        crashes: which images are run alone, and which are quarantined; without it every image is run.
    """

    def __init__(self, plan: Plan, host: str, deadline_s: float = 30.0, crashes: Crashes | None = None) -> None:
        self._host = host
        self._crashes = crashes
        in_progress = None if crashes is None else crashes.in_progress
        self._turns = Turns() if in_progress is None else Turns(in_progress.alone)
        self._work = _Work(in_progress, deadline_s)
        self._names = frozenset(step.name for step in plan.hosted_by(host))
        self._steps: dict[str, _HostedStep] = {}
        self._admission = Admission(None)

    def __contains__(self, step: object) -> bool:
        return step in self._names

    async def reconfigure(self, plan: Plan) -> None:
        """Apply tunables: load the models and warm them up at the first call, later between two batches.

        Raises:
            SetupError: a model could not be loaded; the message names the step.
        """
        if self._host != INGRESS:  # the gateway and the workers count requests themselves
            self._admission.most = plan[self._host].serve.ongoing_requests
        if not self._steps:
            # In a thread: the event loop has to answer health checks meanwhile.
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
        return {step.name: _HostedStep(plan, step.name, one, self._work) for step in together}

    def describe(self) -> dict[str, StepInfo]:
        """The configuration of each step, by name."""
        return {name: step.info for name, step in self._steps.items()}

    async def call(
        self, step: str, request: StepRequest, *, alone: bool = False, since: float | None = None
    ) -> StepAnswer:
        """Answer one call, and those of the steps that are answered along with it.

        Args:
            step: which step.
            request: with what.
            alone: while no other call is in progress.
            since: when its caller made the call, by the event loop's clock; default: now.
        """
        since = asyncio.get_running_loop().time() if since is None else since
        crashes, image, came = self._crashes, request.sha256, time.time()
        async with self._admission(request.priority, since):
            if crashes is None:
                return await self._call(step, request, since)
            try:
                alone = crashes.is_suspect(self._host, image) or alone
            except Quarantined as error:
                return StepAnswer(self._steps[step].info, error=StepError(type(error).__name__, str(error), error))
            # the same image may have come several times, and once is enough
            async with self._turns(alone, lambda: not crashes.acquitted_since(self._host, image, came)):
                answer = await self._call(step, request, since)
                if alone and answer.error is None:
                    crashes.acquit(self._host, image)
            return answer

    async def _call(self, step: str, request: StepRequest, since: float) -> StepAnswer:
        answer, along = await self._steps[step].call(request, since)
        if not along:
            return answer
        carried = await asyncio.gather(*(self._carry(*call, since) for call in along.items()))
        crops = {name: images for name, images in answer.crops.items() if name not in along}
        return replace(answer, crops=crops, carried=dict(zip(along, carried, strict=True)))

    def check_health(self) -> None:
        """
        Raises:
            RuntimeError: a model or a decoder hangs; the message names the step.
        """
        self._work.check()

    async def _carry(self, step: str, request: StepRequest, since: float) -> Carried:
        started = time.perf_counter()
        with step_span(step, request, parent=request.traceparent) as traced:
            answer, _ = await self._steps[step].call(traced, since)  # of crops: nothing is answered along with it
        targets = tuple(target.index for target in request.targets or ())
        return Carried(targets, answer, round(1000 * (time.perf_counter() - started), 1))


class _Work:
    """The work of the threads of this process, and since when they are at it.

    Args:
        in_progress: where the images are recorded.
        deadline_s: of a request.
    """

    def __init__(self, in_progress: InProgress | None, deadline_s: float) -> None:
        self._in_progress = in_progress
        self._deadline_s = deadline_s
        self._limits: dict[str, float] = {}
        self._since: dict[int, tuple[str, float]] = {}

    def allow(self, step: PlannedStep) -> None:
        """Set the step's time limit: no caller waits longer, so work that takes longer counts as stuck."""
        self._limits[step.name] = max(_LEAST_STUCK_S, step.timeout_s or self._deadline_s)

    def run(self, step: str, calls: Sequence[StepRequest], work: Callable[..., _T], *args: Any) -> _T:
        """Do a step's work for these calls, in this thread."""
        self._since[threading.get_ident()] = step, time.monotonic()
        recorded = nullcontext() if self._in_progress is None else self._in_progress([call.sha256 for call in calls])
        try:
            with recorded:
                return work(*args)
        finally:
            del self._since[threading.get_ident()]

    def progress(self) -> None:
        """This thread's work makes progress: it does not hang."""
        if (doing := self._since.get(threading.get_ident())) is not None:
            self._since[threading.get_ident()] = doing[0], time.monotonic()

    def check(self) -> None:
        """
        Raises:
            RuntimeError: a thread is stuck; the message names the step.
        """
        now = time.monotonic()
        stuck = [step for step, since in tuple(self._since.values()) if now - since > self._limits[step]]
        if self._in_progress is not None:
            self._in_progress.hangs(bool(stuck))
        if stuck:
            step = stuck[0]
            raise RuntimeError(
                f"step '{step}' has been working on one batch for over {self._limits[step]:g} s: the replica is "
                "replaced; if the model needs that long, raise the step's timeout_ms"
            )


class _HostedStep:
    """One loaded step.

    Args:
        plan: the pipeline.
        name: the step's.
        thread: the one that it shares with other steps, if any.
        work: of this process.
    """

    def __init__(self, plan: Plan, name: str, thread: ThreadPoolExecutor | None, work: _Work) -> None:
        self._name = name
        self._work = work
        self._model_thread = thread or ThreadPoolExecutor(1, thread_name_prefix=f"model-{name}")
        self._pixel_threads = thread or ThreadPoolExecutor(2, thread_name_prefix=f"pixels-{name}")
        self._batches = BatchRecorder(plan[name])
        # In the model's own thread: some runtimes bind to the thread that loads them.
        self._runner = self._model_thread.submit(
            lambda: StepRunner(
                plan,
                name,
                load_classifier(plan[name]),
                work.progress,
                batch_done=self._batches,
                replica=replica_name(),
            )
        ).result()
        self._model_thread.submit(self._runner.warm_up).result()
        options = plan[name].serve
        self._gate = BatchGate(options.max_batch_size, options.batch_wait_ms / 1000)
        # Decorated here, not in the class: the decorator keeps one queue for all instances. And without a wait of its
        # own: the group that is admitted is the batch.
        self._batched = serve.batch(max_batch_size=options.max_batch_size, batch_wait_timeout_s=0.0)(self._infer)
        work.allow(plan[name])

    @property
    def info(self) -> StepInfo:
        return self._runner.info

    async def reconfigure(self, plan: Plan) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._model_thread, self._runner.reconfigure, plan, self._name)
        self._work.allow(plan[self._name])
        options = plan[self._name].serve
        if options.max_batch_size > self._gate.max_size:
            await loop.run_in_executor(self._model_thread, self._runner.warm_up)
        self._gate.max_size = self._batches.max_size = options.max_batch_size
        self._gate.wait_s = options.batch_wait_ms / 1000
        self._batched.set_max_batch_size(options.max_batch_size)  # type: ignore[attr-defined]

    async def call(self, request: StepRequest, since: float) -> tuple[StepAnswer, Mapping[str, StepRequest]]:
        """The answer, and the calls of the steps to be answered along with it."""
        if request.crops is None:
            prepared = await self._in_thread(self._pixel_threads, [request], self._runner.prepare, request)
        else:  # nothing to decode or to cut: switching threads would cost more
            prepared = self._runner.prepare(request)
        if isinstance(prepared, StepAnswer):
            return prepared, {}
        async with self._gate(len(prepared), request.priority, since):
            outcome = await cast("Callable[[Prepared], Awaitable[_Outcome]]", self._batched)(prepared)
        if request.cut_for:
            answer = await self._in_thread(self._pixel_threads, [request], self._runner.finish, prepared, outcome)
        else:
            answer = self._runner.finish(prepared, outcome)
        return answer, self._runner.calls_along(prepared, answer)

    async def _infer(self, batch: list[Prepared]) -> list[_Outcome]:
        calls, started_ns = [call.request for call in batch], time.time_ns()
        outcomes = await self._in_thread(self._model_thread, calls, self._runner.infer, batch)
        record_batch(self._name, batch, started_ns)
        return outcomes

    async def _in_thread(
        self, threads: ThreadPoolExecutor, calls: Sequence[StepRequest], work: Callable[..., _T], *args: Any
    ) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._work.run, self._name, calls, work, *args)


def _cap_gpu_memory(share: float) -> None:
    """Limit this process to its share of the GPU's memory: Ray's fractional GPUs are only bookkeeping."""
    if share >= 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
