"""Ray clusters of several nodes on this machine, beside the one that other tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
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
serve.start(http_options={"host": "0.0.0.0", "port": arguments["port"]}, logging_config=dict(LOGGING))
serve.run(build(AppArgs(**arguments["args"])), name="app", logging_config=dict(LOGGING))
"""


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
        ports = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(free_port())} if self._workers else {}
        own = haproxy_environment(find_haproxy(), place) | ports
        with mock.patch.dict(os.environ, {**self.environment, **own, **(environment or {})}):
            self._workers[address] = self._cluster.add_node(node_ip_address=address, **options)
        return address

    def drain(self, address: str, seconds: int) -> None:
        """Tell Ray the number of seconds after which a node goes away, as the hook of a pod does."""
        node = ("--address", self.address, "--node-id", self._workers[address].node_id)
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "evicted")
        ray = Path(sys.executable).with_name("ray")
        self.run(ray, "drain-node", *node, *reason, "--deadline-remaining-seconds", seconds)

    def kill(self, address: str) -> None:
        """As when the machine fails."""
        self._cluster.remove_node(self._workers[address], allow_graceful=False)

    def deploy(self, **arguments: Any) -> None:
        """Deploy an application on the cluster, and return when it is running."""
        text = json.dumps({"address": self.address, "port": self.http_port, "args": arguments})
        self.run(sys.executable, "-c", _DEPLOY, text)

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command with the environment of the nodes."""
        done = subprocess.run(
            [*map(str, command)],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done


@contextmanager
def nodes(folder: Path, **environment: str) -> Iterator[Nodes]:
    """A cluster in the fast configuration without nodes; all its processes are gone when the block ends."""
    mark = uuid.uuid4().hex
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    fixed = {MARK: mark, "PYTHONPATH": python_path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Nodes(folder, {**FAST_ENVIRONMENT, **fixed, **environment})
    try:
        yield cluster
    finally:
        end_marked(mark)
        with suppress(Exception):
            cluster._cluster.shutdown()


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


__all__ = ["STREET", "Load", "Nodes", "end_marked", "nodes"]
