"""What Ray Serve is told about each deployment: replicas, queues, reserved resources."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from graph import Plan, PlannedStep
from graph.pipeline_file import INGRESS
from serve_app.autoscaling import entry_replicas, step_replicas, worker_replicas
from serve_app.config import GatewayConfig, IntakeConfig, read_gateway_config

__all__ = [
    "GATEWAY",
    "OPEN_GATEWAY",
    "WORKER",
    "deployment_options",
    "gateway_options",
    "step_options",
    "worker_options",
]

# Names of deployments; no step can have them.
GATEWAY = "gateway"
WORKER = "worker"

OPEN_GATEWAY = read_gateway_config({"auth": "none"})

_EVERY_DEPLOYMENT = {
    # A rolling update starts each new replica before it stops an old one, so that a step with one replica has no gap.
    "max_surge_percent": 100,
    # After three failed checks Serve replaces a replica: one whose model hangs within 15 s of its time limit, one whose
    # event loop is blocked, so that it does not answer, within 35 s.
    "health_check_period_s": 5,
    "health_check_timeout_s": 10,
}

# Serve's limits are so high that it never lets anything wait: the limits of the file are enforced here, the gateway's
# (GatewayConfig.max_ongoing_requests, max_queued_requests) once a body has arrived, those of a step where calls wait to
# travel together (serve_app.deployments.window).
_SERVES_LIMIT = 10_000


def deployment_options(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> dict[str, dict[str, Any]]:
    """The Serve options of all deployments by name, without ``user_config``: steps, gateway and, where there is an
    ``intake``, workers."""
    options = {name: step_options(plan, name) for name in plan.hosts}
    options[GATEWAY] = gateway_options(plan, gateway)
    if intake is not None:
        options[WORKER] = worker_options(plan, intake)
    return options


def step_options(plan: Plan, name: str) -> dict[str, Any]:
    """Options of a step's deployment, with the steps that share its process."""
    options = plan[name].serve
    return {
        "ray_actor_options": _reserved(plan.hosted_by(name)),
        "max_ongoing_requests": _SERVES_LIMIT,
        **_EVERY_DEPLOYMENT,
        **step_replicas(options.num_replicas, options.autoscaling, options.max_batch_size),
    }


def gateway_options(plan: Plan, config: GatewayConfig) -> dict[str, Any]:
    """Options of the gateway's deployment, with the steps that share its process."""
    steps = plan.hosted_by(INGRESS)
    target = max((step.serve.max_batch_size for step in steps), default=config.max_ongoing_requests // 2)
    return {
        "ray_actor_options": _reserved(steps, config.num_cpus),
        "max_ongoing_requests": _SERVES_LIMIT,
        "max_queued_requests": _SERVES_LIMIT,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        **_EVERY_DEPLOYMENT,
        **entry_replicas(config.num_replicas, config.autoscaling, target),
    }


def worker_options(plan: Plan, config: IntakeConfig) -> dict[str, Any]:
    """Options of the workers' deployment, with the steps that share the process of the gateway."""
    return {
        "ray_actor_options": _reserved(plan.hosted_by(INGRESS), config.num_cpus),
        **_EVERY_DEPLOYMENT,
        # when its time is over, a worker still waits for a receive, writes finished results and disconnects
        "graceful_shutdown_timeout_s": config.stop_s + 20.0,
        "graceful_shutdown_wait_loop_s": 0.1,  # it has no requests to wait for
        **worker_replicas(config.num_replicas, config.autoscaling, config.queue),
    }


def _reserved(steps: Sequence[PlannedStep], num_cpus: float = 0.0) -> dict[str, Any]:
    """The resources that one process with these steps reserves on its node: the sum, and ``num_cpus``."""
    options = [step.serve for step in steps]
    reserved: dict[str, Any] = {
        "num_cpus": round(num_cpus + sum(each.num_cpus for each in options), 4),  # Ray takes 4 places
        "num_gpus": round(sum(each.num_gpus for each in options), 4),
    }
    if memory_mb := sum(each.memory_mb or 0 for each in options):
        reserved["memory"] = memory_mb * 2**20
    resources: Counter[str] = Counter()
    for each in options:
        resources.update(each.resources)
    return {**reserved, "resources": dict(resources)} if resources else reserved
