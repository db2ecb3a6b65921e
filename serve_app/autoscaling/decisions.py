"""How many replicas there should be, from numbers alone: no clock, no broker, no Ray.

:class:`Scaler` says what is needed now and leaves it to :class:`Steadied` when to follow: up soon, down only to what
was enough during all of a long window. That, and a band around the present number, is what keeps it from flapping.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["WINDOW_S", "Load", "Scaler", "Steadied"]

WINDOW_S = 10.0
"""Over which replicas measure their rates."""

_GROWTH_S = 6.0  # over which the growth of what waits is measured: less is noise, more is late
_TOLERANCE = 0.1  # a need that is so little above what there is adds no replica
_UTILISATION = 0.8  # of what replicas can do; the rest is for what comes unevenly
_FASTER_S, _SLOWER_S = 5.0, 30.0  # time constants of what one replica can do: slower it may be for others' sake
_FULL = 0.6  # hands that are so full mean that more waits; messages are taken by the batch, so that it may be less
_GROWTH = 2.0  # where it is known that there are too few, and not by how much
_GROWTH_BLIND = 4.0  # where that, too, is only known by full hands


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do, and who does it. The unit is a message for workers, a crop for a step.

    Attributes:
        now: seconds on a clock that goes on evenly.
        replicas: that run and have reported.
        target: replicas that there should be by the last decision.
        waiting: units that nobody has in hand; ``None``: not known.
        held: units that were taken and not finished, as far as that is known.
        oldest_age_s: how long the oldest has waited; ``None``: not known.
        rate: units that all replicas together finished a second, over the last ``WINDOW_S``.
        rate_each: the mean rate of the replicas that have run for longer than that; ``None``: there are none.
        in_hand: units that the replicas have.
        room: units that they could have.
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
    """A number that follows a need: up once that was higher all along for ``up_s``, down to the most that was needed
    within ``down_s``."""

    def __init__(self, up_s: float, down_s: float) -> None:
        self._up_s = up_s
        self._down_s = down_s
        self._wanted: deque[tuple[float, int]] = deque()

    def follow(self, now: float, current: int, need: float) -> int:
        """The number that there should be, where there is ``current`` and ``need`` (not rounded) would do for now."""
        wanted = current if current < need <= current * (1 + _TOLERANCE) else math.ceil(need)
        if not self._wanted:
            self._wanted.append((now, current))  # what was before counts as needed
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - max(self._up_s, self._down_s):
            self._wanted.popleft()
        most = max((number for at, number in self._wanted if at > now - self._down_s), default=wanted)
        if most < current:
            return most
        least = min((number for at, number in self._wanted if at > now - self._up_s), default=wanted)
        return max(least, current)


class Scaler:
    """Replicas enough for what arrives, and to be done with what waits within ``drain_s``.

    What one replica can do is learnt while all have more to do than they can.

    Args:
        drain_s: seconds in which what waits should be gone.
        guess: units a second that one replica is thought to do until that is known; ``None``: their hands say how many
            are needed.
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
        """The number of replicas that there should be; bounds are the caller's."""
        need = self._need(load)
        if load.waiting is None or load.waiting + load.held > 0:  # without replicas nobody would know, or do it
            need = max(1.0, need)
        return self._steadied.follow(load.now, load.target, need)

    def _need(self, load: Load) -> float:
        waiting = load.waiting or 0.0
        hands = load.in_hand / load.room if load.room else 1.0
        growth = self._growth(load.now, waiting + load.held)
        much = waiting > max(1.0, load.rate)  # more than a second's work
        full = load.waiting is None and load.room > 0 and hands >= _FULL
        self._learn(load, full or (much and hands > 0.5))
        if full:  # nobody says how much there is to do
            return _GROWTH_BLIND * load.replicas
        each = self._learnt or (self._guess if much or not load.replicas else None)
        if each is None and not load.room:
            return float(load.target)
        if each is None and much:
            return min(_GROWTH_BLIND, (waiting + load.in_hand) / load.room) * load.replicas
        if each is None:  # hands are to be half full; one less at a time, since it may be one too few
            return max(2 * load.replicas * hands, load.target - 1.0)
        need = (max(0.0, load.rate + growth) / _UTILISATION + waiting / self._drain_s) / each
        if much and load.oldest_age_s is not None and load.oldest_age_s > self._drain_s:
            # it takes too long, whatever the rates say
            need = max(need, load.replicas * min(_GROWTH, load.oldest_age_s / self._drain_s))
        return need

    def _growth(self, now: float, backlog: float) -> float:
        """Units a second by which the backlog grew over the window."""
        self._backlogs.append((now, backlog))
        while len(self._backlogs) > 2 and self._backlogs[1][0] <= now - _GROWTH_S:
            self._backlogs.popleft()
        then, before = self._backlogs[0]
        return 0.0 if then == now else (backlog - before) / (now - then)

    def _learn(self, load: Load, busy: bool) -> None:
        """Take a rate for what a replica can do, once all have been busy for as long as rates are measured."""
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
