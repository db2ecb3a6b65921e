"""Deadlines, clients that hang up and keys on a real Serve instance, which has rules of its own about the first two."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_server import RedisServer, need_redis_server
from toys import draw, encoded

from serve_app.access.key_file import create_key, revoke_key

Deploy = Callable[..., httpx.Client]

PNG = encoded(draw(("car", 10, 10, 50, 90)))

SERVES_OWN = [
    {},
    # Switches Serve's time limit off, and keeps Serve from telling that a client has gone.
    {"X-Request-Timeout-Seconds": "-1", "X-Request-Disconnect-Disabled": "?1"},
]

RATE = 12

# A call of a model takes so long, and one goes in after the other.
CALL_S = 0.5


class Counted:
    """Two steps, one after the other, whose model calls are counted."""

    def __init__(self, deploy: Deploy, folder: Path, redis_port: int | None) -> None:
        self._logs = [folder / "first", folder / "second"]
        steps = [
            {
                "name": log.name,
                "class": "toys.Sleeper",
                "params": {"seconds": CALL_S, "log": str(log)},
                "serve": {"max_batch_size": 1, "max_ongoing_requests": 16},
            }
            for log in self._logs
        ]
        steps[1]["depends_on"] = "first"
        self.keys_file = folder / "keys.json"
        self.key = create_key(self.keys_file, "acme", ["infer"])
        limits = {"default": {}, "keys": {"busy": {"requests_per_second": RATE, "burst": 2 * RATE}}}
        redis = {"redis_url": f"redis://127.0.0.1:{redis_port}"} if redis_port is not None else {}
        self.client = deploy(
            {"name": "deadline", "pipeline": steps},
            auth={"keys_file": str(self.keys_file)},
            num_replicas=2,
            rate_limits=limits | redis,
        )

    def calls(self) -> list[int]:
        return [len(log.read_text().split()) if log.exists() else 0 for log in self._logs]

    def post(self, **headers: str) -> int:
        sent = {"Content-Type": "image/png", "X-API-Key": self.key, **headers}
        return self.client.post("/v1/images", content=PNG, headers=sent).status_code

    def send(self, **headers: str) -> socket.socket:
        """Send a request over a connection of its own, and wait for nothing."""
        url = self.client.base_url
        connection = socket.create_connection((url.host, url.port or 80))
        sent = {"Host": url.host, "Content-Type": "image/png", "Content-Length": str(len(PNG)), "X-API-Key": self.key}
        lines = [f"POST {url.path}v1/images HTTP/1.1", *(f"{key}: {value}" for key, value in (sent | headers).items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + PNG)
        return connection


@pytest.fixture(scope="module")
def counted(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("calls")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(folder)) if shutil.which("redis-server") else None
        counted = Counted(deploy, folder, None if server is None else server.port)
        assert counted.post() == 200
        yield counted


@pytest.mark.parametrize("headers", SERVES_OWN, ids=str)
def test_past_the_deadline_the_work_behind_it_is_cancelled(counted: Counted, headers: dict[str, str]) -> None:
    before = counted.calls()
    # Two calls of the first step begin before; the third would begin half a call later.
    deadline = {"X-Request-Timeout-Ms": str(round(1500 * CALL_S))}
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: counted.post(**deadline, **headers), range(6))) <= {408}
    time.sleep(CALL_S)
    first, second = (now - then for now, then in zip(counted.calls(), before, strict=True))
    assert first <= 2
    assert second <= 1  # of the image that was through the first step in time


def test_every_request_has_one_line_in_the_log_of_its_replica(counted: Counted, poll: Callable[..., Any]) -> None:
    import ray

    assert counted.post(**{"X-Request-Id": "in-the-log"}) == 200
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path(), "serve")

    def lines() -> list[dict[str, Any]]:
        texts = (log.read_text() for log in folder.glob("replica_deadline_gateway_*.log"))
        found = [line for text in texts for line in text.splitlines() if '"request_id": "in-the-log"' in line]
        return [json.loads(line) for line in found]

    poll(lambda: lines() != [])
    [line] = lines()
    assert line["status"] == 200
    assert set(line["steps"]) == {"first", "second"}


@pytest.mark.parametrize("headers", SERVES_OWN, ids=str)
def test_a_client_that_hangs_up_cancels_its_work(
    counted: Counted, poll: Callable[..., Any], headers: dict[str, str]
) -> None:
    before = counted.calls()
    connections = [counted.send(**headers) for _ in range(4)]
    poll(lambda: counted.calls()[0] > before[0])  # one is in the model, the others wait for it
    for connection in connections:
        connection.close()
    time.sleep(2 * CALL_S)
    assert [now - then for now, then in zip(counted.calls(), before, strict=True)] == [1, 0]


@need_redis_server
def test_one_rate_for_two_replicas(counted: Counted, cluster: Any, poll: Callable[..., Any]) -> None:
    assert len(cluster.replicas("deadline", "gateway")) == 2
    key = {"X-API-Key": create_key(counted.keys_file, "busy", ["infer"])}
    with ThreadPoolExecutor(4) as pool:

        def ask() -> list[int]:
            return list(pool.map(lambda _: counted.client.get("/v1/pipeline", headers=key).status_code, range(8)))

        poll(lambda: set(ask()) == {200})  # both replicas know the key
        poll(lambda: 429 in ask())  # the burst is used up
        started, statuses = time.monotonic(), []
        while (last_round := time.monotonic() - started) < 5.0:
            statuses += ask()
        lasted = time.monotonic() - started
    assert set(statuses) == {200, 429}
    # 2%, and what the rounds at either end leave open: their requests were decided at some time within them
    assert 0.98 * RATE * last_round - 2 <= statuses.count(200) <= 1.02 * RATE * lasted + 2


def test_a_key_that_is_taken_back_is_refused_within_ten_seconds(counted: Counted, poll: Callable[..., Any]) -> None:
    key = create_key(counted.keys_file, "other", ["infer"])
    poll(lambda: counted.post(**{"X-API-Key": key}) == 200, 10)
    revoke_key(counted.keys_file, key.partition(".")[0])
    poll(lambda: [counted.post(**{"X-API-Key": key}) for _ in range(4)] == [401] * 4, 10)  # by both replicas
    assert counted.post() == 200
