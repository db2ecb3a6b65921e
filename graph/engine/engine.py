"""Walks the plan for one image: each step starts when its own inputs are there, and ends ok, skipped, failed or
timed out."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from classifiers import InputError
from graph.conditions import Budget, RuleError
from graph.engine.deadline import deadline, expires_at
from graph.engine.frame import Frame
from graph.engine.messages import (
    Carried,
    CropSpec,
    Priority,
    StepAnswer,
    StepInfo,
    StepRequest,
    Target,
    loaded_digest,
)
from graph.engine.observing import Decisions, Status, StepObserver, StepOutcome
from graph.engine.selection import detections_for, picks
from graph.failures import Overloaded, StepFailed, StepUnavailable
from graph.plan import Plan, PlannedStep

__all__ = ["Engine", "StepBackend"]


class StepBackend(Protocol):
    """Where steps run. Cancelling a call must reach the work behind it."""

    crop_budget_bytes: int | None
    """Pixels that one answer may carry back; ``None``: no limit."""

    async def describe(self) -> Mapping[str, StepInfo]:
        """What the steps said of themselves last, by name; a step that was never loaded is not in it. Asked once an
        image, so it must be cheap."""

    async def ready(self) -> None:
        """Return once every step answers, but those that are allowed to have no replica while they are idle."""

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """Run the step.

        Raises:
            Overloaded: it has no room, or cannot be reached: the request fails, whatever ``on_error`` says.
            Exception: anything else is the failure of this step on this image.
        """


_OPERATIONS_AT_ONCE = 5_000
"""Operations of rules after which the event loop may run other tasks; half a millisecond or so."""

_NEVER_LOADED = "?"  # no hash of weights

_WORDS: dict[Status, str] = {"skipped": "was skipped", "failed": "failed", "timed_out": "timed out"}


class Engine:
    """Runs a plan on a backend. One engine serves many images at once; it holds nothing of any of them.

    Args:
        plan: the pipeline.
        backend: where its steps run.
        observer: told how each step ends on each image.
        priority: of its images, where they wait with others.
    """

    def __init__(
        self,
        plan: Plan,
        backend: StepBackend,
        *,
        observer: StepObserver | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        self.plan = plan
        self._backend = backend
        self._observer = observer
        self._priority = priority

    async def fingerprint(self) -> str:
        """Identity of the plan with the weights that are loaded: structure, rules, parameters, code versions.

        A result has it where every step answered with the plan's own configuration. Of a step that was never loaded
        the weights are not known; the fingerprint is another one once it is.
        """
        infos = await self._backend.describe()
        return _fingerprint(self.plan, {step.name: _planned_digest(self.plan, step.name, infos) for step in self.plan})

    async def ready(self) -> None:
        """Return once every step answers; it may take until their models are loaded. See :class:`StepBackend`."""
        await self._backend.ready()

    async def run(
        self,
        frame: Frame,
        *,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Run every step that the rules ask for on one image.

        Args:
            frame: the image.
            metadata: what the client said about it; rules see it as ``image['metadata']``.
            request_id: becomes the result's ``id``; a new one without it.
            timeout_s: deadline of the whole; past it the work behind it is cancelled.

        Returns:
            The result: ``id``, ``image``, ``pipeline``, ``context``, ``steps``, ``metadata``.

        Raises:
            InputError: the image is at fault.
            StepFailed: a step with ``on_error: fail`` failed or timed out.
            DeadlineExceeded: ``timeout_s`` passed.
            Overloaded: a step has no room or cannot be reached, or failed while the pipeline is being changed.
        """
        identity = request_id or uuid.uuid4().hex
        walk = _Walk(
            self.plan, self._backend, self._observer, frame, dict(metadata or {}), identity, self._priority
        )
        async with deadline(timeout_s):
            return await walk.run()


