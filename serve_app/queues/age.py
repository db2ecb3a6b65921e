"""The age of the oldest waiting message, where the broker does not report it and looking would count as a delivery."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.queues.protocol import Message

__all__ = ["OldestEstimate"]


class OldestEstimate:
    """An upper bound: queues are nearly first-in first-out, so what waits is younger than what was received."""

    def __init__(self) -> None:
        self._floor: float | None = None  # nothing that waits was published before this
        self._first_seen: float | None = None

    def received(self, messages: Iterable[Message]) -> None:
        """Take note of messages that were received."""
        for message in messages:
            if message.published is not None:
                self._floor = max(self._floor or 0.0, message.published)

    def age_s(self, waiting: int | None, now: float) -> float | None:
        """The age in seconds, when ``waiting`` messages wait: too high rather than too low once some were received."""
        if waiting is None:
            return None
        if waiting == 0:
            self._floor, self._first_seen = now, None
            return 0.0
        if self._first_seen is None:
            self._first_seen = now
        return max(0.0, now - (self._first_seen if self._floor is None else self._floor))
