"""Runs the plan for one image: each step starts as soon as its inputs are available, and ends ok, skipped, failed or
timed out."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from classifiers import InputError
from graph.conditions import Budget, RuleError
from graph.engine.deadline import deadline, expires_at
from graph.engine.frame import Frame
from graph.engine.messages import Carried, Priority, StepAnswer, StepInfo, StepRequest, Target, loaded_digest
from graph.engine.observing import Decisions, Status, StepObserver, StepOutcome
from graph.engine.selection import detections_for, picks
from graph.failures import Overloaded, StepFailed, StepUnavailable
from graph.plan import Plan, PlannedStep

__all__ = ["Engine", "StepBackend"]


class StepBackend(Protocol):
    """Where steps run. Cancelling a call must cancel its work."""

    crop_budget_bytes: int | None
    """Limit on the crops that one answer returns; ``None``: no limit."""

    async def describe(self) -> Mapping[str, StepInfo]:
        """The last known configuration of each step, by name; a step that was never loaded is missing. Called once per
        image, so it must be cheap."""

    async def ready(self) -> None:
        """Return once every step answers, except those that may have no replica while they are idle."""

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """Run the step.

        Raises:
            Overloaded: its queue is full, or it cannot be reached: the request fails regardless of ``on_error``.
            Exception: anything else is a failure of this step on this image.
        """


_OPERATIONS_AT_ONCE = 5_000
"""Operations of rules after which other tasks of the event loop may run; about half a millisecond."""

_NEVER_LOADED = "?"  # no hash of weights

_WORDS: dict[Status, str] = {"skipped": "was skipped", "failed": "failed", "timed_out": "timed out"}


class Engine:
    """Runs a plan on a backend. One engine serves many images at once and keeps no state of any of them.

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
        """Identity of the plan with the loaded weights: structure, rules, parameters, code versions.

        A result has it if every step answered with the plan's own configuration. The weights of a step that was never
        loaded are unknown; the fingerprint changes when it is loaded.
        """
        infos = await self._backend.describe()
        return _fingerprint(self.plan, {step.name: _planned_digest(self.plan, step.name, infos) for step in self.plan})

    async def ready(self) -> None:
        """Return once every step answers, see :class:`StepBackend`."""
        await self._backend.ready()

    async def run(
        self,
        frame: Frame,
        *,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Run every step that the rules select on one image.

        Args:
            frame: the image.
            metadata: what the client sent with it; rules see it as ``image['metadata']``.
            request_id: becomes the result's ``id``; default: a new one.
            timeout_s: deadline of the request; after it, all its work is cancelled.

        Returns:
            The result: ``id``, ``image``, ``pipeline``, ``context``, ``steps``, ``metadata``.

        Raises:
            InputError: the image is at fault.
            StepFailed: a step with ``on_error: fail`` failed or timed out.
            DeadlineExceeded: ``timeout_s`` passed.
            Overloaded: a step's queue is full, it cannot be reached, or it failed while the pipeline is being changed.
        """
        image = {"width": frame.width, "height": frame.height, "metadata": dict(metadata or {})}
        identity = request_id or uuid.uuid4().hex
        walk = _Walk(self.plan, self._backend, self._observer, frame, image, identity, self._priority)
        async with deadline(timeout_s):
            return await walk.run()


@dataclass(slots=True)
class _Walk:
    """One image's run through the plan. ``is_mixed``: a step answered with another configuration than the plan's."""

    plan: Plan
    backend: StepBackend
    observer: StepObserver | None
    frame: Frame
    image: dict[str, Any]
    request_id: str
    priority: Priority
    tasks: dict[str, asyncio.Task[StepOutcome]] = field(default_factory=dict)
    infos: Mapping[str, StepInfo] = field(default_factory=dict)
    is_mixed: bool = False

    async def run(self) -> dict[str, Any]:
        self.infos = await self.backend.describe()
        try:
            async with asyncio.TaskGroup() as group:
                # All tasks exist before the first one runs, so each finds those that it awaits.
                for step in self.plan:
                    self.tasks[step.name] = group.create_task(self._step(step), name=step.name)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first one cancelled the others
        outcomes = {name: task.result() for name, task in self.tasks.items()}
        digests = {
            name: o.answer.info.digest if o.answer else _planned_digest(self.plan, name, self.infos)
            for name, o in outcomes.items()
        }
        return {
            "id": self.request_id,
            "image": {key: getattr(self.frame, key) for key in ("uri", "sha256", "width", "height")},
            "pipeline": {"name": self.plan.name, "fingerprint": _fingerprint(self.plan, digests)},
            "context": {n: o.answer.result for n, o in outcomes.items() if o.status == "ok" and o.answer is not None},
            "steps": [outcome.as_dict(name) for name, outcome in outcomes.items()],
            "metadata": self.image["metadata"],
        }

    async def _step(self, step: PlannedStep) -> StepOutcome:
        inputs: dict[str, StepAnswer] = {}
        for name in step.depends_on:
            outcome = await self.tasks[name]
            if outcome.status != "ok" or outcome.answer is None:
                skipped = StepOutcome("skipped", reason=f"depends on {name}, which {_WORDS[outcome.status]}")
                self._report(step, skipped, Decisions())
                return skipped
            inputs[name] = outcome.answer
        decisions = Decisions()
        outcome = await self._decide_and_call(step, inputs, decisions)
        if outcome.answer is not None and outcome.answer.info.config != self.plan.step_digest(step.name):
            self.is_mixed = True
        if outcome.status == "failed" and self.is_mixed:
            # Rules and classes of two versions may not fit each other. Neither the image nor the step is at fault.
            message = f"step '{step.name}' failed while the pipeline is being changed; try again"
            raise StepUnavailable(message, step=step.name)
        self._report(step, outcome, decisions)
        if step.on_error == "fail" and outcome.error is not None:
            raise StepFailed(f"step '{step.name}' {_WORDS[outcome.status]}: {outcome.error['detail']}", step=step.name)
        return outcome

    def _report(self, step: PlannedStep, outcome: StepOutcome, decisions: Decisions) -> None:
        if self.observer is not None:
            self.observer(step, outcome, decisions)

    async def _decide_and_call(
        self, step: PlannedStep, inputs: Mapping[str, StepAnswer], decisions: Decisions
    ) -> StepOutcome:
        context = {name: answer.result for name, answer in inputs.items()}
        targets: tuple[Target, ...] | None = None
        started = time.perf_counter()
        try:
            budget = Budget(step.rule_operations)
            if step.condition is not None:
                decisions.condition = step.condition(context=context, image=self.image, budget=budget)
                if not decisions.condition:
                    return StepOutcome("skipped", reason=f"condition is false: {step.condition.source}")
            if step.crops is not None:
                detections = detections_for(step, context)
                targets = await _picked(picks(step.crops, context, self.image, detections, budget), budget, decisions)
                if not targets:
                    return StepOutcome("skipped", reason=f"no detection matches: {step.crops.source}")
        except RuleError as error:
            decisions.failed = "condition" if step.condition and decisions.condition is None else "crops"
            return _failed(started, error)
        if targets is not None and (carried := _carried(step, inputs, targets)) is not None:
            return _ended(carried.answer, carried.duration_ms)
        request = self._request(step, inputs, targets)
        try:
            async with asyncio.timeout(step.timeout_s) as limit:
                answer = await self.backend.call(step.name, request)
                if answer.wants_frame:
                    answer = await self.backend.call(step.name, replace(request, crops=None, frame=self.frame))
        except TimeoutError as error:
            if not limit.expired():
                return _failed(started, error)
            detail = f"no answer within {round((step.timeout_s or 0) * 1000)} ms"
            return StepOutcome("timed_out", _since(started), error={"type": "StepTimeout", "detail": detail})
        except (InputError, Overloaded):
            raise
        except Exception as error:  # noqa: BLE001 - any error is a failure of the step
            return _failed(started, error)
        return _ended(answer, _since(started))

    def _request(
        self, step: PlannedStep, inputs: Mapping[str, StepAnswer], targets: tuple[Target, ...] | None
    ) -> StepRequest:
        crops = crop = None
        if targets is not None:
            cut = next((answer.crops[step.name] for answer in inputs.values() if step.name in answer.crops), None)
            if cut is not None and all(target.index in cut for target in targets):
                crops = tuple(cut[target.index] for target in targets)
                crop = self.infos[step.name].crop
        return StepRequest(
            image=self.image,
            context={name: answer.result for name, answer in inputs.items()},
            targets=targets,
            crops=crops,
            crop=crop,
            frame=self.frame if crops is None else None,
            cut_for={name: self.infos[name].crop for name in step.cuts if name in self.infos},
            crop_budget_bytes=self.backend.crop_budget_bytes,
            request_id=self.request_id,
            sha256=self.frame.sha256,
            priority=self.priority,
            expires_at=expires_at(step.timeout_s),
        )


async def _picked(decided: Iterator[Target | None], budget: Budget, decisions: Decisions) -> tuple[Target, ...]:
    found: list[Target] = []
    decisions.picked = 0
    next_pause = budget.spent + _OPERATIONS_AT_ONCE
    for target in decided:
        if target is None:
            decisions.rejected += 1
        else:
            decisions.picked += 1
            found.append(target)
        if budget.spent > next_pause:
            await asyncio.sleep(0)
            next_pause = budget.spent + _OPERATIONS_AT_ONCE
    return tuple(found)


def _carried(step: PlannedStep, inputs: Mapping[str, StepAnswer], targets: Sequence[Target]) -> Carried | None:
    """The step's answer, if it came with that of its dependency and is about the same detections: while rules change in
    place, replicas may briefly decide by different ones."""
    found = next((answer.carried[step.name] for answer in inputs.values() if step.name in answer.carried), None)
    if found is None or found.answer.wants_frame or found.targets != tuple(target.index for target in targets):
        return None
    return found


def _ended(answer: StepAnswer, duration_ms: float) -> StepOutcome:
    error = answer.error
    if error is None:
        return StepOutcome("ok", duration_ms, answer=answer)
    if error.input_error is not None:
        raise error.input_error  # the image is at fault
    return StepOutcome("failed", duration_ms, error={"type": error.type, "detail": error.detail}, answer=answer)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


def _failed(started: float, error: Exception) -> StepOutcome:
    return StepOutcome("failed", _since(started), error={"type": type(error).__name__, "detail": str(error)})


def _planned_digest(plan: Plan, step: str, infos: Mapping[str, StepInfo]) -> str:
    """The digest of a step's answers if it has the plan's configuration."""
    return loaded_digest(plan.step_digest(step), infos[step].weights if step in infos else _NEVER_LOADED)


def _fingerprint(plan: Plan, digests: Mapping[str, str]) -> str:
    text = ":".join([plan.structure_digest, *(f"{step.name}={digests[step.name]}" for step in plan)])
    return hashlib.sha256(text.encode()).hexdigest()
