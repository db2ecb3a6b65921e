"""Results that are used again: when, and when not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import draw, encoded

from graph import Engine, Frame, LocalBackend, Plan, load_plan
from graph.engine.messages import StepAnswer, StepRequest
from serve_app.results import BadResultsUri, ResultStore, Reuse, StoreUnavailable

STREET = encoded(draw(("person", 10, 10, 50, 90)))


class Counted(LocalBackend):
    """Counts its calls; ``digest`` stands for tunables that change while an image is under way."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.calls = 0
        self.changed = False

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        self.calls += 1
        answer = await super().call(step, request)
        return replace(answer, info=answer.info._replace(config="another")) if self.changed else answer


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Callable[..., tuple[Engine, Counted]]]:
    made: list[Counted] = []

    def make(**step: Any) -> tuple[Engine, Counted]:
        plan = load_plan({"name": "toy", "pipeline": [{"name": "detect", "class": "toys.Blobs", **step}]})
        made.append(Counted(plan))
        return Engine(plan, made[-1]), made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ResultStore]:
    store = ResultStore.from_uri(str(tmp_path / "results"))
    yield store
    await store.close()


async def run(reuse: Reuse, engine: Engine, data: bytes = STREET, **metadata: Any) -> dict[str, Any]:
    return await reuse.run(engine, Frame.from_bytes(data), metadata=metadata, request_id="r")


async def test_the_same_bytes_are_run_once(store: ResultStore, engines: Callable[..., Any]) -> None:
    engine, backend = engines()
    reuse = Reuse(store)
    first = await run(reuse, engine, n=1, customer="number-one")
    assert await run(reuse, engine, n=2) == {**first, "metadata": {"n": 2}}  # no rule reads it
    assert backend.calls == 1
    (kept,) = map(store.objects.get, store.objects.keys("content/"))
    assert b"number-one" not in (kept or b"")  # only the image's own
    await run(reuse, engine, encoded(draw(("car", 10, 10, 50, 90))))
    assert backend.calls == 2


async def test_metadata_that_rules_read_is_part_of_the_question(
    store: ResultStore, engines: Callable[..., Any]
) -> None:
    engine, backend = engines(condition="image['metadata']['n'] > 1", on_error="skip")
    reuse = Reuse(store)
    assert [(await run(reuse, engine, n=n))["steps"][0]["status"] for n in (1, 2, 1, 2)] == ["skipped", "ok"] * 2
    assert backend.calls == 1


async def test_another_pipeline_has_results_of_its_own(store: ResultStore, engines: Callable[..., Any]) -> None:
    reuse = Reuse(store)
    (one, first), (two, second) = engines(), engines(params={"min_area": 100_000})
    assert (await run(reuse, one))["context"] != (await run(reuse, two))["context"]
    assert (first.calls, second.calls) == (1, 1)


async def test_a_result_of_two_configurations_is_not_kept(store: ResultStore, engines: Callable[..., Any]) -> None:
    engine, backend = engines()
    reuse = Reuse(store)
    backend.changed = True
    await run(reuse, engine)
    assert not list(store.objects.keys("content/"))
    backend.changed = False
    await run(reuse, engine)
    await run(reuse, engine)
    assert backend.calls == 2


async def test_a_result_with_a_failure_is_not_kept(store: ResultStore, engines: Callable[..., Any]) -> None:
    engine, _ = engines(**{"class": "toys.Failing"}, on_error="skip")
    await run(Reuse(store), engine)
    assert not list(store.objects.keys("content/"))


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("no answer"),
        BadResultsUri("there is no bucket"),
        PermissionError("403 Forbidden"),
        RuntimeError("the credentials have expired"),
    ],
)
async def test_a_store_that_fails_costs_no_result(
    store: ResultStore,
    engines: Callable[..., Any],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, _ = engines()
    asked = 0

    def fail(*_: Any) -> None:
        nonlocal asked
        asked += 1
        raise error

    monkeypatch.setattr(store.objects, "get", fail)
    monkeypatch.setattr(store.objects, "create", fail)
    reuse = Reuse(store)
    for _ in range(3):
        assert (await run(reuse, engine))["steps"][0]["status"] == "ok"
    assert asked == 1  # it is left alone for a while
    assert caplog.text.count("results are not reused for") == 1
    assert str(error) in caplog.text


async def test_a_store_that_hangs_costs_no_result_and_works_again_later(
    store: ResultStore, engines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, backend = engines()
    reuse = Reuse(store, patience_s=0.02)
    await run(reuse, engine)
    answers = threading.Event()
    get = store.objects.get
    monkeypatch.setattr(store.objects, "get", lambda key: (answers.wait(30), get(key))[1])
    async with asyncio.timeout(10):
        assert (await run(reuse, engine))["steps"][0]["status"] == "ok"
    assert "no answer within 0.02 s" in caplog.text
    answers.set()
    async with asyncio.timeout(10):
        calls = -1
        while calls != backend.calls:
            calls = backend.calls
            await run(reuse, engine)


@pytest.mark.parametrize("kept", [b"{half", b"\xff"])
async def test_a_kept_result_that_is_damaged_costs_no_result(
    store: ResultStore, engines: Callable[..., Any], kept: bytes
) -> None:
    engine, backend = engines()
    reuse = Reuse(store)
    await run(reuse, engine)
    [key] = store.objects.keys("content/")
    store.objects.put(key, kept)
    assert (await run(reuse, engine))["steps"][0]["status"] == "ok"
    other = encoded(draw(("car", 10, 10, 50, 90)))
    await run(reuse, engine, other)
    await run(reuse, engine, other)
    assert backend.calls == 3  # others are looked up and kept as before


async def test_a_bucket_that_is_not_there_costs_no_result(moto: str, engines: Callable[..., Any]) -> None:
    engine, _ = engines()
    store = ResultStore.from_uri(f"s3://nowhere/x?region=eu-west-1&endpoint_url={moto}")
    assert (await run(Reuse(store), engine))["steps"][0]["status"] == "ok"
    await store.close()
