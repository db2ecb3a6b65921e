"""When the processes of a new version may take over, without a cluster around them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from classifiers import ModelNotFound, SetupError
from graph import load_plan
from graph.pipeline_file.serve_options import AutoscalingConfig
from graph.pipeline_file.split import structure
from serve_app.deployments import rollout
from serve_app.deployments.rollout import Rollout, awaited_hosts

FIRST = {"name": "first", "class": "toys.Blobs"}
SECOND = {"name": "second", "class": "toys.Size", "depends_on": "first"}
IDLE = {"name": "idle", "class": "toys.Size", "serve": {"autoscaling": {"min_replicas": 0, "max_replicas": 1}}}


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The cluster's key-value store, and short times."""
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(rollout, "ClusterStore", lambda prefix: kept)
    monkeypatch.setattr(rollout.serve, "get_replica_context", lambda: SimpleNamespace(app_name="app"))
    monkeypatch.setattr(rollout, "_POLL_S", 0.01)
    monkeypatch.setattr(rollout, "_FAILED_FOR_S", 0.1)
    monkeypatch.setattr(rollout, "_LONGEST_S", 0.3)
    monkeypatch.setattr(rollout, "_SAY_EVERY_S", 0.05)
    return kept


def version(*steps: dict[str, Any]) -> Callable[[str], Rollout]:
    """Makes the processes of a version."""
    plan = load_plan({"pipeline": list(steps)})
    return lambda host: Rollout(structure(plan.config), plan, host, awaited_hosts(plan, None))


async def load(process: Rollout, error: Exception | None = None) -> None:
    async with process.loading():
        if error is not None:
            raise error


async def test_no_process_is_ready_before_all_of_them_have_loaded() -> None:
    process = version(FIRST, SECOND)
    first = asyncio.create_task(load(process("first")))
    gateway = asyncio.create_task(load(process("ingress")))
    second = process("second")
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not gateway.done()
    await asyncio.gather(load(second), first, gateway)


async def test_a_replica_of_a_version_that_was_complete_waits_for_nobody() -> None:
    process = version(FIRST, SECOND)
    await asyncio.gather(*(load(process(host)) for host in ("first", "second", "ingress")))
    await load(process("second"))


async def test_a_step_that_may_have_no_replica_is_not_waited_for() -> None:
    process = version(FIRST, IDLE)
    await asyncio.gather(load(process("first")), load(process("ingress")))


def test_nor_is_a_gateway_that_may_have_none() -> None:
    scaling = AutoscalingConfig(min_replicas=0, max_replicas=1)
    assert awaited_hosts(load_plan({"pipeline": [FIRST, IDLE]}), scaling) == ["first"]


async def test_a_version_with_a_step_that_cannot_be_loaded_does_not_take_over(store: dict[str, bytes]) -> None:
    await asyncio.gather(*(load(version(FIRST)(host)) for host in ("first", "ingress")))
    process = version(FIRST, SECOND)
    broken = process("second")
    with pytest.raises(ModelNotFound):
        await load(broken, ModelNotFound("no such model"))
    with pytest.raises(SetupError, match="its second could not be loaded: ModelNotFound: no such model; the previous"):
        await load(process("first"))
    await load(version(FIRST)("first"))  # the one before it is still complete


async def test_one_that_is_tried_again_is_waited_for() -> None:
    process = version(FIRST, SECOND)
    with pytest.raises(ModelNotFound):
        await load(process("second"), ModelNotFound("no such model"))
    others = [asyncio.create_task(load(process(host))) for host in ("first", "ingress")]
    await asyncio.sleep(0.05)
    again = process("second")
    await asyncio.sleep(0.1)  # longer than a failure counts
    await asyncio.gather(load(again), *others)


async def test_one_that_never_ends_is_given_up() -> None:
    process = version(FIRST, SECOND)
    process("second")  # it dies while it loads
    with pytest.raises(SetupError, match="its second could not be loaded: it did not finish"):
        await asyncio.gather(load(process("first")), load(process("ingress")))


async def test_where_there_is_no_room_for_one_the_others_take_over(caplog: pytest.LogCaptureFixture) -> None:
    process = version(FIRST, SECOND)
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(load(process("first")), load(process("ingress")))
    assert "waiting for the rest of this version to load: second" in caplog.text
    assert "second of this version has no replica" in caplog.text


async def test_versions_before_a_complete_one_are_forgotten(store: dict[str, bytes]) -> None:
    await asyncio.gather(*(load(version(FIRST)(host)) for host in ("first", "ingress")))
    process = version(FIRST, SECOND)
    await asyncio.gather(*(load(process(host)) for host in ("first", "second", "ingress")))
    assert len(store) == 4
    back = asyncio.create_task(load(version(FIRST)("first")))  # so the first one is waited for again
    await asyncio.sleep(0.05)
    assert not back.done()
    await asyncio.gather(load(version(FIRST)("ingress")), back)


async def test_later_changes_of_tunables_wait_for_nobody(store: dict[str, bytes]) -> None:
    process = version(FIRST)
    first = process("first")
    await asyncio.gather(load(first), load(process("ingress")))
    store.clear()
    await load(first)
    assert store == {}
