"""The ingress deployment: the HTTP application and the engine. It decodes images only for the steps that share its
process, and then in their threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from graph import Engine, Plan, load_plan
from graph.pipeline_file import INGRESS, merge
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments.backend import ServeBackend
from serve_app.deployments.crashes import crashes_of_this_replica
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.replica_logs import set_up_logs, stop_buffering_logs
from serve_app.deployments.replica_telemetry import replica_labels, start_telemetry, stop_telemetry
from serve_app.deployments.rollout import Rollout, awaited_hosts
from serve_app.http.application import make_app
from serve_app.http.job_desk import JobDesk
from serve_app.images import KeptImages, KeptPlaces, Sources, Uploads
from serve_app.queues import queue_from_url
from serve_app.ray_internals import crop_budget_bytes
from serve_app.results import ResultStore, Reuse
from serve_app.telemetry.recording import StepRecorder

__all__ = ["Gateway"]


@serve.ingress()
class Gateway:
    """Takes requests over HTTP and walks each image through the plan.

    Args:
        structure: the pipeline without its tunables.
        config: authentication, limits, and what is fetched.
        handles: a handle to each step's deployment, by the name of the step that has it.
        intake: where jobs go; without it there are none.
        workers: not called.
    """

    def __init__(
        self,
        structure: Mapping[str, Any],
        config: GatewayConfig,
        handles: dict[str, DeploymentHandle[Any]],
        intake: IntakeConfig | None = None,
        workers: DeploymentHandle[Any] | None = None,  # noqa: ARG002
    ) -> None:
        set_up_logs(**replica_labels())
        start_telemetry()
        self._structure = structure
        self._config = config
        self._intake = intake
        plan = self._plan_with({})
        crashes = crashes_of_this_replica(INGRESS)
        self._rollout = Rollout(structure, plan, INGRESS, awaited_hosts(plan, config.autoscaling))
        self._host = StepHost(plan, INGRESS, config.timeout_ms / 1000, crashes)
        self._backend = ServeBackend(plan, handles, self._host, crop_budget_bytes(), crashes)
        self._engine = Engine(plan, self._backend, observer=StepRecorder(plan))
        self._is_ready = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve sets the request id
        return make_app(lambda: self._engine, self._config, **self._jobs(), set_request_id=False)

    def _jobs(self) -> dict[str, Any]:
        intake = self._intake
        if intake is None:
            return {}
        store = ResultStore.from_uri(intake.results)
        limits, kept = self._engine.plan.config.limits, KeptPlaces(intake.images_uri, intake.results)
        uploads = Uploads.of(intake, limits.max_bytes)
        sources = Sources(intake.fetch, self._config.fetch, limits, self._config.fetch.concurrent, uploads, kept)
        return {
            "desk": JobDesk(queue_from_url(intake.queue), store, sources, uploads),
            "reuse": Reuse(store) if intake.reuse_results else None,
            "kept": kept,
            "kept_images": KeptImages.of(intake, uploads, store.objects),
        }

    async def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Apply tunables; requests in progress keep the engine that they began with.

        Serve also calls it before the replica is ready. In a rolling update the old gateway serves until then. This one
        waits for the steps of its own version, or requests would wait, or be answered by two versions.
        """
        plan = self._plan_with(tunables)
        async with self._rollout.loading():
            await self._host.reconfigure(plan)
        if not self._is_ready:
            await self._backend.agree(plan)
            self._is_ready = True
        self._backend.reconfigure(plan)
        self._engine = Engine(plan, self._backend, observer=StepRecorder(plan))

    def check_health(self) -> None:
        """Called by Serve; an exception makes it replace the replica."""
        self._host.check_health()

    def __del__(self) -> None:
        # Serve calls it before it ends the replica.
        stop_telemetry()
        stop_buffering_logs()

    def _plan_with(self, tunables: Mapping[str, Any]) -> Plan:
        return load_plan(merge(self._structure, tunables))
