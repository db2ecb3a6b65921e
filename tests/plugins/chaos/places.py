"""Where a run has its queue, its results and its images, each run its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rabbit_server import RabbitServer
from redis_server import RedisServer

from chaos.plan import Image
from chaos.storage import FailingAws
from serve_app.results import Objects, objects_from_uri

__all__ = ["Place", "place"]

_LEASE_S = 5  # what a worker that was killed had in hand comes again after this


@dataclass(frozen=True)
class Place:
    """A place.

    Attributes:
        queue: its URL.
        results: where the workers keep them.
        objects: the same results, by a way on which nothing fails.
        fetch: what the workers may fetch.
        images: begins the addresses of images.
        elsewhere: an address that the workers may not fetch.
        put: puts an image there, by its name.
        server: the broker, where it can be killed.
        aws: the store, where it can fail.
    """

    queue: str
    results: str
    objects: Objects
    fetch: dict[str, Any]
    images: str
    elsewhere: str
    put: Callable[[str, bytes], object]
    server: RedisServer | RabbitServer | None = None
    aws: FailingAws | None = None

    def uri(self, image: Image) -> str:
        """Where an image is, or is said to be."""
        if image.kind == "forbidden":
            return self.elsewhere
        # one file for all of a kind; each of the missing ones has its own
        name = image.name if image.kind == "missing" else image.kind
        return f"{self.images}/{name}"


@contextmanager
def place(broker: str, folder: Path) -> Iterator[Place]:
    """A place with a broker of its own."""
    with ExitStack() as stack:
        if broker == "sqlite":
            images, results = folder / "images", folder / "results"
            images.mkdir()
            yield Place(
                f"sqlite:///{folder}/jobs.db?lease_s={_LEASE_S}",
                str(results),
                objects_from_uri(str(results)),
                {"files": [str(images)]},
                f"file://{images}",
                "file:///etc/hostname",
                lambda name, data: (images / name).write_bytes(data),
            )
            return
        aws = stack.enter_context(FailingAws())
        queue, server = _queue(broker, aws, folder)
        if server is not None:
            stack.enter_context(server)
        at = "s3://results?region=eu-west-1&endpoint_url="
        yield Place(
            queue,
            at + aws.url,
            objects_from_uri(at + aws.honest_url),
            {"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": aws.url}},
            "s3://photos",
            "s3://others/1.jpg",
            lambda name, data: aws.s3.objects.__setitem__(f"photos/{name}", data),
            server,
            aws,
        )


def _queue(broker: str, aws: FailingAws, folder: Path) -> tuple[str, RedisServer | RabbitServer | None]:
    if broker == "sqs":
        return f"sqs://images?region=eu-west-1&endpoint_url={aws.url}&create=true&lease_s={_LEASE_S}", None
    if broker == "redis":
        redis = RedisServer(folder, keeps=True)
        return f"redis://127.0.0.1:{redis.port}/0?stream=images&lease_s={_LEASE_S}", redis
    rabbit = RabbitServer(folder)
    return f"amqp://guest:guest@127.0.0.1:{rabbit.port}/?queue=images", rabbit
