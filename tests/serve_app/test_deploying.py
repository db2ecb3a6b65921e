"""``visiongraph render`` and ``serve deploy``: what changes in place, what rolls, and that no request is lost
meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from toys import draw, encoded

from serve_app.render import render

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150))


class Deployed:
    """A pipeline file, deployed with the ``serve`` command."""

    def __init__(self, cluster: Any, folder: Path, poll: Callable[..., Any]) -> None:
        self.cluster = cluster
        self.name = "deployed"
        self.client = httpx.Client(base_url=f"{cluster.http_url}/{self.name}", timeout=30)
        self._folder = folder
        self._poll = poll

    def deploy(self, *steps: dict[str, Any]) -> None:
        """Render the pipeline, deploy it as a user would, and wait until it is running."""
        file = self._folder / "deployed.yaml"
        file.write_text(yaml.safe_dump({"name": self.name, "pipeline": list(steps)}))
        # beside the other applications of the shared cluster
        config = render(file).replace("route_prefix: /\n", f"route_prefix: /{self.name}\n")
        rendered = self._folder / "serve.yaml"
        rendered.write_text(config)
        command = [
            str(Path(sys.executable).with_name("serve")),
            "deploy",
            str(rendered),
            "-a",
            self.cluster.dashboard_url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        deployments = {step["name"] for step in steps} | {"gateway"}
        self._poll(lambda: self._settled(deployments), 60)

    def _settled(self, deployments: set[str]) -> bool:
        application = self.cluster.applications().get(self.name, {})
        if application.get("status") == "DEPLOY_FAILED":
            raise AssertionError(application)
        states = {name: d["status"] for name, d in application.get("deployments", {}).items()}
        return application.get("status") == "RUNNING" and states == dict.fromkeys(deployments, "HEALTHY")

    def replicas(self) -> dict[str, list[str]]:
        return {
            name: self.cluster.replicas(self.name, name)
            for name in self.cluster.applications()[self.name]["deployments"]
        }

    def post(self) -> httpx.Response:
        return self.client.post("/v1/images", content=encoded(STREET), headers={"Content-Type": "image/png"})


@pytest.fixture(scope="module")
def deployed(cluster: Any, tmp_path_factory: pytest.TempPathFactory, poll: Callable[..., Any]) -> Iterator[Deployed]:
    from ray import serve

    deployed = Deployed(cluster, tmp_path_factory.mktemp("deployed"), poll)
    yield deployed
    deployed.client.close()
    serve.delete(deployed.name, _blocking=False)


DETECT = {"name": "detect", "class": "toys.Blobs"}
COLOUR = {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"}


def test_tunables_change_in_place_and_a_new_step_rolls_in_without_a_lost_request(
    deployed: Deployed, poll: Callable[..., Any]
) -> None:
    deployed.deploy(DETECT, COLOUR)
    first = deployed.post().json()
    assert first["context"]["detect"]["detected_classes"] == ["car", "person"]
    before = deployed.replicas()

    # a threshold and a rule: applied in place
    deployed.deploy(DETECT | {"params": {"min_area": 3500}}, COLOUR | {"crops": "detection['class_name'] == 'car'"})
    poll(lambda: deployed.post().json()["context"]["detect"]["detected_classes"] == ["car"])
    poll(
        lambda: (
            [found["label"] for found in deployed.post().json()["context"].get("colour", {}).get("objects", [])]
            == ["car"]
        )
    )
    assert deployed.replicas() == before
    assert deployed.post().json()["pipeline"]["fingerprint"] != first["pipeline"]["fingerprint"]

    # and back: what is no longer in the file has its default again
    deployed.deploy(DETECT, COLOUR)
    poll(lambda: deployed.post().json()["context"] == first["context"])
    assert deployed.replicas() == before
    assert deployed.post().json()["pipeline"] == first["pipeline"]

    # a new step, while requests go on
    stop, statuses = time.monotonic() + 120, []

    def load() -> None:
        while time.monotonic() < stop:
            statuses.append(deployed.post().status_code)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(load) for _ in range(4)]
        try:
            deployed.deploy(DETECT, COLOUR, {"name": "size", "class": "toys.Size", "depends_on": "detect"})
            poll(lambda: "size" in deployed.post().json()["context"])
        finally:
            stop = 0.0
        for worker in workers:
            worker.result()
    assert set(statuses) == {200}
    assert len(statuses) > 20
