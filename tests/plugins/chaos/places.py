"""Where a run has its queue, its results and its images, each run its own."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from brokers import moto_server
from rabbit_server import RabbitServer
from redis_server import RedisServer
from tcp_proxy import TcpProxy
from toys import draw, encoded

from chaos.plan import Image
from chaos.storage import FailingAws
from serve_app.results import Objects, objects_from_uri

__all__ = ["Deliveries", "Place", "count_deliveries", "delivered_from", "place"]

_LEASE_S = 5  # what a worker that was killed had in hand comes again after this


@dataclass(frozen=True)
class Place:
    """A place.

    Attributes:
        queue: its URL, by a way on which nothing fails.
        queue_of_workers: its URL for the application.
        results: where the workers keep them.
        objects: the same results, by a way on which nothing fails.
        fetch: what the workers may fetch.
        images: begins the addresses of images.
        elsewhere: an address that the workers may not fetch.
        put: puts an image there, by its name.
        deliveries: tells how often the broker has delivered each job.
        server: the broker, where it can be killed.
        aws: the store, where it can fail.
        images_kept: the images that came with jobs, by a way on which nothing fails.
        good: an image.
        proxies: what the application's connections to the "broker" and the "store" go through.
    """

    queue: str
    queue_of_workers: str
    results: str
    objects: Objects
    fetch: dict[str, Any]
    images: str
    elsewhere: str
    put: Callable[[str, bytes], object]
    images_kept: Objects
    deliveries: Callable[[], Counter[str]]
    server: RedisServer | RabbitServer | None = None
    aws: FailingAws | None = None
    proxies: dict[str, TcpProxy] = field(default_factory=dict)
    good: bytes = encoded(draw(("person", 10, 10, 50, 40), size=(48, 64)))

    def uri(self, image: Image) -> str:
        """Where an image is, or is said to be."""
        if image.kind == "forbidden":
            return self.elsewhere
        # one file for all of a kind; each of the missing ones has its own
        name = image.name if image.kind == "missing" else image.kind
        return f"{self.images}/{name}"

    def bytes_of(self, image: Image) -> bytes:
        """A good image that no other one is like."""
        return self.good + image.name.encode()


@contextmanager
def place(broker: str, folder: Path, *, uploads: bool = False) -> Iterator[Place]:
    """A place with a broker of its own; ``uploads``: with moto's S3 as the store, whatever the broker is."""
    file = folder / "jobs.db"
    with ExitStack() as stack:
        if broker == "sqlite" and not uploads:
            images, results = folder / "images", folder / "results"
            images.mkdir()
            queue = _in_a_file(file)
            yield Place(
                queue,
                queue,
                str(results),
                objects_from_uri(str(results)),
                {"files": [str(images)]},
                f"file://{images}",
                "file:///etc/hostname",
                lambda name, data: (images / name).write_bytes(data),
                objects_from_uri(str(results / "images")),
                lambda: delivered_from(file),
            )
            return
        aws = stack.enter_context(FailingAws(stack.enter_context(moto_server()) if uploads else None))
        for bucket in ("photos", "results"):
            aws.s3.call("PUT", f"/{bucket}", "", {}, b"")
        queue, server = (_in_a_file(file), None) if broker == "sqlite" else _queue(broker, aws, folder)
        if server is not None:
            stack.enter_context(server)
        deliveries = Deliveries()
        to_broker = stack.enter_context(TcpProxy(_port(queue if server else aws.url), deliveries.seen))
        to_store = stack.enter_context(TcpProxy(_port(aws.url)))
        proxies = {"store": to_store} | ({} if broker == "sqlite" else {"broker": to_broker})
        at, store_url = "s3://results?region=eu-west-1&endpoint_url=", f"http://127.0.0.1:{to_store.port}"
        yield Place(
            queue,
            re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{to_broker.port}", queue),
            at + store_url,
            objects_from_uri(at + aws.honest_url),
            {"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": store_url}},
            "s3://photos",
            "s3://others/1.jpg",
            lambda name, data: aws.s3.call("PUT", f"/photos/{name}", "", {}, data),
            objects_from_uri("s3://results/images?region=eu-west-1&endpoint_url=" + aws.honest_url),
            (lambda: delivered_from(file)) if broker == "sqlite" else (lambda: deliveries.counts),
            server,
            aws,
            proxies,
        )


class Deliveries:
    """Counts the messages of each job that a broker sends, by the ids in their bodies, which all protocols send as
    they are."""

    _ID = re.compile(rb'\\?"id\\?": ?\\?"([\w.-]+)\\?"')
    _LONGEST = 300

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._rests: dict[int, bytes] = {}

    def seen(self, connection: int, data: bytes) -> None:
        text, end = self._rests.get(connection, b"") + data, 0
        for found in self._ID.finditer(text):
            self.counts[found[1].decode()] += 1
            end = found.end()
        self._rests[connection] = text[max(end, len(text) - self._LONGEST) :]


def count_deliveries(file: Path) -> None:
    """Let a queue file record what is delivered from it."""
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE TABLE IF NOT EXISTS delivered (body BLOB);"
            "CREATE TRIGGER IF NOT EXISTS deliver AFTER UPDATE OF attempts ON messages WHEN NEW.queue = 'jobs' "
            "BEGIN INSERT INTO delivered VALUES (NEW.body); END;"
        )


def delivered_from(file: Path) -> Counter[str]:
    with closing(sqlite3.connect(file, timeout=20)) as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM delivered") if body.startswith(b"{")]
    return Counter(json.loads(body).get("id") for body in bodies)


def _in_a_file(file: Path) -> str:
    return f"sqlite:///{file}?lease_s={_LEASE_S}"


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _queue(broker: str, aws: FailingAws, folder: Path) -> tuple[str, RedisServer | RabbitServer | None]:
    if broker == "sqs":
        return f"sqs://images?region=eu-west-1&endpoint_url={aws.url}&create=true&lease_s={_LEASE_S}", None
    if broker == "redis":
        redis = RedisServer(folder, keeps=True)
        return f"redis://127.0.0.1:{redis.port}/0?stream=images&lease_s={_LEASE_S}", redis
    rabbit = RabbitServer(folder)
    return f"amqp://guest:guest@127.0.0.1:{rabbit.port}/?queue=images", rabbit
