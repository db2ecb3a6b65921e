"""Connections to the broker that are lost, workers that are stopped, and what counts as an attempt."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import BROKERS, Broker
from intakes import Place, consuming, place, until
from tcp_proxy import TcpProxy

from graph import LocalBackend, StepBackend
from graph.engine.messages import StepAnswer, StepRequest
from serve_app.queues import Message, Queue, queue_from_url
from serve_app.queues.dead_letters import DeadLetter

_IMAGES = 24
_SLOTS = 6  # images that are in the first step at a time


class Slow:
    """A backend whose first step takes a while, and fails as often as it is told."""

    crop_budget_bytes: int | None = None

    def __init__(self, backend: StepBackend, seconds: float, fails: int = 0) -> None:
        self._backend = backend
        self._seconds = seconds
        self._slots = asyncio.Semaphore(_SLOTS)
        self.fails = fails
        self.runs: Counter[str] = Counter()

    async def describe(self) -> Any:
        return await self._backend.describe()

    async def ready(self) -> None:
        await self._backend.ready()

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        if step == "detect":
            self.runs["begun"] += 1
            async with self._slots:
                if self.fails:
                    self.fails -= 1
                    raise ConnectionError("the replica died")
                await asyncio.sleep(self._seconds)
            self.runs["ended"] += 1
        return await self._backend.call(step, request)


@contextmanager
def through_a_proxy(url: str) -> Iterator[tuple[str, TcpProxy]]:
    """A queue's URL with a proxy before its broker."""
    port = re.search(r"127\.0\.0\.1:(\d+)", url)
    assert port is not None
    with TcpProxy(int(port[1])) as proxy:
        yield url.replace(port[0], f"127.0.0.1:{proxy.port}"), proxy


async def outcomes(at: Place) -> int:
    return sum(1 for _ in at.store.objects.keys("outcomes/"))


