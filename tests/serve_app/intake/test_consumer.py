"""From a queue to records of how jobs ended, with real brokers, real files and toy classifiers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from brokers import BROKERS, Broker
from intakes import STREET, Place, Site, consuming, place, until
from toys import draw, encoded

from graph import LocalBackend, Overloaded, Plan, StepBackend, StepUnavailable, Unreachable, load_plan
from graph.engine.messages import StepAnswer, StepRequest
from serve_app.queues import Message, Queue, QueueStats, QueueUnavailable, queue_from_url
from serve_app.results import (
    JobMarker,
    Objects,
    Outcome,
    ResultStore,
    StoreUnavailable,
    objects_from_uri,
)
from serve_app.results.compaction import compact
from serve_app.results.query import query


class Doubtful:
    """A backend that has its moods: ``mood`` may raise before a call."""

    crop_budget_bytes: int | None = None

    def __init__(self, backend: StepBackend, mood: Callable[[str], None] = lambda _: None) -> None:
        self._backend = backend
        self.mood = mood
        self.calls: Counter[str] = Counter()

    async def describe(self) -> Any:
        return await self._backend.describe()

    async def ready(self) -> None:
        await self._backend.ready()

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        self.calls[step] += 1
        self.mood(step)
        return await self._backend.call(step, request)


class AwayObjects(Objects):
    """A store that is away while ``is_away``."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.is_away = False
        self.refused = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("get", "put", "create", "delete", "info", "entries", "folders"):
            if self.is_away:
                self.refused += 1
                raise StoreUnavailable("the store is away")
            return getattr(self._objects, name)
        return super().__getattribute__(name)

    def filesystem(self) -> Any:
        return self._objects.filesystem()

    get = put = create = delete = info = entries = folders = presigned_put = None  # type: ignore[assignment]


@asynccontextmanager
async def slow_steps(tmp_path: Path, seconds: float) -> AsyncIterator[tuple[Plan, LocalBackend, Callable[[], int]]]:
    """A pipeline of one slow step; the last is how many images it has seen."""
    log = tmp_path / "images.log"
    step = {"name": "slow", "class": "toys.Sleeper", "params": {"seconds": seconds, "log": str(log)}}
    plan = load_plan({"name": "slow", "pipeline": [step]})
    backend = LocalBackend(plan)
    warm = len(log.read_text().split()) if log.exists() else 0
    try:
        yield plan, backend, lambda: sum(map(int, log.read_text().split())) - warm if log.exists() else 0
    finally:
        backend.close()


def rows(at: Place) -> list[str]:
    """The ids in Parquet."""
    compact(at.store.objects)
    return [row[0] for row in query(at.store.objects, "SELECT id FROM results ORDER BY id").rows]


@pytest.mark.parametrize("scheme", BROKERS)
async def test_every_job_ends_once(scheme: str, brokers: dict[str, Broker], tmp_path: Path, toys: LocalBackend) -> None:
    brokers[scheme].need()
    async with place(tmp_path, brokers[scheme].new_url()) as at:
        uri = at.image()
        good = [f"good-{index}" for index in range(12)]
        bad = {
            "text": at.image("text.png", b"no image"),
            "gone": f"{uri}.gone",
            "outside": "file:///etc/hostname",
            "web": "https://example.com/a.png",
        }
        await at.publish(
            *({"id": job, "uri": uri, "metadata": {"n": job}} for job in good),
            *({"id": job, "uri": address} for job, address in bad.items()),
            b"nonsense",
        )
        async with consuming(at, toys, own={"files": [str(at.images)]}) as consumer:
            for job in [*good, *bad]:
                await until(lambda job=job: at.store.outcome(job))
            await until(lambda: consumer.in_hand == 0)
        outcomes = {job: await at.store.outcome(job) for job in [*good, *bad]}
        assert {job for job, outcome in outcomes.items() if outcome and outcome.status == "succeeded"} == set(good)
        result = outcomes["good-3"].result  # type: ignore[union-attr]
        assert result is not None
        assert (result["id"], result["image"]["uri"], result["metadata"]) == ("good-3", uri, {"n": "good-3"})
        assert result["context"]["detect"]["detected_classes"] == ["car", "person"]
        letters = {letter.jobs: letter for letter in await at.letters()}
        assert set(letters) == {(job,) for job in bad} | {()}
        assert (letters[()].type, letters[()].body) == ("BadMessage", b"nonsense")
        assert {jobs[0]: letter.type for jobs, letter in letters.items() if jobs} == {
            "text": "BadImage",
            "gone": "FetchFailed",
            "outside": "Forbidden",
            "web": "Forbidden",
        }
        assert json.loads(letters["text",].body) == {"id": "text", "uri": bad["text"]}
        assert rows(at) == sorted(good)
        assert await at.is_empty()


