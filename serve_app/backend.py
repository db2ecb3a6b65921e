"""Calls steps for the engine, in other deployments and in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from graph.errors import Overloaded
from graph.messages import StepAnswer, StepInfo, StepRequest
from graph.plan import Plan
from serve_app.autoscaling import CropsUnderWay
from serve_app.crashes import Crashes
from serve_app.hosting import StepHost

__all__ = ["ServeBackend"]

# An accepted call on a replica that dies is not retried by Serve. Steps change nothing outside themselves, so once
# more is safe. Of an image that crashes its replica :class:`Crashes` allows two tries; others that were there with it
# may be in the way of several such images.
_ATTEMPTS = 5
_RETRY_AFTER_S = 1


class ServeBackend:
    """Steps behind deployment handles, and those in this process. Use it from one event loop.

    Args:
        plan: says in whose deployment each step runs.
        handles: a handle to each step's deployment, by the name of the step that has it.
        here: the steps of this process.
        crop_budget_bytes: pixels that one answer may carry; the transport's message limit less room for the rest.
        crashes: which images are run alone, and which not at all.
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
        # By value: what travels is an encoded image or small crops, and the object store costs more than it saves
        # below 1 MB.
        # And pickled plainly: the messages are dataclasses, and cloudpickle takes several times as long for them.
        hosts = {
            name: handle.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")
            for name, handle in handles.items()
        }
        self._hosts = tuple(hosts.values())
        self._handles = {step.name: hosts[step.host] for step in plan if step.name not in here}
        self._deployments = {step.name: step.host for step in plan}
        self._under_way = CropsUnderWay()
        self._here = here
        self._infos: dict[str, StepInfo] = {}  # of the steps elsewhere
        self._asking = asyncio.Lock()

    async def describe(self) -> Mapping[str, StepInfo]:
        """See :class:`graph.engine.StepBackend`; asks the steps once, and waits until they have loaded their models."""
        if len(self._infos) < len(self._handles):
            async with self._asking:
                if len(self._infos) < len(self._handles):
                    await self.ready()
        return {**self._infos, **self._here.describe()}

    async def ready(self) -> None:
        """See :class:`graph.engine.StepBackend`; asks every deployment now."""
        described = await asyncio.gather(*(host.describe.remote() for host in self._hosts))
        self._infos = {name: info for infos in described for name, info in infos.items()}

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """See :class:`graph.engine.StepBackend`.

        Raises:
            Quarantined: the image has crashed a step's process twice.
        """
        if step in self._here:
            return await self._here.call(step, request)
        host = self._deployments[step]
        alone = self._crashes.is_suspect(host, request.sha256)
        with self._under_way.call(host, request) as load:
            for attempt in range(1, _ATTEMPTS + 1):  # pragma: no branch
                response = self._handles[step].remote(step, request, load, alone)
                try:
                    answer: StepAnswer = await response
                    break
                except asyncio.CancelledError:
                    response.cancel()  # type: ignore[no-untyped-call]
                    raise
                except BackPressureError as error:
                    raise Overloaded(
                        f"step '{step}' has as many calls waiting as it may have; try again",
                        step=step,
                        retry_after_s=_RETRY_AFTER_S,
                    ) from error
                except (ActorDiedError, ActorUnavailableError) as error:
                    if attempt == _ATTEMPTS:
                        raise
                    alone = await self._crashes.after(error.actor_id, host, request.sha256)
        if alone and answer.error is None:
            self._crashes.acquit(host, request.sha256)
        self._note(step, answer)
        for name, carried in answer.carried.items():
            self._note(name, carried.answer)
        return answer

    def _note(self, step: str, answer: StepAnswer) -> None:
        """Remember a step's digest, where its tunables have changed meanwhile."""
        info = self._infos[step]
        if answer.digest != info.digest:
            self._infos = {**self._infos, step: replace(info, digest=answer.digest)}
