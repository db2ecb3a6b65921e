"""Counts what workers do with messages, and shows how full their queue is."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from serve_app.telemetry.metrics import DELIVERIES, QUEUE_MESSAGES, QUEUE_OLDEST_AGE_SECONDS

__all__ = ["DELIVERY_OUTCOMES", "DeliveryOutcome", "QueueRecorder"]

DeliveryOutcome: TypeAlias = Literal["acknowledged", "retried", "requeued", "dead_letter"]

DELIVERY_OUTCOMES: tuple[DeliveryOutcome, ...] = ("acknowledged", "retried", "requeued", "dead_letter")
"""``retried``: delivered again after an attempt that failed; ``requeued``: delivered again because the worker stops or
the broker could not be told."""


class QueueRecorder:
    """The series of one queue."""

    def __init__(self, queue: str) -> None:
        self._deliveries = {outcome: DELIVERIES.labels(queue, outcome) for outcome in DELIVERY_OUTCOMES}
        self._waiting = QUEUE_MESSAGES.labels(queue, "waiting")
        self._in_flight = QUEUE_MESSAGES.labels(queue, "in_flight")
        self._oldest = QUEUE_OLDEST_AGE_SECONDS.labels(queue)

    def delivery(self, outcome: DeliveryOutcome) -> None:
        """Count a message."""
        self._deliveries[outcome].inc()

    def stats(self, waiting: float | None, in_flight: float | None, oldest_age_s: float | None) -> None:
        """Show the numbers of the queue. NaN, which is no data to Prometheus' rules, where one is not known."""
        for gauge, value in ((self._waiting, waiting), (self._in_flight, in_flight), (self._oldest, oldest_age_s)):
            gauge.set(math.nan if value is None else value)
