"""Steps of the pipeline as a Serve deployment: a thin shell around :class:`serve_app.deployments.hosting.StepHost`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from graph import load_plan
from graph.engine import Priority, StepInfo
from graph.pipeline_file import merge
from serve_app.autoscaling import CallerLoad, ReplicaLoad, call_load
from serve_app.deployments.crashes import crashes_of_this_replica
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.replica_logs import set_up_logs, stop_buffering_logs
from serve_app.deployments.replica_telemetry import replica_labels, start_telemetry, stop_telemetry
from serve_app.deployments.rollout import Rollout
from serve_app.deployments.step_groups import CallOutcome, StepCall, answer_group

__all__ = ["StepDeployment"]


class StepDeployment:
    """Loads the model of a step, and those of the steps that share its process, and answers groups of their calls.

    The models are loaded and warmed up in the first ``reconfigure``, which Serve calls before the replica is ready.

    Args:
        structure: the pipeline without its tunables, see :func:`graph.pipeline_file.structure`.
        step: which of its steps has this deployment.
        awaited: the hosts that a new version waits for, see :func:`serve_app.deployments.rollout.awaited_hosts`.
        deadline_s: of a request.
    """

    def __init__(self, structure: Mapping[str, Any], step: str, awaited: Sequence[str], deadline_s: float) -> None:
        set_up_logs(**replica_labels())
        start_telemetry()
        self._structure = structure
        self._load = ReplicaLoad()
        self._groups: Counter[Priority] = Counter()
        plan = load_plan(merge(structure, {}))
        self._host = StepHost(plan, step, deadline_s, crashes_of_this_replica(step))
        self._rollout = Rollout(structure, plan, step, awaited)
        self._autoscaling = plan[step].serve.autoscaling

    async def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Apply tunables; later ones between two batches, and without loading the model again."""
        plan = load_plan(merge(self._structure, tunables))
        async with self._rollout.loading():
            await self._host.reconfigure(plan)

    async def describe(self) -> dict[str, StepInfo]:
        """The configuration of each step, by name."""
        return self._host.describe()

    async def __call__(self, calls: Sequence[StepCall], load: CallerLoad) -> tuple[list[CallOutcome], int]:
        """Answer a group of calls; ``load``: of its caller.

        Returns:
            The outcome of each call, and how many other groups of this priority or a higher one are in this replica.
        """
        priority = min(call.request.priority for call in calls)
        self._groups[priority] += 1
        size = sum(call_load(call.request, self._autoscaling) for call in calls)
        try:
            with self._load.calls(load, size):
                outcomes = await answer_group(self._host, calls)
            return outcomes, sum(self._groups[each] for each in Priority if each <= priority) - 1
        finally:
            self._groups[priority] -= 1

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, where the number of replicas follows the load."""
        return self._load.stats()

    def check_health(self) -> None:
        """Called by Serve; an exception makes it replace the replica."""
        self._host.check_health()

    def __del__(self) -> None:
        # Serve calls it before it ends the replica.
        stop_telemetry()
        stop_buffering_logs()
