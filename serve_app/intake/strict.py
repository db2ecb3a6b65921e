"""Engines that tell a step that failed from one that could not be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from classifiers import InputError
from graph import Engine, Overloaded, Plan, StepBackend
from graph.messages import StepAnswer, StepInfo, StepRequest

__all__ = ["Unreachable", "engine_by_attempt"]


class Unreachable(Overloaded):
    """A step did not answer: its replica died, or there is none."""


class _Strict:
    """A backend whose steps fail only by themselves."""

    def __init__(self, backend: StepBackend) -> None:
        self._backend = backend
        self.crop_budget_bytes = backend.crop_budget_bytes

    async def describe(self) -> Mapping[str, StepInfo]:
        """See :class:`graph.engine.StepBackend`."""
        return await self._backend.describe()

    async def ready(self) -> None:
        """See :class:`graph.engine.StepBackend`."""
        await self._backend.ready()

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        """See :class:`graph.engine.StepBackend`."""
        try:
            return await self._backend.call(step, request)
        except (InputError, Overloaded, TimeoutError):
            raise
        except Exception as error:
            raise Unreachable(f"step '{step}' cannot be reached: {type(error).__name__}", step=step) from error


def engine_by_attempt(plan: Plan, backend: StepBackend) -> Callable[[bool], Engine]:
    """The engine for an image, by whether this is its last attempt: then a step that cannot be reached has failed, as
    it has for a client that waits; before it is a reason to try again (:class:`Unreachable`)."""
    engines = {False: Engine(plan, _Strict(backend)), True: Engine(plan, backend)}
    return engines.__getitem__