async def test_what_has_ended_is_not_done_again(at: Place, toys: LocalBackend) -> None:
    """A worker died between the result and the acknowledgement: the message comes again, and the row is not lost."""
    backend = Doubtful(toys)
    uri = at.image()
    async with consuming(at, backend):
        await at.publish({"id": "a", "uri": uri})
        done = await until(lambda: at.store.outcome("a"))
        await until(at.is_empty)
    seen = backend.calls["detect"]
    for key in list(at.store.objects.keys("journal/")):
        at.store.objects.delete(key)  # as if it had died before that, too
    async with consuming(at, backend):
        await at.publish({"id": "a", "uri": uri})
        await until(at.is_empty)
    assert backend.calls["detect"] == seen == 1
    assert await at.store.outcome("a") == done
    assert rows(at) == ["a"]


async def test_a_job_that_comes_twice_at_once_runs_once(at: Place, tmp_path: Path) -> None:
    async with slow_steps(tmp_path, 0.3) as (plan, backend, images):
        await at.publish(*[{"id": "twice", "uri": at.image()}] * 3)
        async with consuming(at, backend, plan=plan):
            await until(at.is_empty)
        assert images() == 1


async def test_what_may_pass_is_tried_again(at: Place, toys: LocalBackend, site: Site) -> None:
    site.answers["/later.png"] = [503, 503, 200]
    site.answers["/never.png"] = [500] * 9
    site.answers["/gone.png"] = [404] * 9
    await at.publish(*({"id": name, "uri": f"{site.url}/{name}.png"} for name in ("later", "never", "gone")))
    async with consuming(at, toys, own=site.rules):
        for job in ("later", "never", "gone"):
            await until(lambda job=job: at.store.outcome(job))
        await until(at.is_empty)
    outcome = await at.store.outcome("later")
    assert outcome is not None
    assert outcome.status == "succeeded"
    letters = {letter.jobs[0]: letter for letter in await at.letters()}
    assert {job: (letter.attempts, letter.reason) for job, letter in letters.items()} == {
        "never": (3, "the source answered 500; the image must be available without a login"),
        "gone": (1, "the source answered 404; the image must be available without a login"),
    }
    assert site.asked == {"/later.png": 3, "/never.png": 3, "/gone.png": 1}


async def test_overload_is_no_attempt(at: Place, toys: LocalBackend) -> None:
    backend = Doubtful(toys)

    def full(step: str) -> None:
        if step == "detect" and backend.calls[step] < 4:
            raise Overloaded("no room", retry_after_s=1)

    backend.mood = full
    await at.publish({"id": "a", "uri": at.image()})
    async with consuming(at, backend, max_attempts=1):
        outcome = await until(lambda: at.store.outcome("a"))
    assert outcome.status == "succeeded"
    assert backend.calls["detect"] == 4


