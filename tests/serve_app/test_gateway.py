"""Deadlines, clients that hang up and keys on a real Serve instance, which has rules of its own about the first two."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_server import RedisServer, need_redis_server
from toys import draw, encoded

from serve_app.keys import create_key, revoke_key

Deploy = Callable[..., httpx.Client]

PNG = encoded(draw(("car", 10, 10, 50, 90)))

SERVES_OWN = [
    {},
    # Switches Serve's time limit off, and keeps Serve from telling that a client has gone.
    {"X-Request-Timeout-Seconds": "-1", "X-Request-Disconnect-Disabled": "?1"},
]

# A call of a model takes so long, and one goes in after the other.
CALL_S = 0.5


class Counted:
    """Two steps, one after the other, whose model calls are counted."""

    def __init__(self, deploy: Deploy, folder: Path) -> None:
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
        self.client = deploy({"name": "deadline", "pipeline": steps}, auth={"keys_file": str(self.keys_file)})

    def calls(self) -> list[int]:
        return [len(log.read_text().split()) if log.exists() else 0 for log in self._logs]

    def post(self, timeout_s: float = 30, **headers: str) -> int | None:
        """The status, or ``None`` where the client has hung up before there was one."""
        try:
            sent = {"Content-Type": "image/png", "X-API-Key": self.key, **headers}
            return self.client.post("/v1/images", content=PNG, headers=sent, timeout=timeout_s).status_code
        except httpx.ReadTimeout:
            return None


@pytest.fixture(scope="module")
def counted(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    counted = Counted(deploy, tmp_path_factory.mktemp("calls"))
    assert counted.post() == 200
    return counted


@pytest.mark.parametrize("headers", SERVES_OWN, ids=str)
def test_past_the_deadline_the_work_behind_it_is_cancelled(counted: Counted, headers: dict[str, str]) -> None:
    before = counted.calls()
    # Two calls of the first step fit in; the third would begin 100 ms after the deadline.
    deadline = {"X-Request-Timeout-Ms": str(round(2000 * CALL_S - 100))}
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: counted.post(**deadline, **headers), range(6))) <= {408}
    time.sleep(CALL_S)
    first, second = (now - then for now, then in zip(counted.calls(), before, strict=True))
    assert first <= 2
    assert second <= 1  # of the image that was through the first step in time


@pytest.mark.parametrize("headers", SERVES_OWN, ids=str)
def test_a_client_that_hangs_up_cancels_its_work(counted: Counted, headers: dict[str, str]) -> None:
    before = counted.calls()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: counted.post(CALL_S / 2, **headers), range(4))) == [None] * 4
    time.sleep(2 * CALL_S)
    # One was in the model. The others had not got there, and the second step has heard of none.
    assert [now - then for now, then in zip(counted.calls(), before, strict=True)] == [1, 0]


@need_redis_server
def test_one_rate_for_two_replicas(deploy: Deploy, cluster: Any, tmp_path: Path) -> None:
    rate, burst = 40, 40
    pipeline = {"name": "rate", "pipeline": [{"name": "size", "class": "toys.Size"}]}
    with RedisServer(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        limits = {"default": {"requests_per_second": rate, "burst": burst}}
        redis = {"redis_url": f"redis://127.0.0.1:{server.port}"}
        client = deploy(pipeline, num_replicas=2, rate_limits=limits | redis)
        assert len(cluster.replicas("rate", "gateway")) == 2
        started, last_round, statuses = time.monotonic(), 0.0, []
        while last_round < 3.0:
            last_round = time.monotonic() - started
            statuses += pool.map(lambda _: client.get("/v1/pipeline").status_code, range(8))
        lasted = time.monotonic() - started
    assert set(statuses) == {200, 429}
    # 2%; on a busy machine the last round is long, and its requests were decided at some time within it
    assert 0.98 * (rate * last_round + burst) - 1 <= statuses.count(200) <= 1.02 * (rate * lasted + burst) + 1


def test_a_key_that_is_taken_back_is_refused_within_ten_seconds(counted: Counted, poll: Callable[..., Any]) -> None:
    key = create_key(counted.keys_file, "other", ["infer"])
    poll(lambda: counted.post(**{"X-API-Key": key}) == 200, 10)
    revoke_key(counted.keys_file, key.partition(".")[0])
    poll(lambda: counted.post(**{"X-API-Key": key}) == 401, 10)
    assert counted.post() == 200
