"""One Ray cluster with one Serve instance for every test that needs them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from brokers import AWS, Broker, all_brokers, moto_server, pubsub_server
from gateways import PIPELINE

from graph import LocalBackend, load_plan
from serve_app.local.cluster import LOGGING
from serve_app.local.ports import free_port

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServeCluster:
    """Where the shared cluster answers."""

    http_url: str
    dashboard_url: str
    log_dir: Path

    def applications(self) -> dict[str, Any]:
        """The applications as the dashboard's API reports them, by name."""
        response = httpx.get(f"{self.dashboard_url}/api/serve/applications/", timeout=10)
        response.raise_for_status()
        found: dict[str, Any] = response.json()["applications"]
        return found

    def replicas(self, application: str, deployment: str, state: str = "RUNNING") -> list[str]:
        """Ids of the replicas in a state."""
        replicas = self.applications()[application]["deployments"][deployment]["replicas"]
        return sorted(replica["replica_id"] for replica in replicas if replica["state"] == state)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """S3 and SQS at a URL."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as url:
        for name, value in AWS.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory, moto: str) -> Iterator[dict[str, Broker]]:
    """Every kind of queue, by its scheme."""
    folder = str(tmp_path_factory.mktemp("queues"))
    with pubsub_server() as pubsub, all_brokers(folder, moto, pubsub.port) as found:
        yield found


@pytest.fixture(scope="session")
def backend() -> Iterator[LocalBackend]:
    """The toy pipeline's steps in this process, for any number of gateways."""
    backend = LocalBackend(load_plan(PIPELINE))
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeCluster]:
    """A cluster of 8 logical CPUs and 1 logical GPU, whatever the machine has."""
    http_port, dashboard_port = free_port(), free_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")]))
        # else Ray asks for a token where this user happens to have one
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE", "1000")  # as in the fast configuration
        yield from _run_cluster(http_port, dashboard_port)


def _run_cluster(http_port: int, dashboard_port: int) -> Iterator[ServeCluster]:
    import ray
    from ray import serve
    from ray.serve._private import client

    client.CLIENT_POLLING_INTERVAL_S = 0.2  # else each deployment and each deletion waits for whole seconds
    context = ray.init(
        address="local",  # never one that somebody else runs on this machine
        num_cpus=8,
        num_gpus=1,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        log_to_driver=False,
        logging_level="ERROR",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": http_port}, logging_config=dict(LOGGING))
    log_dir = Path(context.address_info["session_dir"]) / "logs"
    try:
        yield ServeCluster(f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{dashboard_port}", log_dir)
    finally:
        serve.shutdown()
        ray.shutdown()


Deploy = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def deploy(cluster: ServeCluster) -> Iterator[Deploy]:
    """Deploys pipelines and gives an HTTP client to each; they are gone when the module ends."""
    from ray import serve

    from serve_app.app import AppArgs, build

    with contextlib.ExitStack() as stack:

        def deploy(pipeline: dict[str, Any], *, intake: dict[str, Any] | None = None, **gateway: Any) -> httpx.Client:
            name = pipeline["name"]
            args = AppArgs(pipeline=pipeline, gateway={"auth": "none", **gateway}, intake=intake)
            serve.run(build(args), name=name, route_prefix=f"/{name}", logging_config=dict(LOGGING))
            stack.callback(serve.delete, name, _blocking=False)
            return stack.enter_context(httpx.Client(base_url=f"{cluster.http_url}/{name}", timeout=30))

        yield deploy


@pytest.fixture(scope="session")
def serve_deploy(cluster: ServeCluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], httpx.Client]:
    """Deploys what ``visiongraph render`` printed as a user would, with the ``serve`` command, and waits until it runs.

    The application gets its name as route prefix, so that it stands beside the others of the cluster.
    """
    folder = tmp_path_factory.mktemp("rendered")

    def deploy(rendered: str) -> httpx.Client:
        [application] = yaml.safe_load(rendered)["applications"]
        name, deployments = application["name"], {d["name"] for d in application["deployments"]}
        file = folder / f"{name}.yaml"
        file.write_text(rendered.replace("route_prefix: /\n", f"route_prefix: /{name}\n"))
        command = [str(Path(sys.executable).with_name("serve")), "deploy", str(file), "-a", cluster.dashboard_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

        def settled() -> bool:
            found = cluster.applications().get(name, {})
            assert found.get("status") != "DEPLOY_FAILED", found
            states = {key: value["status"] for key, value in found.get("deployments", {}).items()}
            return found.get("status") == "RUNNING" and states == dict.fromkeys(deployments, "HEALTHY")

        poll(settled, 90)
        return httpx.Client(base_url=f"{cluster.http_url}/{name}", timeout=30)

    return deploy


def poll(what: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Ask again until the answer is true, and give it.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"not true within {timeout_s} s")


@pytest.fixture(name="poll", scope="session")
def _poll() -> Callable[..., Any]:
    return poll
