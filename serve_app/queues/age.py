"""The age of the oldest waiting message, where the broker does not tell it and looking would count as a delivery."""

from __future__ import annotations

__all__ = ["OldestEstimate"]


class OldestEstimate:
    """Bounds the age by what passes: queues are nearly first-in first-out; what waits is younger than what came."""

    def __init__(self) -> None:
        self._floor: float | None = None  # nothing that waits was published before this
        self._first_seen: float | None = None

    def received(self, published: float) -> None:
        """A message was received that had been published then."""
        self._floor = max(self._floor or 0.0, published)

    def age_s(self, waiting: int | None, now: float) -> float | None:
        """The age in seconds now that ``waiting`` wait: rather too high than too low once some were received."""
        if waiting is None:
            return None
        if waiting == 0:
            self._floor, self._first_seen = now, None
            return 0.0
        if self._first_seen is None:
            self._first_seen = now
        return max(0.0, now - (self._first_seen if self._floor is None else self._floor))
