"""``visiongraph render`` and ``serve deploy``: what changes in place, what rolls, and that no request is lost
meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from toys import draw, encoded

from serve_app.rendering.serve_file import render

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150))


class Deployed:
    """A pipeline file, rendered and deployed."""

    def __init__(self, cluster: Any, folder: Path, serve_deploy: Callable[[str], httpx.Client]) -> None:
        self._cluster = cluster
        self._file = folder / "deployed.yaml"
        self._serve_deploy = serve_deploy
        self.client: httpx.Client

    def deploy(self, *steps: dict[str, Any]) -> None:
        """Write the file, render it and deploy it."""
        self._file.write_text(yaml.safe_dump({"pipeline": list(steps)}))
        self.client = self._serve_deploy(render(self._file))

    def replicas(self) -> dict[str, list[str]]:
        deployments = self._cluster.applications()["deployed"]["deployments"]
        return {name: self._cluster.replicas("deployed", name) for name in deployments}

    def post(self) -> httpx.Response:
        return self.client.post("/v1/images", content=encoded(STREET), headers={"Content-Type": "image/png"})


@pytest.fixture(scope="module")
def deployed(
    cluster: Any, tmp_path_factory: pytest.TempPathFactory, serve_deploy: Callable[[str], httpx.Client]
) -> Iterator[Deployed]:
    from ray import serve

    yield Deployed(cluster, tmp_path_factory.mktemp("deployed"), serve_deploy)
    serve.delete("deployed", _blocking=False)


DETECT = {"name": "detect", "class": "toys.Blobs"}
COLOUR = {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"}


@pytest.mark.slow
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