@pytest.mark.parametrize("lost", ["detect", "colour"])
async def test_a_step_that_is_lost_with_the_image_is_tried_again_and_never_a_result(
    at: Place, toys: LocalBackend, lost: str
) -> None:
    backend = Doubtful(toys)

    def dead(step: str) -> None:
        if step == lost:
            raise Unreachable("the replica died")

    backend.mood = dead
    await at.publish({"id": "a", "uri": at.image()})
    async with consuming(at, backend):
        outcome = await until(lambda: at.store.outcome("a"))
        await until(at.is_empty)
    assert backend.calls[lost] == 3
    assert outcome.status == "failed"
    [letter] = await at.letters()
    assert (letter.type, letter.attempts) == ("Unreachable", 3)


async def test_a_step_that_was_removed_is_waited_for_and_is_no_attempt(at: Place, toys: LocalBackend) -> None:
    backend = Doubtful(toys)

    def removed(step: str) -> None:
        if step == "colour" and backend.calls[step] < 4:
            raise StepUnavailable("it was removed")

    backend.mood = removed
    await at.publish({"id": "a", "uri": at.image()})
    async with consuming(at, backend, max_attempts=1):
        outcome = await until(lambda: at.store.outcome("a"))
    assert outcome.status == "succeeded"
    assert [step["status"] for step in outcome.result["steps"]] == ["ok", "ok"]
    assert backend.calls["colour"] == 4


async def test_while_the_store_is_away_nothing_is_lost_or_done_twice(at: Place, toys: LocalBackend) -> None:
    objects = AwayObjects(objects_from_uri(at.results))
    store, backend = ResultStore(objects), Doubtful(toys)
    uri = at.image()
    jobs = [f"job{index}" for index in range(8)]

    def away(step: str) -> None:  # while the first images are in the pipeline
        objects.is_away = True
        backend.mood = lambda _: None

    backend.mood = away
    await at.publish(*({"id": job, "uri": uri} for job in jobs))
    async with consuming(at, backend, store=store, max_attempts=1):
        await until(lambda: objects.refused > 3)
        objects.is_away = False
        await until(at.is_empty)
    assert rows(at) == jobs
    assert backend.calls["detect"] == len(jobs)
    assert await at.letters() == []
    await store.close()


