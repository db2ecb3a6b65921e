"""The pipeline on a real Serve instance, over real HTTP."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from toys import draw, encoded

from graph import VisionPipeline

Deploy = Callable[..., httpx.Client]

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150), ("person", 200, 20, 240, 100))
CROWD = draw(
    *(("person", 4 + 30 * (n % 10), 4 + 40 * (n // 10), 24 + 30 * (n % 10), 34 + 40 * (n // 10)) for n in range(50))
)
NOTHING = draw()

PIPELINE: dict[str, Any] = {
    "name": "street",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
        {
            "name": "car_size",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "'car' in context['detect']['detected_classes']",
            "crops": "detection['class_name'] == 'car'",
            "serve": {"colocate_with": "detect"},
        },
        {
            "name": "whole",
            "class": "toys.Size",
            "depends_on": ["detect", "colour"],
            "serve": {"colocate_with": "colour"},
        },
        {
            "name": "crops_of_two",
            "class": "toys.Size",
            "depends_on": ["detect", "colour"],
            "crops": "detection['class_name'] == 'person' and len(context['colour']['objects']) > 1",
            "serve": {"colocate_with": "colour"},
        },
        {"name": "failing", "class": "toys.Failing", "depends_on": "detect", "serve": {"colocate_with": "detect"}},
        {
            "name": "slow",
            "class": "toys.Sleeper",
            "params": {"seconds": 1.0},
            "depends_on": "detect",
            "condition": "'slow' in image['metadata']",
            "timeout_ms": 200,
        },
    ],
}


def post(client: httpx.Client, image: np.ndarray = STREET, **more: Any) -> httpx.Response:
    return client.post("/v1/images", content=encoded(image), headers={"Content-Type": "image/png", **more})


def ended(result: dict[str, Any]) -> dict[str, Any]:
    """How the steps ended, without the times and where."""
    varies = {"duration_ms", "timings", "replica"}
    return {step.pop("name"): {k: v for k, v in step.items() if k not in varies} for step in result["steps"]}


@pytest.fixture(scope="module")
def client(deploy: Deploy) -> httpx.Client:
    return deploy(PIPELINE, timeout_ms=10_000)


@pytest.fixture(scope="module")
def in_process() -> Any:
    with VisionPipeline(PIPELINE) as pipeline:
        yield pipeline


@pytest.mark.parametrize("image", [STREET, CROWD, NOTHING, STREET[:1, :1]], ids=["street", "crowd", "nothing", "1x1"])
def test_gives_what_the_same_file_gives_in_process(
    client: httpx.Client, in_process: VisionPipeline, image: np.ndarray
) -> None:
    response = post(client, image)
    assert response.status_code == 200, response.text
    served, local = response.json(), in_process.run(encoded(image))
    assert served["context"] == local["context"]
    assert served["pipeline"] == local["pipeline"]
    assert served["image"] == local["image"]
    assert ended(served) == ended(local)


def test_a_failing_step_and_a_slow_one_keep_the_rest(client: httpx.Client) -> None:
    response = client.post("/v1/images", files={"image": encoded(STREET)}, data={"metadata": '{"slow": 1}'})
    result = response.json()
    steps = ended(result)
    assert steps["failing"]["error"]["type"] == "ValueError"
    assert steps["slow"] == {
        "status": "timed_out",
        "error": {"type": "StepTimeout", "detail": "no answer within 200 ms"},
    }
    assert [found["label"] for found in result["context"]["colour"]["objects"]] == ["person", "person"]


def test_images_that_are_none_are_refused_and_the_next_is_served(client: httpx.Client) -> None:
    jpeg = encoded(CROWD, "JPEG")
    for data in (b"hello", encoded(STREET)[:-40], jpeg[: len(jpeg) // 2]):
        response = client.post("/v1/images", content=data, headers={"Content-Type": "image/jpeg"})
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
    assert post(client).status_code == 200


def test_the_views(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/v1/pipeline").json()["fingerprint"] == post(client).json()["pipeline"]["fingerprint"]
    assert client.get("/docs").status_code == 200
    assert "/v1/images" in client.get("/openapi.json").json()["paths"]


def test_the_annotated_picture(client: httpx.Client) -> None:
    response = client.post(
        "/v1/images?annotate=true", content=encoded(STREET), headers={"Content-Type": "image/png", "X-Request-Id": "p1"}
    )
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-request-id"] == "p1"
    assert PIL.Image.open(io.BytesIO(response.content)).size == (320, 240)


@pytest.fixture(scope="module")
def sleeping(deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> tuple[httpx.Client, Path]:
    """Two slow steps: one for crops, the sizes of whose batches are in the file, and one with room for one call."""
    log = tmp_path_factory.mktemp("sleeping") / "batches"
    gathers = {
        "name": "gathers",
        "class": "toys.Sleeper",
        "params": {"seconds": 0.1, "log": str(log)},
        "depends_on": "detect",
        "condition": "image['metadata']['step'] == 'gathers'",
        "crops": "detection['class_name'] == 'person'",
        "serve": {"max_batch_size": 6, "max_ongoing_requests": 32},
    }
    narrow = {
        "name": "narrow",
        "class": "toys.Sleeper",
        "params": {"seconds": 0.5},
        "condition": "image['metadata']['step'] == 'narrow'",
        "serve": {"max_batch_size": 1, "max_ongoing_requests": 1, "max_queued_requests": 1},
    }
    detect = {"name": "detect", "class": "toys.Blobs", "serve": {"colocate_with": "ingress", "max_batch_size": 16}}
    return deploy({"name": "sleeping", "pipeline": [detect, gathers, narrow]}), log


def post_to(client: httpx.Client, step: str, times: int) -> list[httpx.Response]:
    """So many requests at once, of which this step has to look at the images."""
    files, data = {"image": encoded(STREET)}, {"metadata": json.dumps({"step": step})}
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: client.post("/v1/images", files=files, data=data), range(times)))


def test_crops_of_different_images_share_batches(sleeping: tuple[httpx.Client, Path]) -> None:
    client, log = sleeping
    assert {response.status_code for response in post_to(client, "gathers", 12)} == {200}
    sizes = [int(line) for line in log.read_text().split()]
    assert sum(sizes) == 24  # two persons an image
    assert max(sizes) == 6
    assert len(sizes) < 12


def test_a_full_queue_is_answered_at_once(sleeping: tuple[httpx.Client, Path]) -> None:
    responses = post_to(sleeping[0], "narrow", 10)
    refused = [r for r in responses if r.status_code == 503]
    assert refused
    assert {r.status_code for r in responses} == {200, 503}
    assert {r.headers["retry-after"] for r in refused} == {"1"}
    assert {r.json()["step"] for r in refused} == {"narrow"}


def test_who_finds_no_room_at_the_entry_is_told_when_to_try_again(deploy: Deploy) -> None:
    sleep = {
        "name": "sleep",
        "class": "toys.Sleeper",
        "params": {"seconds": 0.5},
        "serve": {"colocate_with": "ingress"},
    }
    client = deploy({"name": "entry", "pipeline": [sleep]}, max_ongoing_requests=1, max_queued_requests=1)
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: post(client), range(10)))
    refused = [r for r in responses if r.status_code == 503]
    assert refused
    assert {r.status_code for r in responses} == {200, 503}
    assert {r.headers["retry-after"] for r in refused} == {"1"}


def test_bodies_that_are_still_arriving_keep_nobody_out(deploy: Deploy) -> None:
    pipeline = {"name": "arriving", "pipeline": [{"name": "size", "class": "toys.Size"}]}
    client = deploy(pipeline, max_ongoing_requests=1, max_queued_requests=1)
    address = (client.base_url.host, client.base_url.port)
    head = "POST /arriving/v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
        for connection in slow:
            connection.sendall(head.encode())
        assert {post(client).status_code for _ in range(20)} == {200}
        slow[0].settimeout(30)
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408 ")


def test_log_lines_are_written_soon(deploy: Deploy, cluster: Any, poll: Callable[..., Any]) -> None:
    client = deploy({"name": "logging", "pipeline": [{"name": "size", "class": "toys.Size"}]})
    assert post(client, **{"X-Request-Id": "soon-1"}).status_code == 200

    def line() -> bool:
        files = (cluster.log_dir / "serve").glob("replica_logging_gateway_*.log")
        return any('"request_id": "soon-1"' in file.read_text() for file in files)

    poll(line, 5)


@pytest.mark.slow
def test_a_replica_that_dies_loses_no_request(deploy: Deploy, cluster: Any, poll: Callable[..., Any]) -> None:
    import ray

    client = deploy(
        {
            "name": "death",
            "pipeline": [
                {
                    "name": "sleep",
                    "class": "toys.Sleeper",
                    "params": {"seconds": 0.1},
                    "serve": {"num_replicas": 2, "max_batch_size": 1},
                }
            ],
        }
    )
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(post, client) for _ in range(40)]
        time.sleep(0.3)  # some are in the model now
        victim = cluster.applications()["death"]["deployments"]["sleep"]["replicas"][0]["actor_name"]
        ray.kill(ray.get_actor(victim, namespace="serve"))
        assert {future.result().status_code for future in running} == {200}
    poll(lambda: len(cluster.replicas("death", "sleep")) == 2)


@pytest.mark.slow
def test_steps_share_a_gpu(deploy: Deploy, cluster: Any) -> None:
    import ray

    gpu = [{"num_gpus": 0.5}, {"num_gpus": 0.25}, {"num_gpus": 0.25}]
    steps = [{"name": f"gpu{n}", "class": "toys.Size", "serve": options} for n, options in enumerate(gpu)]
    client = deploy({"name": "gpus", "pipeline": steps})
    assert ray.cluster_resources()["GPU"] == 1
    assert post(client).status_code == 200
    assert ray.available_resources().get("GPU", 0) < 0.01
    ids = {actor["actor_id"] for actor in _actors(cluster, "gpus")}
    assert len(ids) == 4


def _actors(cluster: Any, application: str) -> list[dict[str, Any]]:
    deployments = cluster.applications()[application]["deployments"].values()
    return [replica for deployment in deployments for replica in deployment["replicas"]]
