"""The number of replicas, from numbers alone: no clock, no broker, no Ray.

:class:`Scaler` computes how many are needed now, and :class:`Steadied` when to follow: up soon, down only to the most
that was needed in a long window. That, and a tolerance, keep the number from flapping.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["WINDOW_S", "Load", "Scaler", "Steadied"]

WINDOW_S = 10.0
"""The window over which replicas measure their rates."""

_GROWTH_S = 6.0  # window for the growth of the backlog: a shorter one is noisy, a longer one is late
_TOLERANCE = 0.1  # a need that exceeds the number of replicas by less adds none
_UTILISATION = 0.8  # of the replicas' rate; the rest is for uneven load
_FASTER_S, _SLOWER_S = 5.0, 30.0  # time constants of a replica's rate: a low one may be due to another step
_FULL = 0.6  # occupancy that means that more waits: messages are taken in batches, so it is below 1
_GROWTH = 2.0  # factor where there are too few replicas, and it is not known by how many
_GROWTH_BLIND = 4.0  # the same where only the occupancy is known


@dataclass(frozen=True, slots=True)
class Load:
    """The load and the replicas. The unit is a message for workers, a crop for a step.

    Attributes:
        now: seconds on a monotonic clock.
        replicas: that run and have reported.
        target: number of replicas of the last decision.
        waiting: units that no replica has taken; ``None``: not known.
        held: units that were taken and not finished, as far as that is known.
        oldest_age_s: how long the oldest has waited; ``None``: not known.
        rate: units per second that all replicas together finished, over the last ``WINDOW_S``.
        rate_each: the mean rate of the replicas that have run for longer than that; ``None``: there are none.
        in_hand: units that the replicas hold.
        room: units that they could hold.
    """

    now: float
    replicas: int
    target: int
    waiting: float | None
    held: float
    oldest_age_s: float | None
    rate: float
    rate_each: float | None
    in_hand: float
    room: float


class Steadied:
    """A number that follows a need: up when the need was higher during all of ``up_s``, down to the highest need of the
    last ``down_s``."""

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s = up_s
        self._down_s = down_s
        self._wanted: deque[tuple[float, int]] = deque()

    def follow(self, now: float, current: int, need: float) -> int:
        """The next number after ``current``, where ``need`` (not rounded) is enough now."""
        wanted = current if current < need <= current * (1 + _TOLERANCE) else math.ceil(need)
        if not self._wanted:
            self._wanted.append((now, current))  # the first number counts as needed
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - max(self._up_s, self._down_s):
            self._wanted.popleft()
        most = max((number for at, number in self._wanted if at > now - self._down_s), default=wanted)
        if most < current:
            return most
        least = min((number for at, number in self._wanted if at > now - self._up_s), default=wanted)
        return max(least, current)


class Scaler:
    """Enough replicas for the arriving load, and to process the backlog within ``drain_s``.

    The rate of one replica is learnt while all are busy.

    Args:
        drain_s: time in which a backlog should be processed.
        guess: assumed rate of one replica until it is known, in units per second; ``None``: go by occupancy.
        up_s, down_s: see :class:`Steadied`.
    """

    def __init__(self, drain_s: float, guess: float | None, up_s: float, down_s: float) -> None:
        self._drain_s = drain_s
        self._guess = guess
        self._learnt: float | None = None
        self._learnt_at = 0.0
        self._busy_since: float | None = None
        self._backlogs: deque[tuple[float, float]] = deque()
        self._steadied = Steadied(up_s, down_s)

    def decide(self, load: Load) -> int:
        """The number of replicas; the caller applies bounds."""
        need = self._need(load)
        if load.waiting is None or load.waiting + load.held > 0:  # without replicas it would stay unknown, or undone
            need = max(1.0, need)
        return self._steadied.follow(load.now, load.target, need)

    def _need(self, load: Load) -> float:
        waiting = load.waiting or 0.0
        occupancy = load.in_hand / load.room if load.room else 1.0
        growth = self._growth(load.now, waiting + load.held)
        much = waiting > max(1.0, load.rate)  # more than a second's work
        full = load.waiting is None and load.room > 0 and occupancy >= _FULL
        self._learn(load, full or (much and occupancy > 0.5))
        if full:  # the backlog is not known
            return _GROWTH_BLIND * load.replicas
        each = self._learnt or (self._guess if much or not load.replicas else None)
        if each is None and not load.room:
            return float(load.target)
        if each is None and much:
            return min(_GROWTH_BLIND, (waiting + load.in_hand) / load.room) * load.replicas
        if each is None:  # half the room is the target; one less at a time, since it may be one too few
            return max(2 * load.replicas * occupancy, load.target - 1.0)
        need = (max(0.0, load.rate + growth) / _UTILISATION + waiting / self._drain_s) / each
        if much and load.oldest_age_s is not None and load.oldest_age_s > self._drain_s:
            # the wait is too long, whatever the rates are
            need = max(need, load.replicas * min(_GROWTH, load.oldest_age_s / self._drain_s))
        return need

    def _growth(self, now: float, backlog: float) -> float:
        """The growth of the backlog over the window, in units per second."""
        self._backlogs.append((now, backlog))
        while len(self._backlogs) > 2 and self._backlogs[1][0] <= now - _GROWTH_S:
            self._backlogs.popleft()
        then, before = self._backlogs[0]
        return 0.0 if then == now else (backlog - before) / (now - then)

    def _learn(self, load: Load, busy: bool) -> None:
        """Learn the rate of a replica, once all have been busy for the whole window of measured rates."""
        passed, self._learnt_at = load.now - self._learnt_at, load.now
        if not busy:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = load.now
        elif load.now - self._busy_since >= WINDOW_S and load.rate_each:
            if self._learnt is None:
                self._learnt = load.rate_each
            constant_s = _FASTER_S if load.rate_each > self._learnt else _SLOWER_S
            self._learnt += (1 - math.exp(-passed / constant_s)) * (load.rate_each - self._learnt)
