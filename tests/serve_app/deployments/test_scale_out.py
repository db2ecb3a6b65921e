"""Nodes come and go with the load, with the node types and limits of ``cluster.yaml``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nodes import ElasticNodes, Load, elastic_nodes

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(400)]

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"
_IDLE_MINUTES = 0.2
_PIPELINE = {
    "name": "street",
    "pipeline": [
        {
            "name": "detect",
            "class": "toys.Sleeper",
            "params": {"seconds": 0.2},
            "serve": {
                "num_cpus": 0,
                "num_gpus": 1,
                "max_batch_size": 1,
                "autoscaling": {"min_replicas": 1, "max_replicas": 3, "downscale_delay_s": 10},
            },
        },
    ],
}


@pytest.fixture
def cluster() -> Iterator[ElasticNodes]:
    folder = Path("/tmp") / f"vg{time.time_ns() % 10**8}"  # HAProxy's socket wants a short path
    folder.mkdir()
    file = yaml.safe_load(CLUSTER.read_text())
    del file["docker"], file["file_mounts"]
    for node_type in file["available_node_types"].values():
        node_type["node_config"] = {}
    with elastic_nodes(folder, {**file, "idle_timeout_minutes": _IDLE_MINUTES}) as cluster:
        yield cluster


def test_nodes_come_with_the_load_and_go_when_they_are_idle(
    cluster: ElasticNodes, poll: Callable[..., Any], record_testsuite_property: Callable[[str, object], None]
) -> None:
    cluster.deploy(pipeline=_PIPELINE, gateway={"auth": "none"})
    [first] = cluster.workers()
    times = {}

    with Load(cluster.url, clients=8) as load:
        began = time.monotonic()
        nodes = poll(lambda: len(found := cluster.workers()) == 3 and found, 120)
        times["three nodes"] = time.monotonic() - began
        assert {resources["GPU"] for resources in nodes.values()} == {1}
        poll(lambda: len(load.answers) > 20 and _rate(load) > 10, 60)  # one replica answers 5 per second
        times["their replicas answer"] = time.monotonic() - began
        assert set(load.statuses()) == {200}

        killed = time.monotonic()
        victim = next(node for node in nodes if node != first)
        cluster.kill(victim)
        poll(lambda: len(found := cluster.workers()) == 3 and victim not in found, 120)
        times["one in place of a killed one"] = time.monotonic() - killed
        poll(lambda: load.statuses(time.monotonic() - 2)[200] > 20, 60)
        failed = sum(count for status, count in load.statuses(killed).items() if status != 200)
        assert failed <= load.clients

        ended = time.monotonic()
    poll(lambda: len(cluster.workers()) == 1, 120)
    times["idle nodes are gone"] = time.monotonic() - ended
    for what, seconds in times.items():
        record_testsuite_property(what, round(seconds, 1))


def _rate(load: Load) -> float:
    return load.statuses(time.monotonic() - 3)[200] / 3