class Flickering(Queue):
    """A queue whose broker is away every third time that it is asked; at every other, callers fell into step."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._asked = 0
        self.lease_s = queue.lease_s

    def __getattribute__(self, name: str) -> Any:
        if name in ("receive", "ack", "nack", "extend", "dead_letter", "stats"):
            self._asked += 1
            if self._asked % 3 == 1:
                raise_it: Any = _unavailable
                return raise_it
            return getattr(self._queue, name)
        return super().__getattribute__(name)

    @property
    def name(self) -> str:
        return self._queue.name

    async def open(self) -> None:
        await self._queue.open()

    async def close(self) -> None:
        await self._queue.close()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await self._queue.publish(bodies)

    def dead(self) -> Queue:
        return self._queue.dead()

    receive = ack = nack = extend = dead_letter = stats = None  # type: ignore[assignment]


async def _unavailable(*_: Any) -> None:
    raise QueueUnavailable("the broker is away")


async def test_a_broker_that_comes_and_goes(at: Place, toys: LocalBackend) -> None:
    # all tries of a call may fall on when it is away: then the message comes again with the end of its lease
    at = Place(f"{at.url}?lease_s=2", at.results, at.images, at.store)
    uri = at.image()
    jobs = [f"job{index}" for index in range(6)]
    await at.publish(*({"id": job, "uri": uri} for job in jobs), b"nonsense")
    async with consuming(at, toys, queue=Flickering) as consumer:
        await until(at.is_empty)
        assert consumer.stuck() is None
    assert rows(at) == jobs
    assert [letter.type for letter in await at.letters()] == ["BadMessage"]


async def test_a_failure_that_was_recorded_goes_to_the_dead_letters_without_another_run(
    at: Place, toys: LocalBackend
) -> None:
    """A worker died between the record and the letter: its message, older than the record, comes again."""
    backend = Doubtful(toys)
    await at.publish({"id": "a", "uri": at.image()})
    await asyncio.sleep(0.01)  # times are kept to the millisecond
    await at.store.finish(Outcome("a", "failed", error={"type": "BadImage", "detail": "as it was recorded"}))
    async with consuming(at, backend):
        await until(at.is_empty)
    [letter] = await at.letters()
    assert (letter.jobs, letter.type, letter.reason) == (("a",), "BadImage", "as it was recorded")
    assert backend.calls["detect"] == 0


async def test_a_message_that_is_sent_again_after_a_failure_runs_again(at: Place, toys: LocalBackend) -> None:
    """What an operator does after a fix."""
    message = {"id": "a", "uri": at.image("a.png", b"no image")}
    await at.publish(message)
    async with consuming(at, toys):
        await until(lambda: at.store.outcome("a"))
        await until(at.is_empty)
    at.image("a.png")
    async with consuming(at, toys):
        await asyncio.sleep(0.01)  # times are kept to the millisecond
        await at.publish(message)
        await until(at.is_empty)
    status = await at.store.status("a")
    assert status is not None
    assert status.status == "succeeded"
    assert rows(at) == ["a"]


async def test_the_objects_of_an_s3_event_are_jobs_of_their_own(
    moto: str, brokers: dict[str, Broker], tmp_path: Path, toys: LocalBackend
) -> None:
    bucket = f"photos-{uuid.uuid4().hex[:8]}"
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for key in ("a b.png", "c.png"):
        client.put_object(Bucket=bucket, Key=key, Body=STREET)
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "1"}}}
        for key in ("a+b.png", "gone.png", "c.png")
    ]
    results = f"s3://{bucket}/results?region=eu-west-1&endpoint_url={moto}"
    rules = {"s3": {"allow": {"*": [f"s3://{bucket}"]}, "endpoint_url": moto, "region": "eu-west-1"}, "files": []}
    async with place(tmp_path, brokers["sqs"].new_url(), results) as at:
        await at.publish({"Records": records})
        async with consuming(at, toys, own=rules):
            [letter] = await until(at.letters)
            await until(at.is_empty)
        assert len(letter.jobs) == 1
        assert letter.type == "FetchFailed"
        assert letter.reason.endswith("there is no such object")
        compact(at.store.objects)
        found = query(at.store.objects, "SELECT uri FROM results ORDER BY uri").rows
        assert found == [(f"s3://{bucket}/a b.png",), (f"s3://{bucket}/c.png",)]


async def test_the_version_that_a_notification_names_is_the_one_that_is_fetched(
    moto: str, tmp_path: Path, toys: LocalBackend
) -> None:
    bucket, key = f"photos-{uuid.uuid4().hex[:8]}", "a.png"
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    pictures = [encoded(draw(("car", 10, 10, 90, 50))), encoded(draw(("person", 10, 10, 50, 90)))]
    versions = [client.put_object(Bucket=bucket, Key=key, Body=data)["VersionId"] for data in pictures]
    rules = {"s3": {"allow": {"*": [f"s3://{bucket}"]}, "endpoint_url": moto, "region": "eu-west-1"}}
    async with place(tmp_path) as at:
        for version in (*versions, "null"):  # both uploads were over before the first event is read
            entry = {"key": key, "versionId": version, "sequencer": version}
            await at.publish(
                {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": entry}}]}
            )
        async with consuming(at, toys, own=rules):
            await until(at.is_empty)
        assert await at.letters() == []
        compact(at.store.objects)
        found = query(at.store.objects, "SELECT sha256 FROM results").rows
        hashes = [hashlib.sha256(data).hexdigest() for data in pictures]
        assert Counter(digest for (digest,) in found) == {hashes[0]: 1, hashes[1]: 2}  # "null": the newest


async def test_what_cannot_be_stored_is_a_dead_letter_at_once(at: Place, toys: LocalBackend) -> None:
    uri = at.image()
    bodies = [
        b'{"id": "nan", "uri": "%s", "metadata": {"a": NaN}}',
        b'{"id": "infinity", "uri": "%s", "metadata": {"a": [1e999]}}',
        b'{"id": "metadata", "uri": "%s", "metadata": {"a": "caf\\udce9"}}',
        b'{"id": "id\\ud800", "uri": "%s"}',
        b'{"id": "uri", "uri": "%s\\udfff"}',
        b'{"id": "large", "uri": "%s", "metadata": {"a": "' + b"x" * 70_000 + b'"}}',
        b'{"id": "' + b"x" * 1000 + b'", "uri": "%s"}',
    ]
    await at.publish(*(body.replace(b"%s", uri.encode()) for body in bodies))
    # as long as an id may be, and longer than the name of a file may be once it is encoded
    await at.publish({"id": "ü/" * 100, "uri": uri}, {"id": 7, "uri": uri, "metadata": None})
    async with consuming(at, toys):
        await until(at.is_empty)
    letters = await at.letters()
    assert [(letter.type, letter.attempts) for letter in letters] == [("BadMessage", 1)] * len(bodies)
    assert sorted(rows(at)) == sorted(["ü/" * 100, "7"])
    assert await at.store.outcome("ü/" * 100) is not None


async def test_the_marker_says_what_counts(at: Place, toys: LocalBackend) -> None:
    uri = at.image()
    await at.store.put_job(JobMarker("job-1", uri, {"from": "marker"}, annotate=True))
    await at.store.put_job(JobMarker("job-2", uri, withdrawn=True))
    await at.store.put_job(JobMarker("job-3", uri, policy={"key_id": "k", "tenant": "acme"}))
    other = at.image("other.png", encoded(draw(("truck", 10, 10, 50, 90))))
    await at.publish(*({"id": f"job-{n}", "uri": other, "metadata": {"from": "message"}} for n in (1, 2, 3, 4)))
    async with consuming(at, toys):
        await until(at.is_empty)
    one, two, three, four = [await at.store.outcome(f"job-{n}") for n in (1, 2, 3, 4)]
    assert one is not None
    assert one.result is not None
    assert (one.result["image"]["uri"], one.result["metadata"]) == (uri, {"from": "marker"})
    assert (await at.store.picture("job-1") or b"")[:2] == b"\xff\xd8"
    assert two is None  # withdrawn
    assert three is not None
    assert three.error == {
        "type": "Forbidden",
        "detail": "addresses of this kind are not fetched here; send the image's bytes",
    }
    assert four is not None  # nobody knows of it: a message like any other
    assert four.result is not None
    assert four.result["image"]["uri"] == other


async def test_what_is_in_hand_when_the_worker_stops_is_ended_or_given_back(at: Place, tmp_path: Path) -> None:
    async with slow_steps(tmp_path, 0.5) as (plan, backend, _):
        uri = at.image()
        await at.publish(*({"id": f"a{n}", "uri": uri} for n in range(12)))
        async with consuming(at, backend, plan=plan, stop_s=0.1) as consumer:
            await until(lambda: consumer.in_hand == 4)
            started = time.monotonic()
        assert time.monotonic() - started < 4
        assert not await at.is_empty()
        async with queue_from_url(at.url) as queue:
            stats = await queue.stats()
        assert stats.in_flight == 0  # nothing waits for its lease to run out
        async with consuming(at, backend, plan=plan):
            await until(at.is_empty)
        assert len(rows(at)) == 12


async def test_a_client_that_ignores_a_cancellation_does_not_keep_the_worker(at: Place, toys: LocalBackend) -> None:
    """As that of Redis does where its answer arrives in the same moment."""
    asked = 0

    def deaf(queue: Queue) -> Queue:
        async def stats() -> QueueStats:
            nonlocal asked
            asked += 1
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return QueueStats(None, None, None)

        queue.stats = stats  # type: ignore[method-assign]
        return queue

    async with asyncio.timeout(20):
        async with consuming(at, toys, queue=deaf):
            await until(lambda: asked)
    assert asked == 1


async def test_leases_are_renewed_while_an_image_is_worked_on(at: Place, tmp_path: Path) -> None:
    at = Place(f"{at.url}?lease_s=0.6", at.results, at.images, at.store)
    async with slow_steps(tmp_path, 2.0) as (plan, backend, images):
        await at.publish({"id": "long", "uri": at.image()})
        async with consuming(at, backend, plan=plan), consuming(at, backend, plan=plan):
            await until(lambda: at.store.outcome("long"))
            await until(at.is_empty)
        assert images() == 1


async def test_a_job_that_is_worked_on_is_seen_as_running(at: Place, tmp_path: Path) -> None:
    async with slow_steps(tmp_path, 2.5) as (plan, backend, _):
        await at.store.put_job(JobMarker("job-1", at.image()))
        await at.publish({"id": "job-1", "uri": "file:///x"})
        seen = []
        async with consuming(at, backend, plan=plan):

            async def ended() -> bool:
                status = await at.store.status("job-1")
                assert status is not None
                if status.status not in seen:
                    seen.append(status.status)
                return status.status == "succeeded"

            await until(ended)
    assert seen == ["queued", "running", "succeeded"]


async def test_an_image_that_was_seen_before_is_not_run_again(at: Place, tmp_path: Path) -> None:
    async with slow_steps(tmp_path, 0.0) as (plan, backend, images):
        one, copy = at.image("one.png"), at.image("copy.png")
        await at.publish({"id": "a", "uri": one})
        async with consuming(at, backend, plan=plan, reuse_results=True):
            await until(lambda: at.store.outcome("a"))
            await at.publish({"id": "b", "uri": copy, "metadata": {"n": 1}})
            await until(at.is_empty)
        assert images() == 1
        a, b = [(await at.store.outcome(job)).result for job in ("a", "b")]  # type: ignore[union-attr]
        assert a is not None
        assert b == {**a, "id": "b", "image": {**a["image"], "uri": copy}, "metadata": {"n": 1}}


async def test_a_consumer_tells_how_it_stands(at: Place, toys: LocalBackend) -> None:
    uri = at.image()
    await at.publish(*({"id": f"a{n}", "uri": uri} for n in range(5)))
    async with consuming(at, toys) as consumer:
        await until(at.is_empty)
        await until(lambda: consumer.stats()["rate"] > 0)
        assert consumer.stats()["rate"] == pytest.approx(0.5)
        assert "waiting" in consumer.stats()
        assert consumer.stuck() is None
        consumer._loops[0].cancel()  # as an error that nobody foresaw would end it
        reason = await until(consumer.stuck)
        assert "'_receive' has ended" in reason


async def test_a_consumer_without_a_sign_of_life_is_stuck(at: Place, tmp_path: Path) -> None:
    async with slow_steps(tmp_path, 3.0) as (plan, backend, _):
        await at.publish({"id": "a", "uri": at.image()})
        async with consuming(at, backend, plan=plan, stuck_after_s=0.5, in_flight=1) as consumer:
            reason = await until(consumer.stuck)
            assert reason.startswith("no message was received or finished")


async def test_a_message_that_ends_its_workers_is_given_up(at: Place, toys: LocalBackend) -> None:
    class Old(Flickering):
        def __getattribute__(self, name: str) -> Any:
            if name == "receive":
                return self._old
            return (
                getattr(self._queue, name)
                if name in ("ack", "dead_letter", "stats")
                else Queue.__getattribute__(self, name)
            )

        async def _old(self, limit: int, wait_s: float) -> list[Message]:
            return [Message(m.body, 81, m.published, m.receipt) for m in await self._queue.receive(limit, wait_s)]

    await at.publish({"id": "a", "uri": at.image()})
    async with consuming(at, toys, queue=Old):
        [letter] = await until(at.letters)
    assert (letter.type, letter.jobs) == ("TooManyDeliveries", ("a",))
