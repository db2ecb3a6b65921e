"""Steps of the pipeline as a Serve deployment: a thin shell around :class:`serve_app.hosting.StepHost`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graph.config import merge
from graph.messages import StepAnswer, StepInfo, StepRequest
from graph.plan import Plan
from serve_app.autoscaling import CallerLoad, Heard
from serve_app.crashes import crashes_of_this_replica
from serve_app.hosting import StepHost
from serve_app.replica_logs import set_up_logs, stop_buffering_logs

__all__ = ["StepDeployment"]


class StepDeployment:
    """Loads a step's model, and those of the steps that share its process, and answers their calls.

    Args:
        structure: the pipeline without its tunables, see :func:`graph.config.structure`.
        step: which of its steps has this deployment.
        deadline_s: of a request.
    """

    def __init__(self, structure: Mapping[str, Any], step: str, deadline_s: float) -> None:
        set_up_logs()
        self._structure = structure
        self._heard = Heard()
        crashes = crashes_of_this_replica(step)
        self._host = StepHost(Plan.from_config(merge(structure, {})), step, deadline_s, crashes)

    async def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Take new tunables; between two batches, and without loading the model again."""
        await self._host.reconfigure(Plan.from_config(merge(self._structure, tunables)))

    async def describe(self) -> dict[str, StepInfo]:
        """What the steps say of themselves, by name."""
        return self._host.describe()

    async def __call__(self, step: str, request: StepRequest, load: CallerLoad, alone: bool) -> StepAnswer:
        """Answer one call of one of the steps; ``load`` is what its caller has under way here. ``alone``: while no
        other call is under way."""
        with self._heard.call(load, request):
            return await self._host.call(step, request, alone=alone)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, where the number of replicas follows the load."""
        return self._heard.stats()

    def check_health(self) -> None:
        """Called by Serve; an exception makes it replace the replica."""
        self._host.check_health()

    def __del__(self) -> None:
        # Serve calls it before it ends the replica.
        stop_buffering_logs()