@pytest.mark.parametrize(("scheme", "workers"), [("amqp", 1), ("amqp", 3), ("redis", 3), ("sqs", 3), ("pubsub", 3)])
async def test_a_lost_connection_costs_no_job_and_little_time(
    scheme: str, workers: int, brokers: dict[str, Broker], tmp_path: Path, toys: LocalBackend
) -> None:
    brokers[scheme].need()
    with through_a_proxy(brokers[scheme].new_url(lease_s=3)) as (url, proxy):
        async with place(tmp_path, url) as at, AsyncExitStack() as stack:
            jobs = [f"job{index}" for index in range(_IMAGES)]
            uri = at.image()
            await at.publish(*({"id": job, "uri": uri} for job in jobs))
            backend = Slow(toys, 0.3)
            for _ in range(workers):
                await stack.enter_async_context(consuming(at, backend, in_flight=12 // workers, max_attempts=1))
            for share in (4, 2):
                await until(lambda share=share: _ended(at, _IMAGES // share))
                await until(proxy.drop)  # SQS has a connection for as long as a call takes
            accepted = proxy.accepted
            await until(lambda: _ended(at, _IMAGES))
            await until(at.is_empty)
            assert await at.letters() == []
            for job in jobs:
                outcome = await at.store.outcome(job)
                assert outcome is not None
                assert outcome.status == "succeeded"
            # with one worker a message that comes again finds its first run, under way or ended
            assert backend.runs["begun"] <= (_IMAGES if workers == 1 else 1.5 * _IMAGES)
            if scheme == "amqp":  # one for each worker, and those that look at the queue from here
                assert proxy.accepted - accepted < 60


async def _ended(at: Place, count: int) -> bool:
    return await outcomes(at) >= count


async def test_a_stale_receipt_leaves_the_new_connection_alone(brokers: dict[str, Broker], tmp_path: Path) -> None:
    brokers["amqp"].need()
    with through_a_proxy(brokers["amqp"].new_url()) as (url, proxy):
        async with queue_from_url(url) as queue, queue.dead() as dead:
            await queue.publish([f"{n}".encode() for n in range(4)])
            stale = await _take(queue, 4)
            proxy.drop()
            again = {message.body: message for message in await _take(queue, 4)}
            assert len(again) == 4
            accepted = proxy.accepted
            acknowledged, requeued, put_off, given_up = stale
            await queue.ack([acknowledged])
            await queue.nack(requeued)
            await queue.nack(put_off, 0.1)
            await queue.dead_letter(given_up, b"letter")
            await queue.ack([again[stale[0].body], stale[1], again[stale[1].body]])  # one stale among good ones
            assert proxy.accepted == accepted
            await queue.ack([again[stale[2].body], again[stale[3].body]])
            assert await queue.receive(10, 0.5) == []
            assert (await queue.stats()).waiting == 0
            assert await dead.receive(10, 0.5) == []


async def test_an_old_session_that_fails_does_not_close_the_new_one(brokers: dict[str, Broker]) -> None:
    """Several calls notice a lost connection, one after another."""
    brokers["amqp"].need()
    with through_a_proxy(brokers["amqp"].new_url()) as (url, proxy):
        async with queue_from_url(url) as queue:
            await queue.publish([b"1"])
            await _take(queue, 1)
            accepted = proxy.accepted
            proxy.drop()

            async def look() -> None:
                await until(lambda: _works(queue))

            await asyncio.gather(*(look() for _ in range(8)))
            [message] = await _take(queue, 1)
            await queue.ack([message])
            assert proxy.accepted == accepted + 1


async def _works(queue: Queue) -> bool:
    try:
        await queue.stats()
    except Exception:
        return False
    return True


async def _take(queue: Queue, count: int) -> list[Message]:
    messages: list[Message] = []

    async def enough() -> bool:
        try:
            messages.extend(await queue.receive(count - len(messages), 0.5))
        except Exception:
            return False
        return len(messages) == count

    await until(enough)
    return messages


@pytest.mark.parametrize("scheme", BROKERS)
async def test_a_message_that_stopping_workers_requeue_keeps_its_attempts(
    scheme: str, brokers: dict[str, Broker], tmp_path: Path, toys: LocalBackend
) -> None:
    brokers[scheme].need()
    async with place(tmp_path, brokers[scheme].new_url()) as at:
        await at.publish({"id": "a", "uri": at.image()})
        slow = Slow(toys, 30)
        for stops in (1, 2):
            async with consuming(at, slow, max_attempts=2, stop_s=0.01):
                await until(lambda stops=stops: slow.runs["begun"] == stops)
        failing = Slow(toys, 0, fails=1)  # one failure of the two attempts that there are
        async with consuming(at, failing, max_attempts=2):
            outcome = await until(lambda: at.store.outcome("a"))
            await until(at.is_empty)
        assert outcome.status == "succeeded"
        assert failing.runs["begun"] == 2
        assert await at.letters() == []


@pytest.mark.parametrize("scheme", BROKERS)
async def test_failures_are_counted_across_workers(
    scheme: str, brokers: dict[str, Broker], tmp_path: Path, toys: LocalBackend
) -> None:
    brokers[scheme].need()
    async with place(tmp_path, brokers[scheme].new_url()) as at:
        await at.publish({"id": "a", "uri": at.image()})
        for failed in (1, 2):
            backend = Slow(toys, 0, fails=1)
            async with consuming(at, backend, retry_after_s=1.0):
                await until(lambda failed=failed: _has_failed(at, failed))
            assert backend.runs["begun"] == 1
        async with consuming(at, Slow(toys, 0, fails=9)):
            await until(lambda: at.store.outcome("a"))
            [letter] = await until(at.letters)
        assert (letter.jobs, letter.attempts, letter.type) == (("a",), 3, "StepFailed")


async def _has_failed(at: Place, times: int) -> bool:
    return await at.store.failed_attempts("a") == times


class Delivered(Queue):
    """A queue that says that its messages were delivered so many times."""

    def __init__(self, queue: Queue, count: int | None) -> None:
        self._queue = queue
        self._count = count
        self.lease_s = queue.lease_s

    def __getattribute__(self, name: str) -> Any:
        if name in ("receive", "__init__", "_queue", "_count", "lease_s"):
            return super().__getattribute__(name)
        return getattr(self._queue, name)

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        messages = await self._queue.receive(limit, wait_s)
        return [Message(m.body, self._count, m.published, m.receipt) for m in messages]

    name = open = close = publish = ack = nack = extend = dead_letter = stats = dead = None  # type: ignore[assignment]


class Growing(Delivered):
    """The first message was delivered once, the next ones very often."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue, 1)

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        messages = await Delivered.receive(self, limit, wait_s)
        if messages:
            self._count = 500
        return messages


async def test_a_job_that_has_succeeded_gets_no_dead_letter_however_often_it_is_delivered(
    at: Place, toys: LocalBackend
) -> None:
    message = {"id": "a", "uri": at.image()}
    await at.publish(message)
    async with consuming(at, toys):
        await until(lambda: at.store.outcome("a"))
        await until(at.is_empty)
    await at.publish(message)
    async with consuming(at, toys, queue=lambda queue: Delivered(queue, 1000)):
        await until(at.is_empty)
    assert await at.letters() == []


async def test_a_message_that_comes_too_often_waits_for_its_run_that_is_under_way(
    at: Place, toys: LocalBackend
) -> None:
    backend = Slow(toys, 1.0)
    uri = at.image()
    await at.publish({"id": "a", "uri": uri})
    async with consuming(at, backend, queue=Growing):
        await until(lambda: backend.runs["begun"])
        await at.publish({"id": "a", "uri": uri})
        await until(at.is_empty)
    outcome = await at.store.outcome("a")
    assert outcome is not None
    assert outcome.status == "succeeded"
    assert backend.runs["begun"] == 1
    assert await at.letters() == []


async def test_where_the_broker_counts_nothing_failures_still_count(at: Place, toys: LocalBackend) -> None:
    backend = Slow(toys, 0, fails=9)
    await at.publish({"id": "a", "uri": at.image()})
    async with consuming(at, backend, queue=lambda queue: Delivered(queue, None)):
        await until(lambda: at.store.outcome("a"))
        await until(at.is_empty)
    [letter] = await at.letters()
    assert letter.attempts == backend.runs["begun"] == 3


async def test_a_letter_of_a_message_that_says_nothing_has_one_attempt(at: Place, toys: LocalBackend) -> None:
    await at.publish(b"nonsense")
    async with consuming(at, toys, queue=lambda queue: Delivered(queue, 5)):
        await until(at.is_empty)
    letters: list[DeadLetter] = await at.letters()
    assert [letter.attempts for letter in letters] == [1]
