"""Calls that travel together on a real Serve instance."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from toys import draw, encoded

Deploy = Callable[..., httpx.Client]

PNG = encoded(draw(("car", 10, 10, 50, 90)))


def step(**options: Any) -> dict[str, Any]:
    return {"name": "work", "class": "toys.Worker", "params": {"seconds": 0.1}, "serve": options}


def post(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/images", content=PNG, headers={"Content-Type": "image/png"})


def answers(client: httpx.Client, times: int, at_once: int) -> list[dict[str, Any]]:
    """What the step said of so many images."""
    with ThreadPoolExecutor(at_once) as pool:
        responses = list(pool.map(lambda _: post(client), range(times)))
    assert {response.status_code for response in responses} == {200}
    return [response.json()["context"]["work"] for response in responses]


def test_four_callers_fill_the_batches_of_one_replica(deploy: Deploy) -> None:
    client = deploy({"name": "four-callers", "pipeline": [step(max_batch_size=8, num_cpus=0.1)]}, num_replicas=4)
    found = answers(client, 96, 24)
    assert len({answer["process"] for answer in found}) == 1
    assert max(answer["batch"] for answer in found) == 8
    batches = sum(1 / answer["batch"] for answer in found)
    assert batches < 96 / 3


def test_one_caller_keeps_four_replicas_at_work(deploy: Deploy) -> None:
    options = {"max_batch_size": 4, "num_replicas": 4, "num_cpus": 0.1}
    client = deploy({"name": "four-replicas", "pipeline": [step(**options)]})
    found = answers(client, 128, 24)
    by_process = [answer["process"] for answer in found]
    assert len(set(by_process)) == 4
    assert min(by_process.count(process) for process in set(by_process)) > 128 / 4 / 4


def test_a_client_that_hangs_up_leaves_the_others_of_its_group_alone(
    deploy: Deploy, tmp_path: Path, poll: Callable[..., Any]
) -> None:
    log = tmp_path / "batches"
    slow = {"name": "work", "class": "toys.Sleeper", "params": {"seconds": 0.5, "log": str(log)}}
    client = deploy({"name": "hanging-up", "pipeline": [slow | {"serve": {"max_batch_size": 4, "num_cpus": 0.1}}]})

    def batches() -> list[int]:
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(post, client)
        poll(lambda: len(batches()) == 1)
        second = pool.submit(post, client)  # two groups are under way: what comes now waits for the first of them
        time.sleep(0.1)
        leaving = _send(client)
        time.sleep(0.1)  # it is the first of its group
        others = [pool.submit(post, client) for _ in range(3)]
        poll(lambda: 4 in batches())
        leaving.close()
        assert {call.result().status_code for call in (first, second, *others)} == {200}
    assert batches().count(4) == 1  # none was run again


def _send(client: httpx.Client) -> socket.socket:
    """Post over a connection of its own, and wait for nothing."""
    url = client.base_url
    connection = socket.create_connection((url.host, url.port or 80))
    head = f"POST {url.path}v1/images HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: image/png\r\n"
    connection.sendall(f"{head}Content-Length: {len(PNG)}\r\n\r\n".encode() + PNG)
    return connection
