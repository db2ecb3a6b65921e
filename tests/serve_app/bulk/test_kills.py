"""A run whose driver, actors and nodes are killed gives what an undisturbed one gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from bulk_runs import actors, failures, rows
from soak.steps import picture

from graph import VisionPipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMAGES, CHUNK, IN_FLIGHT = 400, 10, 2
PIPELINE: dict[str, Any] = {
    "name": "killed",
    "pipeline": [
        {"name": "one", "class": "soak.steps.One"},
        {"name": "slow", "class": "toys.Sleeper", "params": {"seconds": 0.2}, "serve": {"max_batch_size": 2}},
    ],
}


class Nodes:
    """A cluster of two nodes, of which one is killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.2", "dashboard_host": ""}
        )
        self.address = self._cluster.address
        self.start()

    def start(self) -> None:
        self._worker = self._cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")

    def kill(self) -> None:
        self._cluster.remove_node(self._worker, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Nodes()
        yield nodes
        nodes.stop()


def test_a_run_that_is_killed_five_times(tmp_path: Path, nodes: Nodes, poll: Callable[..., Any]) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(IMAGES):
        (tmp_path / "photos" / f"{number:03d}.png").write_bytes(picture(number) if number % 50 else b"no image")
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(PIPELINE))
    chance = random.Random(1)
    program = start(tmp_path, nodes.address)
    for victim in ["driver", "actor", "node", "driver", "actor"]:
        before = len(done(tmp_path))
        wanted = before + chance.randint(1, 4)
        progressed(tmp_path, program, wanted, poll)
        begun = {file.stem for file in tmp_path.rglob("begun/*.json")}
        assert len(begun - {file.stem for file in done(tmp_path)}) <= IN_FLIGHT  # these are repeated
        kept = {file: file.stat().st_mtime_ns for file in done(tmp_path)}
        if victim == "driver":
            program.kill()
            program.communicate()
            program = start(tmp_path, nodes.address)
        elif victim == "actor":
            os.kill(chance.choice(actors(psutil.Process())), signal.SIGKILL)
        else:
            nodes.kill()
            nodes.start()
    _, said = program.communicate(timeout=300)
    assert program.returncode == 0, said
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    found, failed = rows(tmp_path / "out"), failures(tmp_path / "out")
    assert len(found) == IMAGES - IMAGES // 50
    assert len(failed) == IMAGES // 50
    photos = sorted((tmp_path / "photos").iterdir())
    with VisionPipeline(PIPELINE) as undisturbed:
        for photo, result in zip(photos, undisturbed.stream(photos), strict=True):
            if isinstance(result, Exception):
                assert failed[photo.as_uri()]["type"] == type(result).__name__
            else:
                context = json.loads(found[photo.as_uri()]["context"])
                assert context["one"] == result["context"]["one"]
                assert found[photo.as_uri()]["sha256"] == result["image"]["sha256"]


def start(folder: Path, address: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from serve_app.cli import main; main()", "batch", "killed.yaml", "photos"]
    return subprocess.Popen(
        [*program, "--out", "out", "--chunk-size", str(CHUNK), "--in-flight", str(IN_FLIGHT)],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def progressed(folder: Path, program: subprocess.Popen[str], wanted: int, poll: Callable[..., Any]) -> None:
    """Wait until the given number of chunks is done."""
    poll(lambda: program.poll() is not None or len(done(folder)) >= wanted, 120)
    assert program.poll() is None, program.communicate()[1]


def done(folder: Path) -> list[Path]:
    return list(folder.rglob("done/*.json"))
