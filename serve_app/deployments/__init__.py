"""Ray Serve deployments, and how they call each other."""

from serve_app.deployments.demands import Demand, Room, demands, first_fit
from serve_app.deployments.gateway import Gateway
from serve_app.deployments.options import GATEWAY, OPEN_GATEWAY, WORKER, gateway_options, step_options, worker_options
from serve_app.deployments.rollout import awaited_hosts
from serve_app.deployments.step import StepDeployment
from serve_app.deployments.worker import Worker

__all__ = [
    "GATEWAY",
    "OPEN_GATEWAY",
    "WORKER",
    "Demand",
    "Gateway",
    "Room",
    "StepDeployment",
    "Worker",
    "awaited_hosts",
    "demands",
    "first_fit",
    "gateway_options",
    "step_options",
    "worker_options",
]
