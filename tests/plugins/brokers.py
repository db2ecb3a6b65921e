"""Real brokers for tests: those of this machine, and those that are started here. Every name is used once and cleaned up."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika
import pytest
import redis
from moto.server import ThreadedMotoServer

from pubsub_server import pubsub_server

BROKERS = ("sqlite", "redis", "amqp", "sqs", "pubsub")

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-west-1"}

_DELAYS_MS = (100, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000)


def need_server(name: str, host: str, port: int) -> None:
    """Skip where a server is absent; fail in CI, which has to start it."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        message = f"no {name} at {host}:{port}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def moto_server() -> Iterator[str]:
    """S3 and SQS at a URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def broker_url(scheme: str, folder: str, lease_s: float = 60.0, moto: str = "", pubsub: str = "") -> Iterator[str]:
    """The URL of a fresh queue; what it leaves at a shared broker is removed."""
    name = f"vg-test-{uuid.uuid4().hex[:12]}"
    if scheme == "sqlite":
        yield f"sqlite:///{folder}/{name}.db?lease_s={lease_s}"
    elif scheme == "redis":
        need_server("Redis", "127.0.0.1", 6379)
        yield f"redis://127.0.0.1:6379/0?stream={name}&lease_s={lease_s}"
        with redis.Redis() as client:
            client.delete(name, *(f"{{{name}}}:{part}" for part in ("delayed", "dead", "dead:delayed")))
    elif scheme == "amqp":
        need_server("RabbitMQ", "127.0.0.1", 5672)
        yield f"amqp://guest:guest@127.0.0.1:5672/?queue={name}"
        asyncio.run(_delete_queues(name))
    elif scheme == "sqs":
        yield f"sqs://{name}?region=eu-west-1&endpoint_url={moto}&create=true&lease_s={max(1, lease_s)}"
    else:
        yield f"pubsub://test-project/{name}?endpoint={pubsub}&create=true&lease_s={max(1, lease_s)}"


async def _delete_queues(name: str) -> None:
    async with await aio_pika.connect("amqp://guest:guest@127.0.0.1:5672/") as connection:
        channel = await connection.channel()
        for suffix in ("", ".dead", *(f".delay.{ms}" for ms in _DELAYS_MS)):
            await channel.queue_delete(name + suffix)


__all__ = ["AWS", "BROKERS", "broker_url", "moto_server", "need_server", "pubsub_server"]
