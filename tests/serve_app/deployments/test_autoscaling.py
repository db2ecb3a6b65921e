"""Replicas on a real cluster: workers follow the backlog of a queue, to zero and back; a step follows its crops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from toys import draw, encoded

from serve_app.autoscaling import BacklogAutoscaling, worker_replicas, worker_stats
from serve_app.queues import queue_from_url


class Idle:
    """A worker that takes nothing."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        return worker_stats(None, rate=0.0, in_hand=0, room=8)


@pytest.mark.slow
def test_workers_follow_the_backlog(cluster: Any, poll: Callable[..., Any], tmp_path: Path) -> None:
    from ray import serve

    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    scaling = BacklogAutoscaling(min_replicas=0, max_replicas=2, drain_s=10, downscale_delay_s=1)
    worker = serve.deployment(Idle).options(
        name="worker", ray_actor_options={"num_cpus": 0.1}, **worker_replicas(None, scaling, url)
    )
    serve.run(worker.bind(), name="backlog", route_prefix="/backlog")
    try:
        assert cluster.replicas("backlog", "worker") == []
        asyncio.run(publish(url, 200))
        poll(lambda: len(cluster.replicas("backlog", "worker")) == 2, 60)
        asyncio.run(take_all(url))
        poll(lambda: cluster.replicas("backlog", "worker") == [], 60)
    finally:
        serve.delete("backlog", _blocking=False)


async def publish(url: str, count: int) -> None:
    async with queue_from_url(url) as queue:
        await queue.publish([b"{}"] * count)


async def take_all(url: str) -> None:
    async with queue_from_url(url) as queue:
        while messages := await queue.receive(100, 0):
            await queue.ack(messages)


@pytest.mark.slow
def test_a_step_follows_its_crops(deploy: Callable[..., httpx.Client], cluster: Any, poll: Callable[..., Any]) -> None:
    """One image at a time, which would never be too much for a replica that takes four: its twelve crops are."""
    scaling = {"max_replicas": 2, "upscale_delay_s": 0, "downscale_delay_s": 1}
    client = deploy(
        {
            "name": "crops",
            "pipeline": [
                {"name": "detect", "class": "toys.Blobs"},
                {
                    "name": "sleep",
                    "class": "toys.Sleeper",
                    "params": {"seconds": 0.2},
                    "depends_on": "detect",
                    "crops": "True",
                    "serve": {"max_batch_size": 4, "autoscaling": scaling},
                },
            ],
        }
    )
    boxes = [
        ("car", 10 + 60 * column, 10 + 60 * row, 50 + 60 * column, 50 + 60 * row)
        for column in range(4)
        for row in range(3)
    ]
    image = encoded(draw(*boxes))
    assert len(cluster.replicas("crops", "sleep")) == 1
    with ThreadPoolExecutor(1) as pool:
        is_over = False

        def load() -> set[int]:
            statuses = set()
            while not is_over:
                statuses.add(
                    client.post("/v1/images", content=image, headers={"Content-Type": "image/png"}).status_code
                )
            return statuses

        statuses = pool.submit(load)
        try:
            poll(lambda: len(cluster.replicas("crops", "sleep")) == 2, 60)
        finally:
            is_over = True
        assert statuses.result() == {200}
    poll(lambda: len(cluster.replicas("crops", "sleep")) == 1, 60)
