"""Calls steps for the engine, in other deployments and in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from classifiers import SetupError
from graph.engine import StepAnswer, StepInfo, StepRequest
from graph.failures import Overloaded, StepUnavailable, Unreachable
from graph.plan import Plan
from serve_app.autoscaling import LoadInProgress, call_load
from serve_app.deployments.crashes import Crashes
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.step_groups import CallOutcome, StepCall, call_bytes
from serve_app.deployments.window import Limits, Window
from serve_app.ray_internals import CALL_BYTES, is_gone, replica_count
from serve_app.telemetry.tracing import step_span

__all__ = ["ServeBackend"]

# An accepted call on a replica that dies is not retried by Serve. Steps have no side effects, so a retry is safe. An
# image that crashes its replica gets two tries from :class:`Crashes`; the others in that replica may meet several such
# images.
_ATTEMPTS = 5
_RETRY_AFTER_S = 1

# A group is answered when its last call is. With more crops than these batches in it, calls wait too long for each
# other; with fewer, calls of many crops never travel together (benchmarks/groups).
_GROUP_BATCHES = 4

_LOOK_EVERY_S = 0.25
_ANSWER_S = 5.0
_ASSUMED_S = 2.0
_SAY_EVERY_S = 10.0
_AGREE_S = 600.0

_log = logging.getLogger(__name__)


class _Call(NamedTuple):
    """A call before it is sent; the times are those of the event loop's clock."""

    step: str
    request: StepRequest
    is_alone: bool
    since: float


