"""A real Prometheus scrapes what is served: faults fire their alerts and no others, and every panel has data."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from monitored_gateway import PIPELINE, image
from prometheus_server import Prometheus, running_prometheus

from serve_app.local.ports import free_port
from serve_app.monitoring import monitoring_files
from serve_app.monitoring.alerts import Promises, Windows, alert_rules
from serve_app.monitoring.panels import ROWS
from serve_app.queues import queue_from_url

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[3]

WINDOWS = Windows(
    fast_burn=("5s", "10s"),
    slow_burn=("8s", "15s"),
    recent="10s",
    shift="10s",
    week="25s",
    least=20,
    pending="2s",
    soon="5s",
)
PROMISES = Promises(availability=0.99, image_s=5, oldest_message_s=8)


def configuration(metrics: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(monitoring_files(metrics)["prometheus.yml"])
    return found


class Load:
    """Clients that post ``body`` until the end."""

    def __init__(self, url: str, body: bytes, clients: int = 2) -> None:
        self.body = body
        self._url = url
        self._is_ended = threading.Event()
        self._threads = [threading.Thread(target=self._post, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._is_ended.wait(0.02):
                try:
                    client.post("/v1/images", content=self.body, headers={"Content-Type": "image/png"})
                except httpx.TransportError:
                    self._is_ended.wait(0.2)

    def end(self) -> None:
        self._is_ended.set()
        for thread in self._threads:
            thread.join(60)


@contextmanager
def process(*command: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a folder, in which its stderr goes to a file."""
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])
    everything = {**os.environ, "PYTHONPATH": path, **environment}
    with (folder / "stderr.txt").open("w") as stderr:
        started = subprocess.Popen(command, cwd=folder, env=everything, stderr=stderr)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(90)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.timeout(600)
