"""Ray clusters of several nodes on this machine, beside the one that other tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from toys import draw, encoded

from serve_app.local import FAST_ENVIRONMENT
from serve_app.local.haproxy import find_haproxy, haproxy_environment
from serve_app.local.ports import free_port
from serve_app.local.shutdown import MARK

ROOT = Path(__file__).parents[2]
STREET = encoded(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))

_DEPLOY = """
import json, sys
import ray
from ray import serve
from serve_app.app import AppArgs, build
from serve_app.local import LOGGING
arguments = json.loads(sys.argv[1])
ray.init(arguments["address"], namespace="serve", log_to_driver=False)
options = {"host": "0.0.0.0", "port": arguments["port"]}
serve.start(arguments["proxies"], http_options=options, logging_config=dict(LOGGING))
serve.run(build(AppArgs(**arguments["args"])), name="app", logging_config=dict(LOGGING))
"""

_LIST = """
import json, sys
import ray
ray.init(sys.argv[1], log_to_driver=False)
print(json.dumps([(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]))
"""


_HEAD_STARTS_S = 120
_FOR_SSH = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
"""Keys that Ray fills in before it starts a node over SSH."""


def _run(environment: Mapping[str, str], *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def _deploy(environment: Mapping[str, str], address: str, port: int, proxies: str, args: Mapping[str, Any]) -> None:
    text = json.dumps({"address": address, "port": port, "proxies": proxies, "args": args})
    _run(environment, sys.executable, "-c", _DEPLOY, text)


@dataclass
class Nodes:
    """A head, and workers that are added to it. Nodes have addresses of loopback: 127.0.0.2 and so on.

    Attributes:
        folder: for files of Serve's proxies; its path must be short.
        environment: of all nodes.
        http_port: of the endpoint on the head; each other node has one of its own.
    """

    folder: Path
    environment: Mapping[str, str]
    http_port: int = field(default_factory=free_port)
    _workers: dict[str, Any] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(shutdown_at_exit=False)

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._cluster.address)

    @property
    def url(self) -> str:
        """Of the endpoint on the head."""
        return f"http://127.0.0.1:{self.http_port}"

    def add(self, environment: Mapping[str, str] | None = None, **options: Any) -> str:
        """Start a node, the head first, and give its address."""
        number = len(self._workers) + 2
        address = f"127.0.0.{number}"
        place = self.folder / str(number)
        place.mkdir()
        self._ports[address] = free_port() if self._workers else self.http_port
        ports = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self._ports[address])} if self._workers else {}
        own = haproxy_environment(find_haproxy(), place) | ports
        with mock.patch.dict(os.environ, {**self.environment, **own, **(environment or {})}):
            self._workers[address] = self._cluster.add_node(node_ip_address=address, **options)
        return address

    def url_at(self, address: str) -> str:
        """Of the endpoint on a node."""
        return f"http://127.0.0.1:{self._ports[address]}"

    def drain(self, address: str, seconds: int) -> None:
        """Tell Ray the number of seconds after which a node goes away, as the hook of a pod does."""
        node = ("--address", self.address, "--node-id", self._workers[address].node_id)
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "evicted")
        self.run("ray", "drain-node", *node, *reason, "--deadline-remaining-seconds", seconds)

    def kill(self, address: str) -> None:
        """As when the machine fails."""
        self._cluster.remove_node(self._workers[address], allow_graceful=False)

    def deploy(self, **arguments: Any) -> None:
        """Deploy an application on the cluster, and return when it is running."""
        _deploy(self.environment, self.address, self.http_port, "EveryNode", arguments)

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command with the environment of the nodes."""
        return _run(self.environment, *command, check=check)


@dataclass
class ElasticNodes:
    """A head with Ray's autoscaler, which starts nodes as processes of this machine, and ends them.

    Attributes:
        address: of the head.
        environment: of all nodes.
        http_port: of the endpoint, which only the head has, for the nodes share the ports of this machine.
    """

    address: str
    environment: Mapping[str, str]
    http_port: int

    @property
    def url(self) -> str:
        """Of the endpoint."""
        return f"http://127.0.0.1:{self.http_port}"

    def workers(self) -> dict[str, dict[str, float]]:
        """The resources of each living node but the head."""
        printed = _run(self.environment, sys.executable, "-c", _LIST, self.address).stdout
        listed = json.loads(next(line for line in printed.splitlines() if line.startswith("[[")))  # Ray logs there, too
        return {node: resources for node, resources in listed if node != FAKE_HEAD_NODE_ID}

    def kill(self, node: str) -> None:
        """As when the machine fails."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name() == "raylet" and process.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] == node:
                    process.kill()

    def deploy(self, **arguments: Any) -> None:
        """Deploy an application on the cluster, and return when it is running."""
        _deploy(self.environment, self.address, self.http_port, "HeadOnly", arguments)


@contextmanager
def elastic_nodes(folder: Path, config: Mapping[str, Any], **environment: str) -> Iterator[ElasticNodes]:
    """A cluster as a file for ``ray up`` describes it, by the node provider that Ray's own tests use."""
    port = free_port()
    address = f"127.0.0.2:{port}"
    own = haproxy_environment(find_haproxy(), folder)
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    head = dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), FAKE_HEAD_NODE_ID)
    common = FAST_ENVIRONMENT | own | _fixed(folder) | environment
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "launch_multiple": True,
        "disable_node_updaters": True,  # these would install Ray over SSH
        "head_node_id": FAKE_HEAD_NODE_ID,
    }
    types = dict(config["available_node_types"])
    types[FAKE_HEAD_NODE_TYPE] = types.pop(config["head_node_type"])
    cpus = types[FAKE_HEAD_NODE_TYPE]["resources"]["CPU"]
    own_keys = {"provider": provider, "available_node_types": types, "head_node_type": FAKE_HEAD_NODE_TYPE}
    file = folder / "autoscaling.yaml"
    file.write_text(yaml.safe_dump({**config, **{key: [] for key in _FOR_SSH}, **own_keys}))
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--node-ip-address=127.0.0.2",
        f"--num-cpus={cpus}",
        f"--autoscaling-config={file}",
        "--include-dashboard=false",
    ]
    with (folder / "head.log").open("w") as log:
        subprocess.Popen(command, env={**os.environ, **common, **fake, **head}, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _HEAD_STARTS_S
        while "block forever" not in (text := (folder / "head.log").read_text()):
            assert time.monotonic() < until, text
            time.sleep(0.2)
        yield ElasticNodes(address, common, free_port())
    finally:
        end_marked(str(folder))


@contextmanager
def nodes(folder: Path, **environment: str) -> Iterator[Nodes]:
    """A cluster in the fast configuration without nodes; all its processes are gone when the block ends."""
    cluster = Nodes(folder, FAST_ENVIRONMENT | _fixed(folder) | environment)
    try:
        yield cluster
    finally:
        end_marked(str(folder))
        with suppress(Exception):
            cluster._cluster.shutdown()


def _fixed(folder: Path) -> dict[str, str]:
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    return {
        MARK: str(folder),
        "PYTHONPATH": python_path,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # it takes longer on a busy machine
    }


def end_marked(mark: str) -> None:
    """Kill the processes that were started with this ``MARK``."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()


@dataclass
class Load:
    """Requests to an endpoint, one after the other by each client, until the block ends.

    Attributes:
        answers: when each was sent, how long it took, and its status, or the name of the error.
    """

    url: str
    clients: int = 4
    answers: list[tuple[float, float, int | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(self.clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def statuses(self, since: float = 0.0) -> Counter[int | str]:
        """How often each status was answered to requests sent since then."""
        return Counter(status for sent, _, status in list(self.answers) if sent >= since)

    def _send(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                sent = time.monotonic()
                status: int | str
                try:
                    headers = {"Content-Type": "image/png"}
                    status = client.post(f"{self.url}/v1/images", content=STREET, headers=headers).status_code
                except httpx.HTTPError as error:
                    status = type(error).__name__
                self.answers.append((sent, time.monotonic() - sent, status))
                time.sleep(0.02)


__all__ = ["STREET", "ElasticNodes", "Load", "Nodes", "elastic_nodes", "end_marked", "nodes"]
