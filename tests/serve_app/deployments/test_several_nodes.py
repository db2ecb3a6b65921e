"""An application on several nodes: the gateway on one, the steps on others, and one of them dies."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import need_server
from nodes import STREET, Load, Nodes, nodes
from toys import draw, encoded

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(300)]

PIPELINE = {
    "name": "street",
    "pipeline": [
        {
            "name": "detect",
            "class": "toys.Blobs",
            "serve": {"num_cpus": 0, "num_replicas": 2, "resources": {"steps": 1}},
        },
        {
            "name": "colour",
            "class": "toys.MeanColour",
            "depends_on": "detect",
            "serve": {"num_cpus": 0, "num_replicas": 2, "resources": {"steps": 1}},
        },
    ],
}
_BACK_TO_NORMAL_S = 30
_DRAIN_S = 30
_PROBE_S = 10
"""Two periods of the readiness probe, after which no client is sent there."""


@contextmanager
def _three_nodes() -> Iterator[Nodes]:
    """A head for the gateway, and two nodes for steps."""
    folder = Path("/tmp") / f"vg{time.time_ns() % 10**8}"  # HAProxy's socket wants a short path
    folder.mkdir()
    with nodes(folder) as cluster:
        cluster.add(num_cpus=4, resources={"edge": 1})
        cluster.add(num_cpus=0, resources={"steps": 8})
        cluster.add(num_cpus=0, resources={"steps": 8})
        yield cluster


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    with _three_nodes() as cluster:
        yield cluster


def test_a_node_with_steps_is_killed(cluster: Nodes, poll: Callable[..., Any]) -> None:
    cluster.deploy(pipeline=PIPELINE, gateway={"auth": "none"})
    answer = httpx.post(f"{cluster.url}/v1/images", content=STREET, headers={"Content-Type": "image/png"}, timeout=30)
    assert answer.json()["context"]["detect"]["detected_classes"] == ["car", "person"]

    with Load(cluster.url) as load:
        poll(lambda: load.statuses()[200] > 50)
        assert set(load.statuses()) == {200}
        killed = time.monotonic()
        cluster.kill("127.0.0.4")
        poll(lambda: load.statuses(killed + _BACK_TO_NORMAL_S)[200] > 50, _BACK_TO_NORMAL_S + 30)
    assert set(load.statuses(killed + _BACK_TO_NORMAL_S)) == {200}
    failed = sum(count for status, count in load.statuses(killed).items() if status != 200)
    # each client had one request under way
    assert failed <= 2 * load.clients


def test_a_node_is_drained_before_it_goes(
    cluster: Nodes, poll: Callable[..., Any], record_testsuite_property: Callable[[str, object], None]
) -> None:
    """As the hook of an evicted pod does it: no request fails, not even of clients that still use its endpoint while
    their load balancer finds out."""
    cluster.deploy(pipeline=PIPELINE, gateway={"auth": "none"})
    endpoint = cluster.url_at("127.0.0.4")

    def is_ready() -> bool:
        return httpx.get(f"{endpoint}/-/healthz", timeout=5).status_code == 200

    poll(is_ready)
    with Load(cluster.url) as load:
        poll(lambda: load.statuses()[200] > 50)
        began = time.monotonic()
        with Load(endpoint) as there:
            cluster.drain("127.0.0.4", _DRAIN_S)
            poll(lambda: not is_ready())
            took_out_s = time.monotonic() - began
            poll(lambda: time.monotonic() > began + took_out_s + _PROBE_S)
        poll(lambda: time.monotonic() > began + _DRAIN_S, _DRAIN_S + 5)
        cluster.kill("127.0.0.4")
        killed = time.monotonic()
        poll(lambda: load.statuses(killed)[200] > 50)
    record_testsuite_property("not ready after", round(took_out_s, 1))
    assert set(load.statuses()) == {200}
    assert set(there.statuses()) == {200}


def test_jobs_while_a_node_dies(cluster: Nodes, tmp_path: Path, poll: Callable[..., Any]) -> None:
    need_server("Redis", 6379)
    name = f"nodes-{uuid.uuid4().hex[:8]}"
    intake = {
        "queue": f"redis://127.0.0.1:6379/0?stream={name}&lease_s=5",
        "results": str(tmp_path / "results"),
        "num_replicas": 2,
    }
    cluster.deploy(pipeline=PIPELINE, gateway={"auth": "none"}, intake=intake)

    def submit(number: int) -> str:
        image = encoded(draw(("car", 10, 10, 40 + number % 50, 60)))
        answer = httpx.post(f"{cluster.url}/v1/jobs", content=image, headers={"Content-Type": "image/png"}, timeout=60)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobs"][0]["id"])

    def states(of: Iterable[str]) -> Counter[str]:
        return Counter(httpx.get(f"{cluster.url}/v1/jobs/{job}", timeout=60).json()["status"] for job in of)

    with ThreadPoolExecutor(4) as clients:
        jobs = [*clients.map(submit, range(100))]
        cluster.kill("127.0.0.4")
        jobs += clients.map(submit, range(100))
    poll(lambda: states(jobs)["succeeded"] == len(set(jobs)), 120)
    assert not list((tmp_path / "results" / "failures").glob("*"))


def test_doctor(cluster: Nodes, tmp_path: Path) -> None:
    """The faults of a real cluster: the environment of one node, no token, and a step that fits nowhere."""
    cluster.add({"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}, num_cpus=0)
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("pipeline:\n  - name: detect\n    class: toys.Blobs\n    serve: {num_gpus: 1}\n")
    done = cluster.run("visiongraph", "doctor", pipeline, "--address", cluster.address, "--json", check=False)
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)["findings"]
    errors = {each["check"]: each["message"] for each in findings if each["status"] == "error"}
    assert errors.keys() == {"environment", "token", "resources"}
    assert errors["environment"].startswith("RAY_SERVE_THROUGHPUT_OPTIMIZED differs: 1 on 127.0.0.2")
    assert "0 on 127.0.0.5" in errors["environment"]
    assert {each["check"]: each["status"] for each in findings}["versions"] == "ok"
    assert {each["check"]: each["status"] for each in findings}["clocks"] == "ok"