def test_planted_faults_fire_their_alerts_and_no_others(tmp_path: Path, poll: Callable[..., Any]) -> None:
    metrics, jobs, port = tmp_path / "metrics", tmp_path / "jobs", free_port()
    jobs.mkdir()
    metrics.mkdir()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "monitored_gateway", str(port), str(jobs)]
    rules = alert_rules(PROMISES, WINDOWS)
    with (
        process(*command, folder=tmp_path, VISIONGRAPH_METRICS_DIR=str(metrics)) as gateway,
        running_prometheus(tmp_path, configuration(metrics), rules) as prometheus,
    ):
        poll(lambda: answers(f"{url}/healthz"), 60)
        load = Load(url, image())
        seen: set[str] = set()

        def fires(*names: str) -> None:
            """These alerts fire, and never another one, until they are silent again after ``end``."""
            expected = {f"Visiongraph{name}" for name in names}

            def look() -> bool:
                firing = prometheus.firing()
                assert firing <= expected, f"{firing - expected} fire too"
                return firing == expected

            poll(look, 60)
            seen.update(names)

        def silent() -> None:
            poll(lambda: not prometheus.firing(), 60)

        poll(lambda: prometheus.query('up{job="visiongraph"} == 1'), 30)
        silent()
        time_for_baseline(prometheus, poll)

        load.body = image(fails=1)
        fires("StepFails")
        load.body = image()
        silent()

        load.body = image(fails=2)
        fires("StepFails", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly")
        load.body = image()
        silent()

        load.body = image(tenths=55)
        fires("ImagesSlow")
        load.body = image()
        silent()

        publish(jobs, *([b"no message"] * 3))
        fires("DeadLetters")
        silent()

        (jobs / "images" / "slow.png").write_bytes(image(tenths=10))
        with flooded(jobs):
            fires("OldestMessageTooOld", "BacklogGrowsAtMaximum")
        # the rest of the queue does not matter here: what follows is about images over HTTP
        purge(jobs)
        silent()

        load.body = image(person=False)
        fires("ConditionShifted")
        load.body = image()
        settled(prometheus, poll)

        load.body = image(confidence=0.3)
        fires("ConfidenceShifted")
        load.body = image()
        settled(prometheus, poll)

        gateway.kill()
        fires("NoData")
        load.end()
    alerts = {rule["alert"].removeprefix("Visiongraph") for rule in rules["groups"][0]["rules"]}
    assert alerts - seen == {"ReplicasMissing"}, "the other test has it"


def time_for_baseline(prometheus: Prometheus, poll: Callable[..., Any]) -> None:
    """Wait until shifts have something to be compared with."""
    decided = f"sum(increase(visiongraph_rule_decisions_total[{WINDOWS.shift}] offset {WINDOWS.week}))"
    poll(lambda: prometheus.query(f"{decided} > {2 * WINDOWS.least}"), 120)


def settled(prometheus: Prometheus, poll: Callable[..., Any]) -> None:
    """Wait until what shifts are compared with is without faults again."""
    decided = 'sum(increase(visiongraph_rule_decisions_total{step="people", rule="condition", outcome="false"}[40s]))'
    kept = 'sum(rate(visiongraph_confidence_sum{step="fragile"}[40s]))'
    count = 'sum(rate(visiongraph_confidence_count{step="fragile"}[40s]))'
    poll(lambda: prometheus.query(f"{decided} == 0 and {kept} / {count} > 0.79"), 120)
    poll(lambda: not prometheus.firing(), 60)


def publish(jobs: Path, *bodies: bytes) -> None:
    async def send() -> None:
        async with queue_from_url(f"sqlite:///{jobs}/jobs.db") as queue:
            await queue.publish(bodies)

    asyncio.run(send())


def purge(jobs: Path) -> None:
    async def receive() -> None:
        async with queue_from_url(f"sqlite:///{jobs}/jobs.db") as queue:
            while messages := await queue.receive(100, 0.1):
                await queue.ack(messages)

    asyncio.run(receive())


@contextmanager
def flooded(jobs: Path) -> Iterator[None]:
    """More messages come than the worker can process."""
    is_ended, numbers = threading.Event(), itertools.count()

    def send() -> None:
        while not is_ended.wait(0.5):
            messages = ({"id": f"m{next(numbers)}", "uri": f"file://{jobs}/images/slow.png"} for _ in range(5))
            publish(jobs, *(json.dumps(message).encode() for message in messages))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    is_ended.set()
    thread.join(60)


@pytest.mark.timeout(600)
def test_every_panel_has_data_and_a_lost_replica_is_missed(tmp_path: Path, poll: Callable[..., Any]) -> None:
    metrics, port, dashboard = tmp_path / "metrics", free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    metrics.mkdir()
    (tmp_path / "monitored.yaml").write_text(yaml.safe_dump(PIPELINE))
    (tmp_path / "street.png").write_bytes(image())
    program = str(Path(sys.executable).with_name("visiongraph"))
    command = [program, "serve", "monitored.yaml", "--port", str(port), "--dashboard-port", str(dashboard), "--no-fit"]
    rules = alert_rules(Promises(image_s=50), Windows(pending="2s", soon="2s"))
    with (
        running_prometheus(tmp_path, configuration(metrics), rules, every="5s") as prometheus,
        process(*command, folder=tmp_path, VISIONGRAPH_METRICS_DIR=str(metrics)) as server,
    ):
        poll(lambda: server.poll() is not None or "ready" in said(tmp_path), 240)
        address = re.search(r"metrics +(http\S+/metrics), and 5 more processes", said(tmp_path))
        assert address, said(tmp_path)
        assert "visiongraph_images_total" in httpx.get(address[1]).text
        load = Load(url, image())

        def without_data() -> list[str]:
            httpx.post(f"{url}/v1/jobs", json={"uri": f"file://{tmp_path}/street.png"})
            return [expression for expression in QUERIES if not has_data(prometheus, expression)]

        with contextlib.suppress(TimeoutError):
            poll(lambda: not without_data(), 120)
        assert without_data() == []
        assert not prometheus.firing()

        stopped = psutil.Process(process_of(metrics, "people"))
        stopped.suspend()
        poll(lambda: prometheus.firing() == {"VisiongraphReplicasMissing"}, 60)
        stopped.resume()
        poll(lambda: not prometheus.firing(), 60)
        load.end()
    assert list(metrics.iterdir()) == []


QUERIES = [
    expression.replace("$__rate_interval", "30s").replace("$application", ".*")
    for row in ROWS.values()
    for panel in row
    for expression in panel.queries.values()
]


def has_data(prometheus: Prometheus, expression: str) -> bool:
    return any(math.isfinite(float(series["value"][1])) for series in prometheus.query(expression))


def process_of(metrics: Path, deployment: str) -> int:
    """The process of a deployment with one replica, as its file says."""
    (found,) = (
        file.name.split("-")[1]
        for file in metrics.glob("process-*.json")
        if json.loads(file.read_text())[0]["labels"]["deployment"] == deployment
    )
    return int(found)


def said(folder: Path) -> str:
    """What a process has written to stderr."""
    return (folder / "stderr.txt").read_text()
