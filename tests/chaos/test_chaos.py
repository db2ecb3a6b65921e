"""The chaos runs: that their checker sees what is lost and doubled, and one short run of each of two brokers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from brokers import AWS, Broker, need_server
from chaos.ledger import Ledger, Remains, check, letters_of
from chaos.places import Deliveries, count_deliveries, delivered_from
from chaos.plan import Fault, Image, Plan
from chaos.storage import FailingAws
from redis_server import need_redis_server
from tcp_proxy import TcpProxy

from serve_app.queues import DeadLetter, Queue, queue_from_url
from serve_app.results import Objects, Outcome, ResultStore, objects_from_uri
from serve_app.results.compaction import compact

_ROOT = Path(__file__).parents[2]


def succeeded(job: str) -> Outcome:
    result: dict[str, Any] = {
        "id": job,
        "image": {"uri": "s3://b/1.jpg", "sha256": "0" * 64, "width": 8, "height": 6},
        "pipeline": {"name": "demo", "fingerprint": "f"},
        "context": {"size": {"height": 6}},
        "steps": [{"name": "size", "status": "ok", "duration_ms": 1.5}],
        "metadata": {},
    }
    return Outcome(job, "succeeded", result)


@dataclass
class Ended:
    """Ten good jobs, one that failed, and a message that is no job."""

    ledger: Ledger
    objects: Objects
    queue: Queue
    url: str
    folder: Path

    async def findings(self) -> list[str]:
        letters = await letters_of(self.url, quiet_s=0.05)
        return check(self.ledger, Remains.read(self.objects, letters))

    def file(self, pattern: str) -> Path:
        return sorted((self.folder / "results").rglob(pattern))[0]


@pytest.fixture
async def ended(tmp_path: Path) -> AsyncIterator[Ended]:
    store = ResultStore.from_uri(str(tmp_path / "results"))
    good = [f"good-{n}" for n in range(10)]
    outcomes = [succeeded(job) for job in good]
    await asyncio.gather(*map(store.finish, outcomes))
    await store.finish(Outcome("bad", "failed", error={"type": "BadImage", "detail": "this is not an image"}))
    await store.journal(outcomes)
    compact(store.objects)
    ledger = Ledger({job: Image(job, "raw", "good") for job in good}, {b"{": Image("2", "raw", "no json")})
    ledger.jobs["bad"] = Image("1", "raw", "text")
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with queue_from_url(url) as queue:
        await give_up(queue, b'{"id": "bad", "uri": "s3://b/text"}', ("bad",))
        await give_up(queue, b"{", ())
        yield Ended(ledger, store.objects, queue, url, tmp_path)
    await store.close()


async def give_up(queue: Queue, body: bytes, jobs: tuple[str, ...], reason: str = "this is not an image") -> None:
    await queue.publish([body])
    [message] = await queue.receive(1, 1)
    await queue.dead_letter(message, DeadLetter.of(message, jobs, "BadImage", reason).encode())


async def test_what_is_right_is_found_right(ended: Ended) -> None:
    assert await ended.findings() == []
    # a crash may double a letter: both have one id
    await give_up(ended.queue, b'{"id": "bad", "uri": "s3://b/text"}', ("bad",))
    assert await ended.findings() == []


async def test_a_lost_outcome_is_found(ended: Ended) -> None:
    ended.file("good-3.json").unlink()
    assert await ended.findings() == ["lost: good-3 (raw, good) was accepted and has no outcome"]


async def test_half_an_outcome_is_found(ended: Ended) -> None:
    file = ended.file("good-3.json")
    file.write_bytes(file.read_bytes()[:50])
    [half, lost] = await ended.findings()
    assert half.endswith("good-3.json is not a whole outcome, or the second one of its job")
    assert lost.startswith("lost: good-3")


async def test_a_row_that_is_there_twice_is_found(ended: Ended) -> None:
    store = ResultStore(ended.objects)
    file = ended.file("*.parquet")
    shutil.copy(file, file.with_name("part-0000000009.parquet"))
    assert sorted(await ended.findings()) == [f"doubled: good-{n} has 2 rows in Parquet" for n in range(10)]
    await store.close()


async def test_a_row_that_is_missing_and_one_too_many_are_found(ended: Ended) -> None:
    ended.file("*.parquet").unlink()
    store = ResultStore(ended.objects)
    await store.journal([succeeded(job) for job in [*sorted(ended.ledger.good)[1:], "bad"]])
    compact(ended.objects)
    assert await ended.findings() == ["lost: good-0 is not in Parquet", "bad is in Parquet, and should not be"]
    await store.close()


@pytest.mark.parametrize(
    ("kind", "finding"),
    [("text", "good-3 (raw, text) has succeeded: None"), ("missing", "lost: good-3 (missing) has no dead letter")],
)
async def test_poison_that_passes_is_found(ended: Ended, kind: Any, finding: str) -> None:
    ended.ledger.jobs["good-3"] = Image("3", "raw", kind)
    assert finding in await ended.findings()


async def test_wrong_letters_are_found(ended: Ended) -> None:
    await give_up(ended.queue, b'{"id": "good-3"}', ("good-3",))
    await give_up(ended.queue, b'{"id": "bad"}', ("bad", "good-4"))
    await give_up(ended.queue, b"[", (), "Traceback (most recent call last)")
    assert sorted(await ended.findings()) == [
        "1 dead letters have the message b'['",
        "a dead letter says nothing that helps: BadImage: Traceback (most recent call last)",
        "doubled: bad has 2 dead letters of different ids",
        "false: good-3 succeeded, and has a dead letter",
        "false: good-4 succeeded, and has a dead letter",
    ]


async def test_lost_letters_and_unknown_outcomes_are_found(ended: Ended) -> None:
    ended.ledger.jobs.pop("good-3")
    ended.ledger.messages[b"x"] = ended.ledger.messages[b"{"]
    assert sorted(await ended.findings()) == [
        "good-3 has an outcome, and nobody was told that it was accepted",
        "good-3 is in Parquet, and should not be",
        "lost: the message b'x' has no dead letter",
    ]


async def test_more_deliveries_than_the_faults_explain_are_found(ended: Ended) -> None:
    ended.ledger.jobs["good-2"] = Image("2", "raw", "good", messages=2)
    ended.ledger.redeliveries = Fault(0.5, "drop broker connections").redeliveries
    deliveries = {"good-1": 3, "good-2": 4, "good-3": 4}
    found = Remains.read(ended.objects, await letters_of(ended.url, quiet_s=0.05), deliveries)
    assert check(ended.ledger, found) == ["good-3 was delivered 4 times, and the faults explain 3"]


@pytest.mark.parametrize("scheme", ["sqlite", "redis", "amqp", "sqs"])
async def test_deliveries_are_counted(scheme: str, aws: FailingAws, tmp_path: Path) -> None:
    file, deliveries = tmp_path / "jobs.db", Deliveries()
    port = {"sqlite": 0, "redis": 6379, "amqp": 5672, "sqs": int(aws.url.rsplit(":", 1)[1])}[scheme]
    if scheme in ("redis", "amqp"):
        need_server(scheme, port)
    with TcpProxy(port, deliveries.seen) as proxy:
        templates = {
            "sqlite": f"sqlite:///{file}?lease_s={{lease_s}}",
            "redis": f"redis://127.0.0.1:{proxy.port}/0?stream={{name}}&lease_s={{lease_s}}",
            "amqp": f"amqp://guest:guest@127.0.0.1:{proxy.port}/?queue={{name}}",
            "sqs": f"sqs://{{name}}?region=eu-west-1&endpoint_url=http://127.0.0.1:{proxy.port}&create=true",
        }
        broker = Broker(scheme, templates[scheme])
        async with queue_from_url(broker.new_url()) as queue:
            if scheme == "sqlite":
                count_deliveries(file)
            await queue.publish([json.dumps({"id": f"job-{n}", "uri": "s3://b/1.jpg"}).encode() for n in range(3)])
            await queue.stats()  # looking is no delivery
            received = 0
            while received < 4:
                for message in await queue.receive(10, 1):
                    received += 1
                    is_first = b"job-1" in message.body and message.deliveries == 1
                    await (queue.nack(message) if is_first else queue.ack([message]))
    counts = delivered_from(file) if scheme == "sqlite" else deliveries.counts
    await asyncio.to_thread(broker.clean)
    assert counts == {"job-0": 1, "job-1": 2, "job-2": 1}


def test_a_seed_is_a_plan() -> None:
    assert Plan.of(3, "redis", 200, 8) == Plan.of(3, "redis", 200, 8)
    assert Plan.of(3, "redis", 200, 8) != replace(Plan.of(4, "redis", 200, 8), seed=3)
    plan = Plan.of(3, "redis", 200, 6)
    assert len({fault.kind for fault in plan.faults}) == 6
    assert [fault.at for fault in plan.faults] == sorted(fault.at for fault in plan.faults)
    assert sum(image.kind != "good" for image in plan.images) == 10
    assert 0 < sum(image.is_slow for image in plan.images) < 30
    assert all(fault.redeliveries > 0 for fault in Plan.of(3, "amqp", 200, 20).faults)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with FailingAws() as aws:
        yield aws


def test_a_failing_store_does_some_of_what_it_denies(aws: FailingAws) -> None:
    through, around = (
        objects_from_uri(f"s3://b?region=eu-west-1&endpoint_url={url}") for url in (aws.url, aws.honest_url)
    )
    aws.fail("store answers 500", 0.15)
    assert all(through.create(f"{n}", b"1") for n in range(4))
    assert aws.s3.objects == {f"b/{n}": b"1" for n in range(4)}
    aws.fail("store hangs", 0.5)
    started = time.monotonic()
    assert around.get("1") == b"1"
    assert time.monotonic() - started < 0.4
    assert through.get("1") == b"1"
    assert time.monotonic() - started >= 0.4
    assert not aws.failing()[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@need_redis_server
def test_a_short_run_of_chaos() -> None:
    """Three faults, a redeployment and lost connections among them; ``make chaos`` has the others and each broker."""
    command = [sys.executable, "-m", "chaos", "--seeds", "2", "--brokers", "redis", "--images", "150"]
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])
    done = subprocess.run(
        [*command, "--faults", "3"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("1 of 1 runs were right\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_lost_connection_while_steps_take_seconds() -> None:
    """At RabbitMQ, where messages are bound to their connection; ``python -m chaos.drops`` has the other brokers."""
    need_server("RabbitMQ", 5672)
    command = [sys.executable, "-m", "chaos.drops", "--brokers", "amqp", "--messages", "24"]
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
