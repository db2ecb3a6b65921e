"""What a running cluster says about itself and its nodes."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx

from classifiers import SetupError
from serve_app.deployments import Room
from serve_app.doctor.findings import Finding, error
from serve_app.doctor.node_facts import NodeFacts, node_facts
from serve_app.ray_internals import application_states, bootstrap_address, free_resources, http_options

__all__ = ["ClusterFacts", "cluster_facts", "connected", "on_each"]

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5.0
_TASK_TIMEOUT_S = 60.0
_CLOCK_SAMPLES = 3


@dataclass(frozen=True)
class ClusterFacts:
    """A running cluster.

    Attributes:
        node_ids: id of each node by its name.
        nodes: those that answered.
        silent: findings about those that did not.
        rooms: what each node has in all, by its name.
        free: what is not reserved.
        resources: names of the custom resources of all nodes.
        http_host: address that Serve's endpoint binds; ``None``: Serve is not running.
        applications: their states by their names.
        dashboard: its address; ``""``: there is none.
        dashboard_is_open: it answers without a token.
    """

    node_ids: Mapping[str, str]
    nodes: Sequence[NodeFacts]
    silent: Sequence[Finding]
    rooms: Mapping[str, Room]
    free: Mapping[str, Room]
    resources: frozenset[str]
    http_host: str | None
    applications: Mapping[str, str]
    dashboard: str
    dashboard_is_open: bool


@contextmanager
def connected(address: str) -> Iterator[str]:
    """A connection to a cluster; gives the address of its dashboard.

    Raises:
        SetupError: no cluster answers there.
    """
    import ray

    try:
        head = bootstrap_address(address)
        host, _, port = head.rpartition(":")
        # ray.init() would try for many minutes
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        context: Any = ray.init(head, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as failure:
        reason = str(failure).strip().splitlines()[0]
        raise SetupError(
            f"no Ray cluster answers at {address}: {reason}\n"
            "fix: run this on a node of the cluster, with its version of Ray, and RAY_AUTH_MODE=token where it uses one"
        ) from failure
    try:
        yield str(context.dashboard_url or "")
    finally:
        ray.shutdown()


def cluster_facts(dashboard: str, pipeline: dict[str, Any] | str | None) -> ClusterFacts:
    """The facts of the cluster that this process is connected to.

    Args:
        dashboard: address of the dashboard, for example ``127.0.0.1:8265``.
        pipeline: whose models are looked for.
    """
    import ray

    found = sorted(ray.nodes(), key=lambda node: str(node["NodeManagerAddress"]))  # type: ignore[no-untyped-call]
    alive = {node["NodeID"]: node for node in found if node["Alive"]}
    resources = {str(node["NodeManagerAddress"]): node["Resources"] for node in alive.values()}
    node_ids = {str(node["NodeManagerAddress"]): node_id for node_id, node in alive.items()}
    answers, silent = on_each(node_ids, node_facts, pipeline)
    nodes = [
        replace(
            facts,
            name=name,
            runs_replicas=bool(resources[name].get("CPU")),
            clock_offset_s=_clock_offset_s(node_ids[name]),
        )
        for name, facts in answers.items()
    ]
    try:
        host, applications = str(http_options().host), application_states()
    except ValueError:
        host, applications = None, {}
    free = free_resources()
    return ClusterFacts(
        node_ids=node_ids,
        nodes=nodes,
        silent=silent,
        rooms={name: _room(each) for name, each in resources.items()},
        free={name: _room(free.get(node_id, {})) for name, node_id in node_ids.items()},
        resources=frozenset(name for each in resources.values() for name in each),
        http_host=host,
        applications=applications,
        dashboard=dashboard,
        dashboard_is_open=bool(dashboard) and _answers_without_token(dashboard),
    )


def on_each(
    node_ids: Mapping[str, str], function: Callable[..., T], *arguments: Any
) -> tuple[dict[str, T], list[Finding]]:
    """Call a function in a process on each node.

    Returns:
        What it returned, by the node's name; and findings about nodes where it did not.
    """
    import ray

    calls = {name: _on(node_id, function).remote(*arguments) for name, node_id in node_ids.items()}
    answers: dict[str, T] = {}
    silent: list[Finding] = []
    for name, call in calls.items():
        try:
            answers[name] = ray.get(call, timeout=_TASK_TIMEOUT_S)
        except (ray.exceptions.RayError, ImportError) as failure:
            reason = str(failure).strip().splitlines()[-1]
            fix = "see that the node is up and has the same version of visiongraph"
            silent.append(error("nodes", f"{name} could not be asked: {reason}", fix))
    return answers, silent


def _on(node_id: str, function: Callable[..., Any]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def _clock() -> float:
    return time.time()


def _clock_offset_s(node_id: str) -> float:
    """How far the node's clock is ahead of this one's, from the quickest of some answers."""
    import ray

    samples = []
    for _ in range(_CLOCK_SAMPLES):
        before = time.time()
        there: float = ray.get(_on(node_id, _clock).remote(), timeout=_TASK_TIMEOUT_S)
        after = time.time()
        samples.append((after - before, there - (before + after) / 2))
    return min(samples)[1]


def _room(resources: Mapping[str, float]) -> Room:
    return Room(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0))


def _answers_without_token(dashboard: str) -> bool:
    try:
        return httpx.get(f"http://{dashboard}/api/cluster_status", timeout=10).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