class _Walk:
    """One image's way through the plan."""

    def __init__(
        self,
        plan: Plan,
        backend: StepBackend,
        observer: StepObserver | None,
        frame: Frame,
        metadata: dict[str, Any],
        request_id: str,
        priority: Priority,
    ) -> None:
        self._plan = plan
        self._backend = backend
        self._observer = observer
        self._frame = frame
        self._metadata = metadata
        self._request_id = request_id
        self._priority = priority
        self._image = {"width": frame.width, "height": frame.height, "metadata": metadata}
        self._tasks: dict[str, asyncio.Task[StepOutcome]] = {}
        self._infos: Mapping[str, StepInfo] = {}
        self._is_mixed = False  # a step answered with another configuration than the plan's

    async def run(self) -> dict[str, Any]:
        self._infos = await self._backend.describe()
        try:
            async with asyncio.TaskGroup() as group:
                # All tasks exist before the first one runs, so each finds those that it waits for.
                for step in self._plan:
                    self._tasks[step.name] = group.create_task(self._step(step), name=step.name)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first one cancelled the others
        outcomes = {name: task.result() for name, task in self._tasks.items()}
        digests = {
            name: o.answer.info.digest if o.answer else _planned_digest(self._plan, name, self._infos)
            for name, o in outcomes.items()
        }
        return {
            "id": self._request_id,
            "image": {
                "uri": self._frame.uri,
                "sha256": self._frame.sha256,
                "width": self._frame.width,
                "height": self._frame.height,
            },
            "pipeline": {"name": self._plan.name, "fingerprint": _fingerprint(self._plan, digests)},
            "context": {n: o.answer.result for n, o in outcomes.items() if o.status == "ok" and o.answer is not None},
            "steps": [outcome.as_dict(name) for name, outcome in outcomes.items()],
            "metadata": self._metadata,
        }

    async def _step(self, step: PlannedStep) -> StepOutcome:
        context: dict[str, Any] = {}
        inputs: dict[str, StepAnswer] = {}
        for name in step.depends_on:
            outcome = await self._tasks[name]
            if outcome.status != "ok" or outcome.answer is None:
                skipped = StepOutcome("skipped", reason=f"depends on {name}, which {_WORDS[outcome.status]}")
                self._report(step, skipped, Decisions())
                return skipped
            inputs[name] = outcome.answer
            context[name] = outcome.answer.result
        decisions = Decisions()
        outcome = await self._decide_and_call(step, context, inputs, decisions)
        if outcome.answer is not None and outcome.answer.info.config != self._plan.step_digest(step.name):
            self._is_mixed = True
        if outcome.status == "failed" and self._is_mixed:
            # Rules and classes of two versions may not fit each other: that is not the image's or the step's failure.
            raise StepUnavailable(
                f"step '{step.name}' failed while the pipeline is being changed; try again", step=step.name
            )
        self._report(step, outcome, decisions)
        if step.on_error == "fail" and outcome.error is not None:
            raise StepFailed(f"step '{step.name}' {_WORDS[outcome.status]}: {outcome.error['detail']}", step=step.name)
        return outcome

    def _report(self, step: PlannedStep, outcome: StepOutcome, decisions: Decisions) -> None:
        if self._observer is not None:
            self._observer(step, outcome, decisions)

    async def _decide_and_call(
        self, step: PlannedStep, context: dict[str, Any], inputs: Mapping[str, StepAnswer], decisions: Decisions
    ) -> StepOutcome:
        targets: tuple[Target, ...] | None = None
        started = time.perf_counter()
        try:
            budget = Budget(step.rule_operations)
            if step.condition is not None:
                decisions.condition = step.condition(context=context, image=self._image, budget=budget)
                if not decisions.condition:
                    return StepOutcome("skipped", reason=f"condition is false: {step.condition.source}")
            if step.crops is not None:
                targets = await self._picked(step, context, budget, decisions)
                if not targets:
                    return StepOutcome("skipped", reason=f"no detection matches: {step.crops.source}")
        except RuleError as error:
            decisions.failed = "condition" if step.condition and decisions.condition is None else "crops"
            return _failed(started, error)
        if targets is not None and (carried := _carried(step, inputs, targets)) is not None:
            return _ended(carried.answer, carried.duration_ms)
        request = self._request(step, context, inputs, targets)
        try:
            async with asyncio.timeout(step.timeout_s) as limit:
                answer = await self._backend.call(step.name, request)
                if answer.wants_frame:
                    answer = await self._backend.call(step.name, replace(request, crops=None, frame=self._frame))
        except TimeoutError as error:
            if not limit.expired():
                return _failed(started, error)
            detail = f"no answer within {round((step.timeout_s or 0) * 1000)} ms"
            return StepOutcome("timed_out", _since(started), error={"type": "StepTimeout", "detail": detail})
        except (InputError, Overloaded):
            raise
        except Exception as error:  # noqa: BLE001 - the step's failure, whatever it is
            return _failed(started, error)
        return _ended(answer, _since(started))

    async def _picked(
        self, step: PlannedStep, context: dict[str, Any], budget: Budget, decisions: Decisions
    ) -> tuple[Target, ...]:
        found: list[Target] = []
        decisions.picked = 0
        next_pause = budget.spent + _OPERATIONS_AT_ONCE
        for target in picks(step, context, self._image, detections_for(step, context), budget):
            if target is None:
                decisions.rejected += 1
            else:
                decisions.picked += 1
                found.append(target)
            if budget.spent > next_pause:
                await asyncio.sleep(0)
                next_pause = budget.spent + _OPERATIONS_AT_ONCE
        return tuple(found)

    def _request(
        self,
        step: PlannedStep,
        context: dict[str, Any],
        inputs: Mapping[str, StepAnswer],
        targets: tuple[Target, ...] | None,
    ) -> StepRequest:
        crops = crop = None
        if targets is not None:
            cut = next((answer.crops[step.name] for answer in inputs.values() if step.name in answer.crops), None)
            if cut is not None and all(target.index in cut for target in targets):
                crops = tuple(cut[target.index] for target in targets)
                crop = self._infos[step.name].crop
        cut_for: dict[str, CropSpec] = {name: self._infos[name].crop for name in step.cuts if name in self._infos}
        return StepRequest(
            image=self._image,
            context=context,
            targets=targets,
            crops=crops,
            crop=crop,
            frame=self._frame if crops is None else None,
            cut_for=cut_for,
            crop_budget_bytes=self._backend.crop_budget_bytes,
            request_id=self._request_id,
            sha256=self._frame.sha256,
            priority=self._priority,
            expires_at=expires_at(step.timeout_s),
        )


