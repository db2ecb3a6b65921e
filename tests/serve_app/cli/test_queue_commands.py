"""``submit``, ``queue`` and ``dlq`` against real brokers, as an operator calls them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from brokers import BROKERS, Broker
from intakes import LIMITS, STREET

from classifiers import BadImage
from serve_app.config.gateway_config import FetchConfig
from serve_app.config.intake_config import SourcesConfig
from serve_app.images.job_sources import Sources
from serve_app.queues import DeadLetter, Message, QueueUnavailable, queue_from_url
from serve_app.queues.sqlite import SqliteQueue
from serve_app.results import Outcome, ResultStore

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.cli.queue_commands._QUIET_S", 0.2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:////{tmp_path}/jobs.db"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def bodies(url: str) -> list[dict[str, Any]]:
    """Take all messages of a queue."""
    async with queue_from_url(url) as queue:
        found: list[Message] = []
        while messages := await queue.receive(10, 0.3):
            await queue.ack(messages)
            found += messages
    return [json.loads(message.body) for message in found]


async def bury(url: str, reasons: dict[str, str]) -> None:
    """Let the messages with these uris end as dead letters, for these reasons."""
    async with queue_from_url(url) as queue:
        buried = 0
        while buried < len(reasons):
            for message in await queue.receive(10, 1):
                job = json.loads(message.body)
                letter = DeadLetter.of(message, (job["id"],), "BadImage", reasons[job["uri"]])
                await queue.dead_letter(message, letter.encode())
                buried += 1


@pytest.mark.parametrize("scheme", BROKERS)
def test_from_submission_to_the_last_dead_letter(visiongraph: Run, brokers: dict[str, Broker], scheme: str) -> None:
    brokers[scheme].need()
    url = brokers[scheme].new_url()
    uris = ["s3://b/one.jpg", "s3://b/two.jpg", "https://a.example/three.jpg"]
    code, out, err = visiongraph("submit", url, *uris, "--metadata", "site=3", "--metadata", "street=Hauptstraße")
    assert code == 0, err
    sent = lines(out)
    assert [line["uri"] for line in sent] == uris
    assert len({line["id"] for line in sent}) == 3
    assert "3 images put on the queue" in err

    _, out, _ = visiongraph("queue", "stats", url, "--format", "json")
    stats = json.loads(out)
    assert stats["waiting"] == 3

    asyncio.run(bury(url, dict.fromkeys(uris, "not an image")))
    code, out, _ = visiongraph("dlq", "list", url)
    assert code == 0
    assert out.count("not an image") == 3
    code, out, _ = visiongraph("dlq", "show", url)
    letters = lines(out)
    assert {json.loads(letter["body"])["uri"] for letter in letters} == set(uris)
    assert json.loads(letters[0]["body"])["metadata"] == {"site": 3, "street": "Hauptstraße"}

    first = letters[0]
    code, _, err = visiongraph("dlq", "retry", url, first["id"][:10])
    assert (code, "1 dead letter requeued" in err) == (0, True)
    assert [body["id"] for body in asyncio.run(bodies(url))] == first["jobs"]

    code, _, err = visiongraph("dlq", "purge", url, "--yes")
    assert (code, "2 dead letters deleted" in err) == (0, True)
    assert visiongraph("dlq", "list", url)[1].strip() == "no dead letters"


@pytest.mark.slow
def test_more_letters_than_rabbitmq_sends_ahead(visiongraph: Run, brokers: dict[str, Broker]) -> None:
    brokers["amqp"].need()
    url = brokers["amqp"].new_url()

    async def fill() -> None:
        async with queue_from_url(url) as queue, queue.dead() as dead:
            letters = [DeadLetter.of(Message(b"%d" % i), (), "BadMessage", "no JSON").encode() for i in range(250)]
            await dead.publish(letters)

    asyncio.run(fill())
    assert len(lines(visiongraph("dlq", "list", url, "--format", "json")[1])) == 250
    assert "250 dead letters requeued" in visiongraph("dlq", "retry", url)[2]


class TestSubmit:
    def test_files_for_workers_of_this_machine(self, visiongraph: Run, url: str, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        for name in ("a b.jpg", "more/c.png"):
            (tmp_path / name).write_bytes(b"x")
        code, out, err = visiongraph("submit", url, tmp_path)
        assert code == 0, err
        assert [line["uri"] for line in lines(out)] == [f"file://{tmp_path}/a%20b.jpg", f"file://{tmp_path}/more/c.png"]

    def test_a_prefix_of_a_bucket(self, visiongraph: Run, url: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        for key in ("day/1.jpg", "day/2.jpg", "day/notes.txt", "other/3.jpg"):
            client.put_object(Bucket="photos", Key=key, Body=b"x")
        code, out, err = visiongraph("submit", url, "s3://photos/day/")
        assert code == 0, err
        assert [line["uri"] for line in lines(out)] == ["s3://photos/day/1.jpg", "s3://photos/day/2.jpg"]

    def test_a_prefix_without_images(
        self, visiongraph: Run, url: str, moto: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
        client = boto3.client("s3")
        client.create_bucket(Bucket="typos", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        client.put_object(Bucket="typos", Key="day/notes.txt", Body=b"x")
        for prefix in ("s3://typos/dya/", "s3://typos/day/", "s3://typos/", "s3://typos"):
            code, out, err = visiongraph("submit", url, prefix)
            assert (code, out) == (1, "")
            assert f"no images below {prefix}" in err
        code, out, _ = visiongraph("submit", url, "s3://typos/dya/", "s3://typos/day/1.jpg")
        assert (code, [line["uri"] for line in lines(out)]) == (1, ["s3://typos/day/1.jpg"])

    @pytest.mark.parametrize(
        "name",
        ["caf\udce9.jpg", "cam1:0001.jpg", "C:\\photo.jpg", "a#1?.jpg", "[1].jpg", "*.jpg", "http:x.jpg", "100%.jpg"],
    )
    def test_an_existing_file_is_a_file(
        self, visiongraph: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path(name).write_bytes(b"x")
        sources = Sources(SourcesConfig(files=(str(tmp_path),)), FetchConfig(), LIMITS, 1)
        for argument in (name, tmp_path / name, (tmp_path / name).as_uri()):
            code, out, err = visiongraph("submit", url, argument)
            assert code == 0, err
            [line] = lines(out)
            with pytest.raises(BadImage):  # what the worker says, having read it
                asyncio.run(sources.frame(line["uri"], None))

    def test_what_is_not_there_does_not_keep_the_rest_back(self, visiongraph: Run, url: str, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"x")
        (folder / "b.jpg").symlink_to(folder / "gone.jpg")
        (folder / "c.jpg").symlink_to(folder / "c.jpg")
        (folder / "d.jpg").write_bytes(b"x")
        code, out, err = visiongraph("submit", url, folder, tmp_path / "*.gif", "", "x" * 300, "s3://b/1.jpg")
        assert code == 1
        assert [Path(line["uri"]).name for line in lines(out)] == ["a.jpg", "d.jpg", "1.jpg"]
        for says in (
            f"no file {folder}/b.jpg",
            f"no file {folder}/c.jpg",
            "nothing matches",
            "an empty argument",
            "xxx",
        ):
            assert says in err
        assert "5 were not submitted" in err
        assert "Traceback" not in err

    def test_lines_of_stdin(self, visiongraph: Run, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "caf\udce9.jpg").write_bytes(b"x")
        text = b"s3://b/a b.jpg\r\n\n" + os.fsencode(tmp_path) + b"/caf\xe9.jpg\ngs://b/last.jpg"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        code, out, err = visiongraph("submit", url, "-", "https://h/z.jpg")
        assert code == 0, err
        assert [line["uri"] for line in lines(out)] == [
            "s3://b/a b.jpg",
            f"file://{tmp_path}/caf%E9.jpg",
            "gs://b/last.jpg",
            "https://h/z.jpg",
        ]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
        code, out, err = visiongraph("submit", url, "-")
        assert (code, out) == (1, "")
        assert "stdin names no images" in err

    @pytest.mark.parametrize(
        "metadata", ["n=NaN", "n=[Infinity]", "n=1e999", "n=caf\udce9", "\udce9=1", "n=" + "x" * 70_000]
    )
    def test_metadata_that_cannot_be_stored(self, visiongraph: Run, url: str, metadata: str) -> None:
        code, out, err = visiongraph("submit", url, "s3://b/1.jpg", "--metadata", metadata)
        assert (code, out) == (2, "")
        assert "--metadata" in err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("sqlite:////q.db", "ftp://h/a.jpg"), "do not fetch ftp://"),
            (("sqlite:////q.db", "s3:///a.jpg"), "names no object"),
            (("sqlite:////q.db", "gs://b/day/"), "names no object"),
            (("sqlite:////q.db", "file://host/a.jpg"), "there is no file"),
            (("sqlite:////q.db", "http://h:port/a.jpg"), "http://h:port/a.jpg: the address is invalid"),
            (("sqlite:////q.db", "https:///a.jpg"), "no valid host"),
            (("sqlite:////q.db", "http://[::1/a.jpg"), "is invalid"),
            (("sqlite:////q.db", "http://user:secret@cam/a.jpg"), "http://user:***@cam/a.jpg: the address has a user"),
            (("sqlite:////q.db", "cam1:0001.jpg"), "there is no file cam1:0001.jpg"),
            (("redis://127.0.0.1:6379/0?stream=x", __file__), "upload it"),
            (("kafka://x", "s3://b/1.jpg"), "known forms"),
            (("sqlite:////nowhere/at/all/q.db", "no-such-file.jpg"), "there is no file no-such-file.jpg"),
            (("sqlite:////q.db", "s3://b/1.jpg", "--metadata", "site"), "KEY=VALUE"),
        ],
    )
    def test_mistakes(self, visiongraph: Run, arguments: tuple[str, ...], says: str) -> None:
        code, out, err = visiongraph("submit", *arguments)
        assert (code, out) == (2, "")
        assert says in " ".join(err.split())
        assert "Traceback" not in err

    def test_a_broker_that_goes_away_half_way(
        self, visiongraph: Run, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish, calls = SqliteQueue.publish, []

        async def once(self: SqliteQueue, messages: Any) -> None:
            calls.append(len(messages))
            if len(calls) == 2:
                raise QueueUnavailable("the disk is full")
            await publish(self, messages)

        monkeypatch.setattr(SqliteQueue, "publish", once)
        monkeypatch.setattr("serve_app.cli.queue_commands._CHUNK", 2)
        code, out, err = visiongraph("submit", url, *(f"s3://b/{i}.jpg" for i in range(5)))
        assert code == 1
        assert [line["uri"] for line in lines(out)] == ["s3://b/0.jpg", "s3://b/1.jpg"]
        assert "the disk is full" in err
        assert "2 of 5 images are on the queue" in " ".join(err.split())
        assert "from s3://b/2.jpg on" in " ".join(err.split())


class TestDeadLetters:
    @pytest.fixture
    def buried(self, visiongraph: Run, url: str) -> list[dict[str, Any]]:
        uris = ["s3://b/1.jpg", "s3://b/2.jpg"]
        visiongraph("submit", url, *uris)
        asyncio.run(bury(url, {uris[0]: "not an image", uris[1]: "over the [limit]"}))
        return lines(visiongraph("dlq", "show", url)[1])

    def test_retry_takes_the_failure_off_the_record(
        self, visiongraph: Run, url: str, buried: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        results = str(tmp_path / "results")
        store = ResultStore.from_uri(results)
        [job] = buried[0]["jobs"]
        asyncio.run(store.finish(Outcome(job, "failed", error={"type": "BadImage", "detail": "not an image"})))
        assert visiongraph("dlq", "retry", url, "--results", results)[0] == 0
        assert asyncio.run(store.outcome(job)) is None
        assert {body["id"] for body in asyncio.run(bodies(url))} == {letter["jobs"][0] for letter in buried}

    def test_an_id_that_is_none_touches_nothing(self, visiongraph: Run, url: str, buried: list[Any]) -> None:
        for command in ("show", "retry"):
            code, out, err = visiongraph("dlq", command, url, buried[0]["id"], "zzz")
            assert (code, out) == (2, "")
            assert "there is no dead letter zzz" in err
        assert len(lines(visiongraph("dlq", "show", url)[1])) == 2

    def test_purge_asks(self, visiongraph: Run, url: str, buried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        assert visiongraph("dlq", "purge", url)[0] == 1
        assert len(lines(visiongraph("dlq", "show", url)[1])) == 2
        assert visiongraph("dlq", "purge", url, buried[0]["id"], "--yes")[0] == 0
        assert lines(visiongraph("dlq", "show", url)[1]) == buried[1:]

    def test_what_a_reason_says_is_not_markup(self, visiongraph: Run, url: str, buried: list[Any]) -> None:
        assert "over the [limit]" in visiongraph("dlq", "list", url)[1]


class TestStats:
    def test_for_people(self, visiongraph: Run, url: str) -> None:
        visiongraph("submit", url, "s3://b/1.jpg")
        code, out, _ = visiongraph("queue", "stats", url)
        assert code == 0
        assert [line.split("│")[2].strip() for line in out.splitlines() if "waiting" in line] == ["1"]

    def test_a_broker_that_is_away(self, visiongraph: Run) -> None:
        code, out, err = visiongraph("queue", "stats", "redis://127.0.0.1:1/0?stream=x")
        assert (code, out) == (1, "")
        assert "cannot be used" in err

    def test_watch_goes_on_until_the_broker_stays_away(
        self, visiongraph: Run, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visiongraph("submit", url, "s3://b/1.jpg")
        stats, calls = SqliteQueue.stats, []

        async def some(self: SqliteQueue) -> Any:
            calls.append(1)
            if len(calls) in (3, 6, 7, 8):  # one that passes, and three in a row
                raise QueueUnavailable("the disk is gone")
            return await stats(self)

        monkeypatch.setattr(SqliteQueue, "stats", some)
        monkeypatch.setattr("serve_app.cli.queue_commands._EVERY_S", 0.0)
        code, out, _ = visiongraph("queue", "stats", url, "--watch", "--format", "json")
        assert code == 1
        assert [line["waiting"] for line in lines(out)] == [1, 1]

    def test_looking_makes_no_file(self, visiongraph: Run, tmp_path: Path) -> None:
        for command in (["queue", "stats"], ["dlq", "list"]):
            code, out, err = visiongraph(*command, f"sqlite:////{tmp_path}/typo.db")
            assert (code, out) == (2, "")
            assert f"{tmp_path}/typo.db: no such file" in err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [["submit"], ["queue", "stats"], ["dlq", "list"], ["dlq", "show"], ["dlq", "retry"], ["dlq", "purge"]]
)
def test_help_has_an_example(visiongraph: Run, command: list[str]) -> None:
    assert f"visiongraph {' '.join(command)} " in " ".join(visiongraph(*command, "--help")[1].split())


def test_local_files_are_uploaded(visiongraph: Run, url: str, tmp_path: Path) -> None:
    photos, images = tmp_path / "photos", tmp_path / "results" / "images"
    photos.mkdir()
    for name in ("a.png", "same.png"):
        (photos / name).write_bytes(STREET)
    (photos / "text.png").write_bytes(b"no image")
    code, out, err = visiongraph("submit", url, photos, "s3://b/one.jpg", "--upload", images)
    assert (code, "text.png: " in err, "1 were not submitted" in err) == (1, True, True)
    address = f"upload://{hashlib.sha256(STREET).hexdigest()}"
    assert sorted(line["uri"] for line in lines(out)) == ["s3://b/one.jpg", address, address]
    [stored] = [file for file in images.rglob("*") if file.is_file()]
    assert stored.read_bytes() == STREET
