"""What an application reserves on the nodes, before it is deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graph import Plan
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments.options import deployment_options

__all__ = ["Demand", "Room", "demands", "first_fit"]


@dataclass(frozen=True)
class Demand:
    """What one replica of a deployment reserves, and how many replicas there may be."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int
    resources: Mapping[str, float]
    least: int
    most: int


@dataclass
class Room:
    """What is left on a node."""

    cpus: float
    gpus: float
    memory_bytes: float

    def take(self, demand: Demand) -> bool:
        """Reserve it, if there is room."""
        left = (self.cpus - demand.cpus, self.gpus - demand.gpus, self.memory_bytes - demand.memory_bytes)
        if min(left) < -1e-6:
            return False
        self.cpus, self.gpus, self.memory_bytes = left
        return True


def demands(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> list[Demand]:
    """What each deployment of the application reserves."""
    return [_demand(name, options) for name, options in deployment_options(plan, gateway, intake).items()]


def first_fit(replicas: Iterable[Demand], rooms: Iterable[Room]) -> list[Demand]:
    """Place each replica on the first node with room, the largest first, and give those without a place."""
    nodes = list(rooms)
    largest_first = sorted(replicas, key=lambda each: (each.gpus, each.memory_bytes, each.cpus), reverse=True)
    return [each for each in largest_first if not any(node.take(each) for node in nodes)]


def _demand(name: str, options: dict[str, Any]) -> Demand:
    reserved, scaling = options["ray_actor_options"], options.get("autoscaling_config", {})
    return Demand(
        name,
        cpus=reserved["num_cpus"],
        gpus=reserved["num_gpus"],
        memory_bytes=reserved.get("memory", 0),
        resources=reserved.get("resources", {}),
        least=options.get("num_replicas") or scaling.get("min_replicas", 1),
        most=options.get("num_replicas") or scaling["max_replicas"],
    )
