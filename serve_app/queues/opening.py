"""Makes the queue that a URL names. A broker's client is imported only when it is used."""

from __future__ import annotations

import importlib
import os
import re

from serve_app.queues.protocol import MissingExtra, Queue
from serve_app.queues.urls import BadQueueUrl, QueueUrl

__all__ = ["queue_from_url"]

# scheme: (module, class, extra that brings its client)
_QUEUES = {
    "amqp": ("rabbitmq", "RabbitQueue", "rabbitmq"),
    "amqps": ("rabbitmq", "RabbitQueue", "rabbitmq"),
    "sqs": ("sqs", "SqsQueue", None),
    "pubsub": ("pubsub", "PubsubQueue", "pubsub"),
    "redis": ("redis_streams", "RedisQueue", "redis"),
    "rediss": ("redis_streams", "RedisQueue", "redis"),
    "sqlite": ("sqlite", "SqliteQueue", None),
}

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def queue_from_url(url: str) -> Queue:
    """Make the queue that a URL names; nothing is connected before ``open``.

    ``${NAME}`` in it is replaced by an environment variable of the process that opens the queue, so that configurations
    and logs need not hold a password.

    Raises:
        BadQueueUrl: the URL is not one of the known forms, or names a variable that is not set.
        MissingExtra: the broker's client is not installed.
    """
    parts = QueueUrl.parse(_VARIABLE.sub(_value, url))
    module, class_name, extra = _QUEUES[parts.scheme]
    try:
        loaded = importlib.import_module(f"serve_app.queues.{module}")
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise MissingExtra(
            f"{parts.scheme}:// needs the package '{error.name}'; install it with: pip install 'visiongraph[{extra}]'"
        ) from error
    queue: Queue = getattr(loaded, class_name)(parts)
    return queue


def _value(variable: re.Match[str]) -> str:
    try:
        return os.environ[variable[1]]
    except KeyError:
        raise BadQueueUrl(f"the queue URL names the environment variable {variable[1]}, which is not set") from None
