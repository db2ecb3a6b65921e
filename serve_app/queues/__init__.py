"""Message queues behind one protocol: RabbitMQ, SQS, Pub/Sub, Redis Streams, and SQLite as the embedded one."""

from serve_app.queues.dead_letters import DeadLetter
from serve_app.queues.opening import queue_from_url
from serve_app.queues.protocol import Message, MissingExtra, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import BadQueueUrl

__all__ = [
    "BadQueueUrl",
    "DeadLetter",
    "Message",
    "MissingExtra",
    "Queue",
    "QueueStats",
    "QueueUnavailable",
    "queue_from_url",
]
