"""Workers on a real Serve instance: jobs over HTTP to their ends, a worker that dies, and one that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateways import problem
from toys import draw, encoded

from serve_app.queues import queue_from_url
from serve_app.results import objects_from_uri
from serve_app.results.query import query

STREET = encoded(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))


def pipeline(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "pipeline": [
            {"name": "detect", "class": "toys.Blobs"},
            {
                "name": "colour",
                "class": "toys.MeanColour",
                "depends_on": "detect",
                "serve": {"colocate_with": "detect"},
            },
            {
                "name": "slow",
                "class": "toys.Sleeper",
                "params": {"seconds": 0.2},
                "condition": "'slow' in image['metadata']",
            },
        ],
    }


def intake(folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "street.png").write_bytes(STREET)
    (folder / "images" / "text.png").write_bytes(b"no image")
    return {
        "queue": f"sqlite:///{folder}/jobs.db?lease_s=5",
        "results": str(folder / "results"),
        "fetch": {"files": [str(folder / "images")]},
        "num_cpus": 0.1,
        "in_flight": 4,
        "compact_every_s": 1,
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def client(deploy: Callable[..., httpx.Client], place: Path) -> httpx.Client:
    return deploy(pipeline("jobs"), intake=intake(place, reuse_results=True))


def test_jobs_end_and_their_results_come_to_parquet(
    client: httpx.Client, place: Path, poll: Callable[..., Any]
) -> None:
    good, bad = f"file://{place}/images/street.png", f"file://{place}/images/text.png"
    answer = client.post("/v1/jobs", json=[{"uri": good, "annotate": True}] * 5 + [{"uri": bad}])
    assert answer.status_code == 202, answer.text
    urls = [job["status_url"].removeprefix("/jobs") for job in answer.json()["jobs"]]

    def ended() -> list[dict[str, Any]] | None:
        states = [client.get(url).json() for url in urls]
        return states if all(state["status"] in ("succeeded", "failed") for state in states) else None

    states = poll(ended, 60)
    assert [state["status"] for state in states] == ["succeeded"] * 5 + ["failed"]
    assert states[0]["result"]["context"]["detect"]["detected_classes"] == ["car", "person"]
    assert states[5]["error"]["type"] == "BadImage"
    assert client.get(f"{urls[0]}/picture").content[:2] == b"\xff\xd8"
    problem(client.get("/v1/jobs/job-none"), 404, "not-found")
    objects = objects_from_uri(str(place / "results"))
    # rank 0 compacts by itself
    poll(lambda: query(objects, "SELECT count(*) FROM results").rows == [(5,)], 30)
    assert query(objects, "SELECT DISTINCT pipeline FROM results").rows == [("jobs",)]


def test_the_gateway_answers_what_a_worker_has_seen(client: httpx.Client, place: Path) -> None:
    """One store for both: the steps' durations are those of the job that ran."""
    [kept] = list(objects_from_uri(str(place / "results")).keys("content/"))[:1]
    assert kept
    answers = [
        client.post("/v1/images", content=STREET, headers={"Content-Type": "image/png"}).json() for _ in range(2)
    ]
    assert answers[0]["steps"] == answers[1]["steps"]
    assert answers[0]["id"] != answers[1]["id"]


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(
    cluster: Any, client: httpx.Client, place: Path, poll: Callable[..., Any]
) -> None:
    import ray

    uri = f"file://{place}/images/street.png"
    jobs = [{"uri": uri, "metadata": {"slow": n}} for n in range(20)]
    ids = [job["id"] for job in client.post("/v1/jobs", json=jobs).json()["jobs"]]
    [replica] = cluster.replicas("jobs", "worker")
    poll(lambda: any(client.get(f"/v1/jobs/{job}").json()["status"] == "succeeded" for job in ids), 30)
    ray.kill(ray.get_actor(f"SERVE_REPLICA::jobs#worker#{replica}", namespace="serve"))
    poll(lambda: all(client.get(f"/v1/jobs/{job}").json()["status"] == "succeeded" for job in ids), 90)
    objects = objects_from_uri(str(place / "results"))
    # what it had not acknowledged comes again when its leases run out
    ours = ", ".join(f"'{job}'" for job in ids)
    counts = f"SELECT count(*), count(DISTINCT id) FROM results WHERE id IN ({ours})"
    poll(lambda: query(objects, counts).rows == [(20, 20)], 30)


@pytest.mark.slow
def test_a_worker_that_is_stopped_gives_back_what_it_has(
    deploy: Callable[..., httpx.Client], tmp_path: Path, poll: Callable[..., Any]
) -> None:
    from ray import serve

    block = intake(tmp_path, stop_s=0.1)
    client = deploy(pipeline("stopped"), intake=block)
    uri = f"file://{tmp_path}/images/street.png"
    client.post("/v1/jobs", json=[{"uri": uri, "metadata": {"slow": n}} for n in range(40)])
    objects = objects_from_uri(str(tmp_path / "results"))
    poll(lambda: any(objects.keys("outcomes/")), 30)
    serve.delete("stopped")

    async def stats() -> Any:
        async with queue_from_url(block["queue"]) as queue:
            return await queue.stats()

    left = asyncio.run(stats())
    assert left.in_flight == 0
    assert left.waiting + len(list(objects.keys("outcomes/"))) >= 40