def _carried(step: PlannedStep, inputs: Mapping[str, StepAnswer], targets: Sequence[Target]) -> Carried | None:
    """The step's answer, where it came along with that of the one it depends on, and is about the same detections:
    while rules change in place, replicas may decide by others for a moment."""
    found = next((answer.carried[step.name] for answer in inputs.values() if step.name in answer.carried), None)
    if found is None or found.answer.wants_frame or found.targets != tuple(target.index for target in targets):
        return None
    return found


def _ended(answer: StepAnswer, duration_ms: float) -> StepOutcome:
    """
    Raises:
        InputError: the image is at fault.
    """
    if answer.error is None:
        return StepOutcome("ok", duration_ms, answer=answer)
    if answer.error.input_error is not None:
        raise answer.error.input_error
    error_fields = {"type": answer.error.type, "detail": answer.error.detail}
    return StepOutcome("failed", duration_ms, error=error_fields, answer=answer)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


def _failed(started: float, error: Exception) -> StepOutcome:
    return StepOutcome("failed", _since(started), error={"type": type(error).__name__, "detail": str(error)})


def _planned_digest(plan: Plan, step: str, infos: Mapping[str, StepInfo]) -> str:
    """The digest of a step's answers if it is configured as the plan says."""
    return loaded_digest(plan.step_digest(step), infos[step].weights if step in infos else _NEVER_LOADED)


def _fingerprint(plan: Plan, digests: Mapping[str, str]) -> str:
    text = ":".join([plan.structure_digest, *(f"{step.name}={digests[step.name]}" for step in plan)])
    return hashlib.sha256(text.encode()).hexdigest()
