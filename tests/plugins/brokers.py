"""Real brokers for tests: those of this machine, and those that are started here. Every name is used once."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import aio_pika
import httpx
import pytest
import redis
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from pubsub_server import pubsub_server

BROKERS = ("sqlite", "redis", "amqp", "sqs", "pubsub")

AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-west-1"}

_DELAYS_MS = (100, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000)


def need_server(name: str, port: int) -> None:
    """Skip where a server of this machine is absent; fail in CI, which has to start it."""
    if not _answers(port):
        message = f"no {name} at 127.0.0.1:{port}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _one_at_a_time(put: Callable[[S3Response], Any]) -> Callable[[S3Response], Any]:
    """moto looks whether there is an object, and then writes it: of two at once both may find none. S3 does it in one
    step."""
    turn = threading.Lock()

    def put_object(response: S3Response) -> Any:
        with turn:
            return put(response)

    return put_object


@contextmanager
def moto_server() -> Iterator[str]:
    """S3 and SQS at a URL."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with mock.patch.object(S3Response, "put_object", _one_at_a_time(S3Response.put_object)):
            yield f"http://{host}:{port}"
    finally:
        # What all servers of a process hold is one: the next one would find the buckets of this one.
        httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
        server.stop()


class Broker:
    """Makes queues at one broker, and removes what they leave at a shared one."""

    def __init__(self, scheme: str, template: str, server: tuple[str, int] | None = None) -> None:
        self.scheme = scheme
        self._template = template
        self._server = server
        self._names: list[str] = []

    def need(self) -> None:
        if self._server is not None:
            need_server(*self._server)

    def is_there(self) -> bool:
        return self._server is None or _answers(self._server[1])

    def new_url(self, lease_s: float = 60.0) -> str:
        """The URL of a fresh queue."""
        name = f"vg-test-{uuid.uuid4().hex[:12]}"
        self._names.append(name)
        return self._template.format(name=name, lease_s=lease_s)

    def clean(self) -> None:
        if self._names and self.scheme == "redis":
            with redis.Redis() as client:
                for name in self._names:
                    client.delete(name, *(f"{{{name}}}:{part}" for part in ("delayed", "dead", "dead:delayed")))
        if self._names and self.scheme == "amqp":
            asyncio.run(_delete_queues(self._names))


@contextmanager
def all_brokers(folder: str, moto: str, pubsub_port: int) -> Iterator[dict[str, Broker]]:
    """Every broker by its URL's scheme. SQS needs the variables in ``AWS``."""
    brokers = [
        Broker("sqlite", f"sqlite:///{folder}/{{name}}.db?lease_s={{lease_s}}"),
        Broker("redis", "redis://127.0.0.1:6379/0?stream={name}&lease_s={lease_s}", ("Redis", 6379)),
        Broker("amqp", "amqp://guest:guest@127.0.0.1:5672/?queue={name}", ("RabbitMQ", 5672)),
        Broker("sqs", f"sqs://{{name}}?region=eu-west-1&endpoint_url={moto}&create=true&lease_s={{lease_s}}"),
        Broker("pubsub", f"pubsub://test/{{name}}?endpoint=127.0.0.1:{pubsub_port}&create=true&lease_s={{lease_s}}"),
    ]
    try:
        yield {broker.scheme: broker for broker in brokers}
    finally:
        for broker in brokers:
            broker.clean()


async def _delete_queues(names: list[str]) -> None:
    async with await aio_pika.connect("amqp://guest:guest@127.0.0.1:5672/") as connection:
        channel = await connection.channel()
        for name in names:
            for suffix in ("", ".dead", *(f".delay.{ms}" for ms in _DELAYS_MS)):
                await channel.queue_delete(name + suffix)


__all__ = ["AWS", "BROKERS", "Broker", "all_brokers", "moto_server", "need_server", "pubsub_server"]
