"""Calls steps that are Serve deployments, for the engine."""

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

__all__ = ["ServeBackend"]

# An accepted call on a replica that dies is not retried by Serve. Steps change nothing outside themselves, so once
# more is safe.
_ATTEMPTS = 3
_RETRY_AFTER_S = 1


class ServeBackend:
    """Steps behind deployment handles. Use it from one event loop.

    Args:
        handles: a handle to each step's deployment, by the step's name.
        crop_budget_bytes: pixels that one answer may carry; the transport's message limit less room for the rest.
    """

    def __init__(self, handles: Mapping[str, DeploymentHandle[Any]], crop_budget_bytes: int) -> None:
        self.crop_budget_bytes: int | None = crop_budget_bytes
        # By value: what travels is an encoded image or small crops, and the object store costs more than it saves
        # below 1 MB.
        self._handles = {name: handle.options(_by_reference=False) for name, handle in handles.items()}
        self._infos: dict[str, StepInfo] = {}
        self._asking = asyncio.Lock()

    async def describe(self) -> Mapping[str, StepInfo]:
        """See :class:`graph.engine.StepBackend`; asks the steps once, and waits until they have loaded their models."""
        if len(self._infos) < len(self._handles):
            async with self._asking:
                if len(self._infos) < len(self._handles):
                    await self.ready()
        return self._infos

    async def ready(self) -> None:
        """See :class:`graph.engine.StepBackend`; asks every step now."""
        infos = await asyncio.gather(*(handle.describe.remote() for handle in self._handles.values()))
        self._infos = dict(zip(self._handles, infos, strict=True))

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """See :class:`graph.engine.StepBackend`."""
        for attempt in range(1, _ATTEMPTS + 1):  # pragma: no branch
            response = self._handles[step].remote(request)
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
            except (ActorDiedError, ActorUnavailableError):
                if attempt == _ATTEMPTS:
                    raise
        info = self._infos[step]
        if answer.digest != info.digest:  # its tunables have changed meanwhile
            self._infos = {**self._infos, step: replace(info, digest=answer.digest)}
        return answer
