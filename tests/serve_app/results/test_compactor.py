"""Compaction in the background: it goes on after a failure, and its end is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pyarrow as pa
import pytest

from serve_app.results import Compactor, Objects, Outcome, ResultStore, StoreUnavailable, objects_from_uri
from serve_app.results.compaction import compact

EVERY_S = 0.01


async def poll(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(EVERY_S)


def parquet(objects: Objects) -> list[str]:
    return list(objects.keys("parquet/"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ResultStore]:
    store = ResultStore(objects_from_uri(str(tmp_path)))
    await store.journal([Outcome("bad", "succeeded", {"context": 7}), result("good")])
    yield store
    await store.close()


@pytest.fixture
async def compactor(store: ResultStore) -> AsyncIterator[Compactor]:
    compactor = Compactor(lambda: compact(store.objects), EVERY_S, lambda: True)
    compactor.start()
    yield compactor
    compactor.stop()


def result(job_id: str) -> Outcome:
    image = {"uri": None, "sha256": "0" * 64, "width": 8, "height": 6}
    pipeline = {"name": "demo", "fingerprint": "f"}
    result = {"id": job_id, "image": image, "pipeline": pipeline, "context": {}, "steps": [], "metadata": {}}
    return Outcome(job_id, "succeeded", result)


async def test_a_bad_row_does_not_end_it(store: ResultStore, compactor: Compactor) -> None:
    await poll(lambda: len(parquet(store.objects)) == 1)
    await store.journal([result("next")])
    await poll(lambda: len(parquet(store.objects)) == 2)
    assert compactor.failure() is None


@pytest.mark.parametrize(
    "error", [StoreUnavailable("no answer"), OSError("disk full"), pa.ArrowInvalid("odd"), KeyError("x")]
)
async def test_repeated_failure_is_seen_and_forgotten_once_it_works(
    store: ResultStore, compactor: Compactor, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise error

        patch.setattr(store.objects, "keys", fail)
        await poll(lambda: compactor.failure() is not None)
        assert "times in a row" in str(compactor.failure())
        assert type(error).__name__ in str(compactor.failure())
    await poll(lambda: compactor.failure() is None)
    assert len(parquet(store.objects)) == 1


async def test_its_end_is_seen(store: ResultStore) -> None:
    def fail() -> bool:
        raise RuntimeError("no rank")

    compactor = Compactor(lambda: compact(store.objects), EVERY_S, fail)
    compactor.start()
    await poll(lambda: compactor.failure() is not None)
    assert "has ended: RuntimeError('no rank')" in str(compactor.failure())


async def test_only_one_does_it(store: ResultStore) -> None:
    asked: list[bool] = []
    compactor = Compactor(store.objects, EVERY_S, lambda: bool(asked.append(True)))
    compactor.start()
    await poll(lambda: len(asked) > 3)
    compactor.stop()
    assert parquet(store.objects) == []
    await asyncio.sleep(0)
    assert compactor.failure() is None