class ServeBackend:
    """Steps behind deployment handles, and those in this process. Use it from one event loop.

    Calls of one deployment wait here, in a :class:`serve_app.deployments.window.Window`, not in Serve's router, and
    travel in groups.

    Args:
        plan: the pipeline, with the deployment of each step.
        handles: a handle to each step's deployment, by the name of the step that has it.
        here: the steps of this process.
        crop_budget_bytes: pixels that one answer may carry; the transport's message limit less room for the rest.
        crashes: which images are run alone, and which are quarantined.
    """

    def __init__(
        self,
        plan: Plan,
        handles: Mapping[str, DeploymentHandle[Any]],
        here: StepHost,
        crop_budget_bytes: int,
        crashes: Crashes,
    ) -> None:
        self._crashes = crashes
        self.crop_budget_bytes: int | None = crop_budget_bytes
        # By value: a message is an encoded image or small crops, and the object store costs more than it saves below
        # 1 MB. Pickled plainly: the messages are dataclasses, and cloudpickle takes several times as long for them.
        self._hosts = {
            name: handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")
            for name, handle in handles.items()
        }
        self._always_running = [name for name in self._hosts if not plan[name].serve.scales_to_zero]
        self._deployments = {step.name: step.host for step in plan}
        self._load = LoadInProgress()
        self._here = here
        self._infos: dict[str, StepInfo] = {}  # of the steps elsewhere
        self._under_way: dict[DeploymentResponse[Any], str] = {}  # groups, and their deployments
        self._watch: asyncio.Task[None] | None = None
        self._gone_until: dict[str, float] = {}  # deployments that were removed, and until when that is assumed
        self._windows: dict[str, Window[_Call, StepAnswer]] = {}
        self.reconfigure(plan)

    def reconfigure(self, plan: Plan) -> None:
        """Take the limits of the steps' deployments from the plan; calls in progress go on."""
        for name, handle in self._hosts.items():
            options = plan[name].serve
            limits = Limits(
                group_calls=options.max_batch_size,
                group_crops=_GROUP_BATCHES * options.max_batch_size,
                group_bytes=(self.crop_budget_bytes or 0) + CALL_BYTES,
                under_way=options.ongoing_requests,
                waiting=options.max_queued_requests,
            )
            if name in self._windows:
                self._windows[name].limits = limits
            else:
                self._windows[name] = Window(partial(self._send, name), limits, partial(replica_count, handle))
        self._scaling = {name: plan[name].serve.autoscaling for name in self._hosts}

    async def describe(self) -> Mapping[str, StepInfo]:
        """See :class:`graph.engine.engine.StepBackend`."""
        return {**self._infos, **self._here.describe()}

    async def ready(self) -> None:
        """See :class:`graph.engine.engine.StepBackend`; calls one replica of every deployment that must have one.

        Raises:
            StepUnavailable: one of them does not answer.
        """

        async def ask(step: str) -> None:
            try:
                await self._hosts[step].describe.remote()
            except (RayServeException, ActorDiedError, ActorUnavailableError) as error:
                raise _unavailable(step) from error

        await asyncio.gather(*map(ask, self._always_running))

    async def agree(self, plan: Plan) -> None:
        """Return once every replica of every step has the configuration that ``plan`` gives it.

        Steps without a replica, where that is allowed, are not called, which would start one.

        Raises:
            SetupError: they did not get it in time.
        """
        began = logged = time.monotonic()
        while differing := await self._differences(plan):
            found = "; ".join(differing)
            if time.monotonic() - began > _AGREE_S:
                raise SetupError(f"the steps' deployments are not those of this version of the pipeline: {found}")
            if time.monotonic() - logged > _SAY_EVERY_S:
                logged = time.monotonic()
                _log.warning("not ready: the steps are not those of this version of the pipeline yet: %s", found)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _differences(self, plan: Plan) -> list[str]:
        """How the steps' replicas differ from the plan, in words."""
        described = await asyncio.gather(*(self._describe_all(name) for name in self._hosts))
        differing = []
        for host, replicas in zip(self._hosts, described, strict=True):
            if replicas is None:
                differing.append(f"step '{host}' does not answer")
                continue
            for step in plan.hosted_by(host):
                infos = [infos.get(step.name) for infos in replicas]
                planned = plan.step_digest(step.name)
                if any(info is None or info.config != planned for info in infos):
                    found = ", ".join(sorted({"none" if info is None else info.config[:12] for info in infos}))
                    differing.append(f"step '{step.name}' is to have the configuration {planned[:12]} and has {found}")
                self._infos.update((step.name, info) for info in infos if info is not None)
        return differing

    async def _describe_all(self, host: str) -> list[dict[str, StepInfo]] | None:
        """What each replica of a deployment answers; ``None``: they do not answer."""
        try:
            return await self._hosts[host].broadcast("describe").results_async(timeout_s=_ANSWER_S)
        except DeploymentUnavailableError:  # it has no replica
            return None if host in self._always_running else []
        except (RayError, RayServeException, TimeoutError):
            return None

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """See :class:`graph.engine.engine.StepBackend`.

        Raises:
            Quarantined: the image has crashed a step's process twice.
        """
        with step_span(step, request) as traced:
            return await self._call(step, traced)

    async def _call(self, step: str, request: StepRequest) -> StepAnswer:
        if step in self._here:
            return await self._here.call(step, request)
        deployment = self._deployments[step]
        since = asyncio.get_running_loop().time()
        alone = self._crashes.is_suspect(deployment, request.sha256)
        with self._load.call(deployment, call_load(request, self._scaling[deployment])):
            for attempt in range(1, _ATTEMPTS + 1):  # pragma: no branch
                try:
                    answer = await self._windows[deployment](
                        _Call(step, request, alone, since),
                        crops=1 if request.targets is None else len(request.targets),
                        nbytes=call_bytes(request),
                        priority=request.priority,
                        since=since,
                        is_alone=alone,
                        is_retried=attempt > 1,
                    )
                    break
                except asyncio.QueueFull:
                    raise Overloaded(
                        f"step '{step}' is overloaded: its queue is full; try again",
                        step=step,
                        retry_after_s=_RETRY_AFTER_S,
                    ) from None
                except RayServeException as error:
                    raise _unavailable(step) from error
                except (ActorDiedError, ActorUnavailableError) as error:
                    if attempt == _ATTEMPTS:
                        raise Unreachable(
                            f"the process of step '{step}' died {attempt} times while it had this image; try again",
                            step=step,
                            retry_after_s=_RETRY_AFTER_S,
                        ) from error
                    alone = await self._crashes.after(error.actor_id, deployment, request.sha256)
        if alone and answer.error is None:
            self._crashes.acquit(deployment, request.sha256)
        self._infos[step] = answer.info
        self._infos.update((name, carried.answer.info) for name, carried in answer.carried.items())
        return answer

    async def _send(self, deployment: str, calls: Sequence[_Call]) -> tuple[Sequence[CallOutcome], int]:
        """Send a group to one of the deployment's replicas, which Serve chooses.

        Raises:
            RayServeException: the deployment was removed.
        """
        handle = self._hosts[deployment]
        if self._gone_until.get(deployment, 0.0) > time.monotonic() and replica_count(handle) == 0:
            raise RayServeException(f"the deployment '{deployment}' was removed")
        now = asyncio.get_running_loop().time()
        group = [_leaving(call, now) for call in calls]
        response = cast("DeploymentResponse[Any]", handle.remote(group, self._load.at(deployment)))
        self._under_way[response] = deployment
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._end_hopeless_groups())
        try:
            reply: tuple[Sequence[CallOutcome], int] = await response
            return reply
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        finally:
            del self._under_way[response]

    async def _end_hopeless_groups(self) -> None:
        """Cancel groups that wait for a deployment that was removed: in Serve they would wait forever."""
        while self._under_way:
            await asyncio.sleep(_LOOK_EVERY_S)
            for deployment in set(self._under_way.values()):
                handle = self._hosts[deployment]
                if replica_count(handle) == 0 and await is_gone(handle):
                    self._gone_until[deployment] = time.monotonic() + _ASSUMED_S
                    for response in [each for each, name in self._under_way.items() if name == deployment]:
                        response.cancel()  # type: ignore[no-untyped-call]


def _leaving(call: _Call, now: float) -> StepCall:
    """The call as it travels: clocks of two machines differ, so times are sent as durations."""
    expires_at = call.request.expires_at
    left_s = None if expires_at is None else max(0.0, expires_at - now)
    return StepCall(call.step, call.request, call.is_alone, now - call.since, left_s)


def _unavailable(step: str) -> StepUnavailable:
    return StepUnavailable(
        f"step '{step}' has no deployment that could answer: it was removed, or could not be started; try again",
        step=step,
        retry_after_s=_RETRY_AFTER_S,
    )
