"""A sound cluster, and the finding for each fault that is planted in what it says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from graph import load_plan
from serve_app.config import read_intake_config
from serve_app.deployments import Room
from serve_app.doctor.cluster_checks import check_cluster, check_placement
from serve_app.doctor.cluster_facts import ClusterFacts
from serve_app.doctor.findings import Finding
from serve_app.doctor.node_checks import check_nodes
from serve_app.doctor.node_facts import node_facts
from serve_app.local import FAST_ENVIRONMENT

PLAN = load_plan(
    {
        "name": "street",
        "pipeline": [
            {"name": "detect", "class": "toys.Blobs", "serve": {"num_gpus": 0.5, "num_replicas": 2}},
            {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
        ],
    }
)
INTAKE = read_intake_config({"queue": "sqs://photos?region=eu-west-1", "results": "s3://bucket/results"})
HERE, THERE = "10.0.0.1", "10.0.0.2"


@pytest.fixture(scope="module")
def sound() -> ClusterFacts:
    """Two nodes like this machine, set up as they should be."""
    facts = replace(
        node_facts(),
        environment={**FAST_ENVIRONMENT, "RAY_AUTH_MODE": "token"},
        haproxy=True,
        models={"yolo": "aaaa"},
    )
    return ClusterFacts(
        node_ids={HERE: "1", THERE: "2"},
        nodes=[replace(facts, name=HERE), replace(facts, name=THERE)],
        silent=[],
        rooms={HERE: Room(4, 0, 16e9), THERE: Room(4, 1, 16e9)},
        free={HERE: Room(2, 0, 8e9), THERE: Room(4, 1, 16e9)},
        resources=frozenset({"CPU", "GPU", "memory"}),
        http_host="0.0.0.0",
        applications={},
        dashboard=f"{HERE}:8265",
        dashboard_is_open=False,
    )


def findings(facts: ClusterFacts, intake: Any = INTAKE) -> list[Finding]:
    return [
        *check_cluster(facts, intake),
        *check_nodes(facts.nodes),
        *check_placement(facts, PLAN, None, intake),
    ]


def on_one(facts: ClusterFacts, **changes: Any) -> ClusterFacts:
    """The cluster with another second node."""
    first, second = facts.nodes
    return replace(facts, nodes=[first, replace(second, **changes)])


def without(environment: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != key}


FAULTS: dict[str, tuple[Callable[[ClusterFacts], ClusterFacts], str]] = {
    "another Python": (lambda sound: on_one(sound, python="3.12.1"), "error versions Python differs: "),
    "another package": (
        lambda sound: on_one(sound, packages={**sound.nodes[1].packages, "torch": "2.1"}),
        "error versions torch differs: ",
    ),
    "a package is missing": (
        lambda sound: on_one(sound, packages=without(sound.nodes[1].packages, "openvino")),
        f"error versions openvino differs: .*not installed on {THERE}",
    ),
    "other code": (lambda sound: on_one(sound, code="0" * 64), "error versions the code of visiongraph differs"),
    "another environment": (
        lambda sound: on_one(sound, environment=without(sound.nodes[1].environment, "RAY_SERVE_THROUGHPUT_OPTIMIZED")),
        f"error environment RAY_SERVE_THROUGHPUT_OPTIMIZED differs: 1 on {HERE}; not set on {THERE}",
    ),
    "no HAProxy": (lambda sound: on_one(sound, haproxy=False), f"error HAProxy does not run on {THERE}"),
    "a missing model": (
        lambda sound: on_one(sound, models={"yolo": None}),
        f"error models yolo is missing on {THERE}",
    ),
    "another model of that name": (
        lambda sound: on_one(sound, models={"yolo": "bbbb"}),
        f"error models the content of yolo differs: aaaa on {HERE}; bbbb on {THERE}",
    ),
    "a clock that is behind": (
        lambda sound: on_one(sound, clock_offset_s=-7.5),
        f"error clocks {THERE} is 7.5 s behind",
    ),
    "an endpoint on loopback": (
        lambda sound: replace(sound, http_host="127.0.0.1"),
        "error addresses the endpoint binds 127.0.0.1",
    ),
    "no token": (
        lambda sound: on_one(sound, environment=without(sound.nodes[1].environment, "RAY_AUTH_MODE")),
        f"error token authentication is off on {THERE}",
    ),
    "a public dashboard": (
        lambda sound: replace(sound, dashboard_is_open=True),
        f"error dashboard http://{HERE}:8265 answers without a token",
    ),
    "no node with a GPU": (
        lambda sound: replace(sound, rooms={HERE: Room(8, 0, 16e9)}),
        "error resources no node has 0.25 CPU and 0.5 GPU for a replica of 'detect'",
    ),
    "no free GPU": (
        lambda sound: replace(sound, free={HERE: Room(2, 0, 8e9), THERE: Room(4, 0.5, 8e9)}),
        r"error resources no room is free for 'detect' \(0.25 CPU and 0.5 GPU\)",
    ),
    "a failed application": (
        lambda sound: replace(sound, applications={"street": "DEPLOY_FAILED"}),
        "error Serve application 'street' is DEPLOY_FAILED",
    ),
}


def test_a_sound_cluster_has_no_fault(sound: ClusterFacts) -> None:
    assert {finding.status for finding in findings(sound)} == {"ok"}


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 12


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, sound: ClusterFacts) -> None:
    plant, pattern = FAULTS[fault]
    (finding,) = (each for each in findings(plant(sound)) if each.status != "ok")
    assert re.match(pattern, f"{finding.status} {finding.check} {finding.message}"), finding
    assert finding.fix


def test_what_other_nodes_do_not_reach(sound: ClusterFacts) -> None:
    intake = read_intake_config({"queue": "sqlite:////data/jobs.db", "results": "/data/results"})
    found = [each for each in findings(sound, intake) if each.status == "error"]
    assert [each.message.partition(":")[0] for each in found] == ["intake.queue", "intake.results"]


def test_another_environment_everywhere_is_slow_but_works(sound: ClusterFacts) -> None:
    nodes = [replace(node, environment={"RAY_AUTH_MODE": "token"}) for node in sound.nodes]
    (finding,) = (each for each in findings(replace(sound, nodes=nodes)) if each.status != "ok")
    assert (finding.status, finding.check) == ("warning", "environment")
    assert all(f"{key}={value}" in finding.fix for key, value in FAST_ENVIRONMENT.items())


def test_a_head_without_cpus_needs_no_model(sound: ClusterFacts) -> None:
    head = on_one(sound, models={"yolo": None}, runs_replicas=False)
    assert {finding.status for finding in findings(head)} == {"ok"}


def test_ports_of_nodes_on_one_host_may_differ(sound: ClusterFacts) -> None:
    environment = {**sound.nodes[1].environment, "RAY_SERVE_HAPROXY_STATS_PORT": "8405"}
    assert {finding.status for finding in findings(on_one(sound, environment=environment))} == {"ok"}


def test_room_is_not_asked_for_twice(sound: ClusterFacts) -> None:
    deployed = replace(sound, free={HERE: Room(0, 0, 0)}, applications={"street": "RUNNING"})
    assert {finding.status for finding in findings(deployed)} == {"ok"}
