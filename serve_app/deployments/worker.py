"""The workers' deployment: a consumer of the queue, and the engine. It takes no requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from graph import Engine, Plan, load_plan
from graph.engine import Priority
from graph.pipeline_file import INGRESS, merge
from serve_app.autoscaling import worker_stats
from serve_app.config import FetchConfig, IntakeConfig
from serve_app.deployments.backend import ServeBackend
from serve_app.deployments.crashes import crashes_of_this_replica
from serve_app.deployments.hosting import StepHost
from serve_app.deployments.replica_logs import set_up_logs, stop_buffering_logs
from serve_app.deployments.replica_telemetry import replica_labels, start_telemetry, stop_telemetry
from serve_app.images import KeptImages, KeptPlaces, Sources, Uploads
from serve_app.intake import Consumer, Housekeeping, JobRunner, Pace, Retrier
from serve_app.queues import queue_from_url
from serve_app.queues.urls import with_prefetch
from serve_app.ray_internals import crop_budget_bytes
from serve_app.results import Compactor, ResultStore
from serve_app.telemetry.metrics import WORKERS_MAX
from serve_app.telemetry.recording import StepRecorder

__all__ = ["Worker", "in_flight"]


class Worker:
    """Consumes the queue and runs each image through the plan.

    Args:
        structure: the pipeline without its tunables.
        config: the queue, the results, limits.
        clients: what the gateway fetches for its keys.
        handles: a handle to each step's deployment, by the name of the step that has it.
        deadline_s: of a request to the gateway.
    """

    def __init__(
        self,
        structure: Mapping[str, Any],
        config: IntakeConfig,
        clients: FetchConfig,
        handles: dict[str, DeploymentHandle[Any]],
        deadline_s: float,
    ) -> None:
        set_up_logs(**replica_labels())
        start_telemetry()
        self._structure = structure
        self._config = config
        self._clients = clients
        plan = self._plan_with({})
        crashes = crashes_of_this_replica(INGRESS)
        self._host = StepHost(plan, INGRESS, deadline_s, crashes)
        self._backend = ServeBackend(plan, handles, self._host, crop_budget_bytes(), crashes)
        self._engine = Engine(plan, self._backend, observer=StepRecorder(plan), priority=Priority.QUEUE)
        self._store = ResultStore.from_uri(config.results)
        self._consumer: Consumer | None = None
        self._uploads = Uploads.of(config, plan.config.limits.max_bytes)
        self._compactor = Compactor(
            Housekeeping(self._store.objects, self._uploads, config).run,
            config.compact_every_s,
            lambda: serve.get_replica_context().rank.rank == 0,
        )

    async def reconfigure(self, tunables: dict[str, Any]) -> None:
        """Apply tunables; images in progress keep the engine that they began with. At first it starts the consumer."""
        plan = self._plan_with(tunables)
        await self._host.reconfigure(plan)
        if self._consumer is None:
            await self._backend.agree(plan)
        self._backend.reconfigure(plan)
        self._engine = Engine(plan, self._backend, observer=StepRecorder(plan), priority=Priority.QUEUE)
        if self._consumer is None:
            self._consumer = self._make_consumer(plan)
            self._consumer.start()
            self._compactor.start()

    def _make_consumer(self, plan: Plan) -> Consumer:
        config, room = self._config, in_flight(plan, self._config)
        limits = plan.config.limits
        retrier = Retrier()
        runner = JobRunner(
            lambda: self._engine,  # another one after new tunables
            self._store,
            Sources(
                config.fetch,
                self._clients,
                limits,
                room,
                self._uploads,
                KeptPlaces(config.images_uri, config.results),
            ),
            retrier,
            timeout_s=config.timeout_s,
            max_attempts=config.max_attempts,
            reuse_results=config.reuse_results,
            kept_images=KeptImages.of(config, self._uploads, self._store.objects),
        )
        pace = Pace(
            in_flight=room,
            retry_after_s=config.retry_after_s,
            stop_s=config.stop_s,
            stuck_after_s=300 + config.timeout_s,
        )
        queue = queue_from_url(with_prefetch(config.queue, 2 * room))
        WORKERS_MAX.labels(queue.name).set(config.most_replicas)
        return Consumer(queue, self._store, runner, retrier, pace)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve; see :func:`serve_app.autoscaling.worker_stats`."""
        if self._consumer is None:
            return worker_stats(None, rate=0.0, in_hand=0, room=0)
        return self._consumer.stats()

    def check_health(self) -> None:
        """Called by Serve; an exception makes it replace the replica."""
        self._host.check_health()
        stuck = None if self._consumer is None else self._consumer.stuck()
        for reason in (stuck, self._compactor.failure()):
            if reason is not None:
                raise RuntimeError(reason)

    async def __del__(self) -> None:
        # Serve awaits it before it ends the replica.
        stop_telemetry()
        stop_buffering_logs()
        self._compactor.stop()
        if self._consumer is not None:
            await self._consumer.stop()
            await self._store.close()

    def _plan_with(self, tunables: Mapping[str, Any]) -> Plan:
        return load_plan(merge(self._structure, tunables))


def in_flight(plan: Plan, config: IntakeConfig) -> int:
    """Concurrent images of one worker: twice its share of the capacity of the first steps, so that the next images are
    fetched meanwhile."""
    if config.in_flight is not None:
        return config.in_flight
    taken = 0
    for name in plan.roots:
        options = plan[plan[name].host].serve if plan[name].host != INGRESS else plan[name].serve
        replicas = options.autoscaling.max_replicas if options.autoscaling else options.num_replicas or 1
        taken = max(taken, options.ongoing_requests * replicas)
    return max(8, 2 * taken // config.most_replicas)
