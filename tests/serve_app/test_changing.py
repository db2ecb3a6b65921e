"""The pipeline is changed while clients send images: each gets a whole result of one behaviour, or is to try again."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateways import problem
from toys import draw, encoded

from serve_app.app import AppArgs, build
from serve_app.local.cluster import LOGGING
from serve_app.rendering.serve_file import render

IMAGE = encoded(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))
DETECT: dict[str, Any] = {"name": "detect", "class": "toys.Blobs"}
LOADED: dict[str, Any] = {"name": "loaded", "class": "toys.Loaded", "depends_on": "detect"}
SIZE: dict[str, Any] = {"name": "size", "class": "toys.Size", "depends_on": "detect"}


class Changing:
    """An application that is deployed again and again."""

    def __init__(self, cluster: Any, poll: Callable[..., Any]) -> None:
        self.url = f"{cluster.http_url}/changing"
        self._cluster = cluster
        self._poll = poll

    def deploy(self, *steps: dict[str, Any], until: str = "RUNNING") -> dict[str, Any]:
        """Deploy these steps, wait for the state of the application, and give its deployments."""
        from ray import serve

        args = AppArgs(pipeline={"name": "changing", "pipeline": list(steps)})
        target = serve.RunTarget(build(args), "changing", route_prefix="/changing", logging_config=dict(LOGGING))
        serve.run_many([target], wait_for_applications_running=False)
        names = {"gateway", *(step["name"] for step in steps)}

        def found() -> dict[str, Any] | None:
            application = self._cluster.applications()["changing"]
            deployments: dict[str, Any] = application["deployments"]
            return deployments if application["status"] == until and deployments.keys() == names else None

        deployments: dict[str, Any] = self._poll(found, 150)
        return deployments

    def fingerprint(self) -> str:
        return str(httpx.get(f"{self.url}/v1/pipeline").json()["fingerprint"])


@pytest.fixture
def changing(cluster: Any, poll: Callable[..., Any]) -> Iterator[Changing]:
    from ray import serve

    yield Changing(cluster, poll)
    serve.delete("changing")


@dataclass
class Answers:
    """What the clients got."""

    statuses: Counter[int] = field(default_factory=Counter)
    behaviours: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by fingerprint
    refusals: list[httpx.Response] = field(default_factory=list)
    not_whole: list[Any] = field(default_factory=list)

    def take(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] += 1
        if response.status_code != 200:
            self.refusals.append(response)
            return
        result = response.json()
        if any(step["status"] != "ok" for step in result["steps"]):
            self.not_whole.append(result["steps"])
        behaviour = {name: result["context"][name].get("level", name) for name in sorted(result["context"])}
        behaviour["detect"] = result["context"]["detect"]["detected_classes"]
        self.behaviours[result["pipeline"]["fingerprint"]].add(repr(behaviour))


@contextmanager
def clients(url: str, number: int) -> Iterator[Answers]:
    """So many clients, each with a connection of its own, send one image after another until the block ends."""
    answers, stopped = Answers(), []

    def send() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stopped:
                answers.take(client.post("/v1/images", content=IMAGE, headers={"Content-Type": "image/png"}))

    with ThreadPoolExecutor(number) as pool:
        running = [pool.submit(send) for _ in range(number)]
        try:
            yield answers
        finally:
            stopped.append(True)
        for each in running:
            each.result()


@pytest.mark.timeout(400)
def test_a_request_that_meets_a_removed_step_is_to_be_tried_again(changing: Changing, poll: Callable[..., Any]) -> None:
    changing.deploy(DETECT, SIZE)
    with clients(changing.url, 2) as answers:
        poll(lambda: answers.statuses[200] > 0)
        changing.deploy(DETECT)
    assert set(answers.statuses) == {200, 503}
    assert answers.not_whole == []
    assert len(answers.behaviours) == 2
    for refusal in answers.refusals:
        problem(refusal, 503, "step-unavailable")
        assert refusal.headers["retry-after"] == "1"
        assert refusal.json()["step"] == "size"


def test_a_step_at_zero_is_ready_and_stays_there(changing: Changing, cluster: Any) -> None:
    scaling = {"min_replicas": 0, "max_replicas": 1}
    idle = SIZE | {"serve": {"autoscaling": scaling}, "condition": "'size' in image['metadata']"}
    changing.deploy(DETECT, idle)
    for _ in range(3):
        assert httpx.get(f"{changing.url}/readyz", timeout=10).status_code == 200
    response = httpx.post(f"{changing.url}/v1/images", content=IMAGE, headers={"Content-Type": "image/png"}, timeout=20)
    assert response.json()["pipeline"]["fingerprint"] == changing.fingerprint()
    time.sleep(1)  # a call that waits would start a replica by then
    assert cluster.applications()["changing"]["deployments"]["size"]["replicas"] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_broken_version_replaces_nothing(changing: Changing, cluster: Any, poll: Callable[..., Any]) -> None:
    changing.deploy(DETECT, LOADED)
    before = changing.fingerprint(), cluster.replicas("changing", "detect")
    with clients(changing.url, 4) as answers:
        poll(lambda: answers.statuses[200] > 0)
        broken = changing.deploy(
            DETECT | {"class": "toys.ReducedBlobs"}, LOADED | {"class": "toys.Missing"}, until="DEPLOY_FAILED"
        )
        assert "no such model: missing.bin" in broken["loaded"]["message"]
        time.sleep(5)
        assert cluster.replicas("changing", "detect") == before[1]
    assert set(answers.statuses) == {200}
    assert answers.not_whole == []
    assert set(answers.behaviours) == {before[0]}
    changing.deploy(DETECT | {"class": "toys.ReducedBlobs"}, LOADED)
    assert changing.fingerprint() != before[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_is_whole_and_of_one_behaviour(changing: Changing) -> None:
    changing.deploy(DETECT, LOADED)
    with clients(changing.url, 32) as answers:
        changing.deploy(DETECT | {"params": {"min_area": 3500}}, LOADED | {"params": {"level": 1}})
        changing.deploy(DETECT, LOADED, SIZE)  # added
        changing.deploy(DETECT, LOADED | {"class": "toys.Size"}, SIZE)  # of another class
    assert set(answers.statuses) == {200}
    assert answers.not_whole == []
    assert {len(behaviours) for behaviours in answers.behaviours.values()} == {1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thresholds_change_in_place_under_load(serve_deploy: Callable[[str], httpx.Client], tmp_path: Path) -> None:
    from ray import serve

    def deploy(level: int) -> httpx.Client:
        file = tmp_path / "tuned.yaml"
        file.write_text(yaml.safe_dump({"pipeline": [DETECT, LOADED | {"params": {"level": level}}]}))
        return serve_deploy(render(file))

    client = deploy(0)
    try:
        with clients(str(client.base_url), 32) as answers:
            for level in (1, 2, 1, 0):
                deploy(level)
                time.sleep(1)
    finally:
        serve.delete("tuned")
    assert set(answers.statuses) == {200}
    assert answers.not_whole == []
    assert {len(behaviours) for behaviours in answers.behaviours.values()} == {1}
    assert len(set.union(*answers.behaviours.values())) == 3
