"""Counters equal the truth: outcomes are planted over HTTP and through a queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateways import client_of, config, post
from intakes import STREET, consuming, place, until
from scrapes import growth, samples
from toys import draw, encoded

from graph import Engine, LocalBackend, load_plan
from graph.engine import Decisions, StepAnswer, StepInfo, StepOutcome, Timings
from graph.engine.messages import CropSpec
from serve_app.http.application import make_app
from serve_app.queues import queue_from_url
from serve_app.results import Outcome, ResultStore
from serve_app.telemetry import recording
from serve_app.telemetry.recording import BatchRecorder, StepRecorder

PERSON = ("person", 10, 10, 50, 90)
CAR = ("car", 100, 100, 180, 150)
TRUCK = ("truck", 200, 100, 280, 150)

# One image of each kind, and what has to be counted for it.
NOTHING, PERSONS, CARS, BOTH = (
    encoded(draw(*objects)) for objects in ((), (PERSON, ("person", 60, 10, 90, 90)), (CAR, TRUCK), (PERSON, CAR))
)


def pipeline(name: str) -> dict[str, Any]:
    """Steps with names of their own, so that no other test counts for them."""
    detect = f"{name}_detect"
    return {
        "name": name,
        "limits": {"max_bytes": 100_000, "max_pixels": 1_000_000},
        "pipeline": [
            {"name": detect, "class": "toys.Blobs"},
            {
                "name": f"{name}_color",
                "class": "toys.MeanColour",
                "depends_on": detect,
                "condition": f"'person' in context['{detect}']['detected_classes']",
                "serve": {"max_batch_size": 4},
            },
            {
                "name": f"{name}_size",
                "class": "toys.Size",
                "depends_on": detect,
                "crops": "detection['class_name'] != 'person' and 1 / (len(image['metadata']) - 1) < 2",
            },
            {
                "name": f"{name}_slow",
                "class": "toys.Sleeper",
                "params": {"seconds": 0.5},
                "timeout_ms": 100,
                "on_error": "skip",
                "condition": "'slow' in image['metadata']",
            },
            {"name": f"{name}_must", "class": "toys.Failing", "params": {"above": 200}, "on_error": "fail"},
        ],
    }


@pytest.fixture
def name() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


@pytest.fixture
def backend(name: str) -> Iterator[LocalBackend]:
    backend = LocalBackend(load_plan(pipeline(name)))
    yield backend
    backend.close()


@pytest.fixture
async def client(name: str, backend: LocalBackend) -> AsyncIterator[httpx.AsyncClient]:
    plan = load_plan(pipeline(name))
    engine = Engine(plan, backend, observer=StepRecorder(plan))
    async with client_of(make_app(lambda: engine, config())) as client:
        yield client


async def test_what_is_counted_over_http_is_what_was_sent(client: httpx.AsyncClient, name: str) -> None:
    white = encoded(draw() + 255)
    with growth() as grown:
        for image, count in ((NOTHING, 2), (PERSONS, 3), (CARS, 4), (BOTH, 5)):
            for _ in range(count):
                assert (await post(client, image)).status_code == 200
        assert (await post(client, white)).status_code == 502
        assert (await post(client, b"no image")).status_code == 422
        assert (await post(client, STREET, headers={"X-Request-Timeout-Ms": "1"})).status_code == 408
        slow = await client.post("/v1/images", files={"image": CARS}, data={"metadata": '{"slow": 1}'})
        assert slow.status_code == 200
        statuses = {step["name"].split("_")[1]: step["status"] for step in slow.json()["steps"]}
        assert statuses == {"detect": "ok", "color": "skipped", "size": "failed", "slow": "timed_out", "must": "ok"}
        await client.get("/v1/nowhere")

    images = {
        key.split("outcome=")[1][:-1]: value for key, value in grown.items() if key.startswith("visiongraph_images")
    }
    assert images == {"ok": 15, "failed": 1, "refused": 1, "timed_out": 1}
    assert grown["visiongraph_image_seconds_count{source=http}"] == 15
    assert grown["visiongraph_gateway_refusals_total{reason=step-failed}"] == 1
    assert grown["visiongraph_gateway_refusals_total{reason=bad-image}"] == 1
    assert grown["visiongraph_gateway_refusals_total{reason=deadline-exceeded}"] == 1
    assert grown["visiongraph_gateway_refusals_total{reason=not-found}"] == 1

    def of(metric: str, step: str, **labels: str) -> float:
        rest = "".join(f",{key}={value}" for key, value in labels.items())
        return grown.get(f"visiongraph_{metric}{{step={name}_{step}{rest}}}", 0)

    assert of("step_results_total", "color", status="ok") == 8
    assert of("step_results_total", "size", status="ok") == 9
    assert of("step_results_total", "size", status="failed") == 1
    assert of("step_results_total", "slow", status="timed_out") == 1
    assert of("step_results_total", "must", status="failed") == 1
    assert of("rule_decisions_total", "color", rule="condition", outcome="true") == 8
    assert of("rule_decisions_total", "color", rule="crops", outcome="true") == 3 * 2 + 5
    assert of("rule_decisions_total", "color", rule="crops", outcome="false") == 5
    assert of("rule_decisions_total", "size", rule="crops", outcome="failed") == 1
    assert of("crops_total", "color") == 11
    assert of("crops_total", "size") == 4 * 2 + 5
    assert of("crops_per_image_count", "color") == 8
    assert of("crops_per_image_sum", "color") == 11
    for phase in ("queue", "decode", "model"):
        assert of("step_seconds_count", "color", phase=phase) == 8
    assert of("confidence_count", "color") == 11
    assert grown["visiongraph_detections_total{class=truck}"] == 5


async def test_what_is_counted_through_a_queue_is_what_was_sent(
    tmp_path: Path, name: str, backend: LocalBackend
) -> None:
    plan = load_plan(pipeline(name))
    async with place(tmp_path) as at:
        messages: list[Any] = [{"id": f"{name}-{index}", "uri": at.image("a.png", BOTH)} for index in range(6)]
        messages += [{"id": f"{name}-none", "uri": at.image("b.png", b"no image")}, b"no message"]
        messages += [{"id": f"{name}-gone", "uri": f"file://{at.images}/gone.png"}, messages[0]]
        with growth() as grown:
            await at.publish(*messages)
            async with consuming(at, backend, plan=plan, max_attempts=2) as consumer:
                await until(at.is_empty)
                await until(lambda: not consumer.in_hand)
    assert outcomes(grown, "images_total") == {"ok": 6, "refused": 1, "failed": 1}
    assert outcomes(grown, "deliveries_total") == {"acknowledged": 7, "dead_letter": 3}
    assert grown["visiongraph_image_seconds_count{source=queue}"] == 6
    assert grown["visiongraph_store_write_seconds_count{outcome=ok}"] >= 8
    assert grown[f"visiongraph_step_results_total{{step={name}_color,status=ok}}"] == 6


def outcomes(grown: dict[str, float], metric: str) -> dict[str, float]:
    return {
        key.split("outcome=")[1].rstrip("}"): value
        for key, value in grown.items()
        if key.startswith(f"visiongraph_{metric}{{")
    }


class Slow(ResultStore):
    """Does not know yet, when it is asked first, what another worker has stored."""

    is_late = True

    async def outcome(self, job_id: str) -> Outcome | None:
        late, self.is_late = self.is_late, False
        return None if late else await super().outcome(job_id)


async def test_an_image_that_two_workers_finish_is_counted_by_the_first(
    tmp_path: Path, name: str, backend: LocalBackend
) -> None:
    plan = load_plan(pipeline(name))
    async with place(tmp_path) as at:
        await at.store.finish(Outcome(name, "succeeded", {}))
        await at.publish({"id": name, "uri": at.image("a.png", BOTH)})
        with growth() as grown:
            async with consuming(at, backend, plan=plan, store=Slow(at.store.objects)) as consumer:
                await until(at.is_empty)
                await until(lambda: not consumer.in_hand)
    assert outcomes(grown, "deliveries_total") == {"acknowledged": 1}
    assert outcomes(grown, "images_total") == {}


async def test_an_attempt_that_is_repeated_is_a_delivery_of_its_own(tmp_path: Path, name: str) -> None:
    steps = [{"name": f"{name}_fails", "class": "toys.Failing", "on_error": "fail"}]
    plan = load_plan({"name": name, "pipeline": steps})
    backend = LocalBackend(plan)
    async with place(tmp_path) as at:
        with growth() as grown:
            await at.publish({"id": name, "uri": at.image()})
            async with consuming(at, backend, plan=plan, max_attempts=3):
                await until(at.letters)
    backend.close()
    assert outcomes(grown, "deliveries_total") == {"retried": 2, "dead_letter": 1}
    assert outcomes(grown, "images_total") == {"failed": 1}


async def test_the_queue_is_shown_as_it_is(tmp_path: Path, backend: LocalBackend, name: str) -> None:
    async with place(tmp_path) as at, consuming(at, backend, plan=load_plan(pipeline(name))) as consumer:
        await until(lambda: consumer._queue_stats is not None)
    queue, shown = queue_from_url(at.url).name, samples()
    assert {shown[f"visiongraph_queue_messages{{queue={queue},state={s}}}"] for s in ("waiting", "in_flight")} == {0}
    assert shown[f"visiongraph_queue_oldest_age_seconds{{queue={queue}}}"] == 0


async def test_a_client_that_leaves_is_counted_as_cancelled(client: httpx.AsyncClient) -> None:
    with growth() as grown:
        request = client.post("/v1/images", files={"image": CARS}, data={"metadata": '{"slow": 1}'})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(request, 0.05)
    assert outcomes(grown, "images_total") == {"cancelled": 1}


def test_classes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_classes", {})
    plan = load_plan({"name": "p", "pipeline": [{"name": "many", "class": "toys.Blobs"}]})
    record = StepRecorder(plan)
    found = [{"class_name": f"made up {n}", "confidence": 0.5} for n in range(500)]
    with growth() as grown:
        record(plan["many"], StepOutcome("ok", 1.0, answer=answer({"detections": found})), Decisions())
    classes = {key: value for key, value in grown.items() if key.startswith("visiongraph_detections")}
    assert len(classes) == 101
    assert classes["visiongraph_detections_total{class=other}"] == 400


def answer(result: dict[str, Any]) -> StepAnswer:
    return StepAnswer(StepInfo("", "", CropSpec(None, "stretch", 0.0)), result, timings=Timings(1.0, 2.0))


def test_batches_are_counted_where_the_model_is() -> None:
    plan = load_plan({"name": "p", "pipeline": [{"name": "b", "class": "toys.Size", "serve": {"max_batch_size": 8}}]})
    record = BatchRecorder(plan["b"])
    with growth() as grown:
        record(8, 0.5)
        record(2, 0.25)
    assert grown["visiongraph_batch_fill_ratio_sum{step=b}"] == 1.25
    assert grown["visiongraph_batch_seconds_sum{step=b}"] == 0.75
