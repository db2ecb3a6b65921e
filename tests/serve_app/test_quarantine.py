"""An image that ends the process of a step, on a real Serve instance: by HTTP and from a queue, in a deployment of its
own and beside the gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos.ledger import letters_of
from gateways import problem
from soak.steps import picture

from serve_app.queues import queue_from_url
from serve_app.results import ResultStore

pytestmark = pytest.mark.slow

STEP = {"name": "one", "class": "soak.steps.One", "serve": {"num_cpus": 0.1}}


def post(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/v1/images", content=body, headers={"Content-Type": "image/png"})


def test_only_the_image_itself_fails(deploy: Callable[..., httpx.Client]) -> None:
    client = deploy({"name": "crashing", "pipeline": [STEP]}, num_replicas=2)
    assert post(client, picture(0)).status_code == 200
    with ThreadPoolExecutor(9) as pool:
        bad = pool.submit(post, client, picture(1, "segmentation fault"))
        good = list(pool.map(lambda n: post(client, picture(n)), range(2, 66)))
        body = problem(bad.result(), 422, "quarantined")
    assert "crashed the process of 'one' 2 times and is refused until" in body["detail"]
    assert [answer.status_code for answer in good] == [200] * len(good)
    time.sleep(1.5)  # until both gateways have heard of it
    for _ in range(4):
        began = time.monotonic()
        problem(post(client, picture(1, "segmentation fault")), 422, "quarantined")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("host", ["its own", "the worker"])
def test_a_message_becomes_a_dead_letter(
    host: str, deploy: Callable[..., httpx.Client], tmp_path: Path, poll: Callable[..., Any]
) -> None:
    kinds = {"good": None, "bad": "exits"}
    for number, (name, kind) in enumerate(kinds.items()):
        (tmp_path / f"{name}.png").write_bytes(picture(number + 100, kind))
    intake = {
        "queue": f"sqlite:///{tmp_path}/jobs.db?lease_s=2",
        "results": str(tmp_path / "results"),
        "fetch": {"files": [str(tmp_path)]},
        "num_cpus": 0.1,
        "in_flight": 4,
    }
    serve = STEP["serve"] if host == "its own" else {"colocate_with": "ingress", "num_cpus": 0.1}
    name = f"crashing-{host.replace(' ', '-')}"
    deploy({"name": name, "pipeline": [{**STEP, "serve": serve}]}, intake=intake)

    names = ["bad", *(f"good-{n}" for n in range(20))]

    async def publish() -> None:
        async with queue_from_url(intake["queue"]) as queue:
            uris = {job: f"file://{tmp_path}/{job.split('-')[0]}.png" for job in names}
            await queue.publish([json.dumps({"id": job, "uri": uri}).encode() for job, uri in uris.items()])

    async def states() -> list[str | None]:
        store = ResultStore.from_uri(intake["results"])
        outcomes = [await store.outcome(job) for job in names]
        await store.close()
        return [None if outcome is None else outcome.status for outcome in outcomes]

    asyncio.run(publish())
    poll(lambda: None not in asyncio.run(states()), 90)
    assert asyncio.run(states()) == ["failed", *["succeeded"] * 20]
    [letter] = poll(lambda: asyncio.run(letters_of(intake["queue"])), 30)
    assert (letter.jobs, letter.type) == (("bad",), "Quarantined")
