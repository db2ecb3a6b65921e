"""What each key has left: its rate with burst, its images of the day, its requests under way; decided in one go.

The rate is a token bucket in the form of the generic cell rate algorithm (GCRA, ITU-T I.371): one number a key, the
time at which its bucket is full again. Unlike windows that are counted it lets through neither twice the burst at a
border nor less than the rate.

Here are the decision in this process, and the words that it shares with the one in Redis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serve_app.gateway_config import Limits

__all__ = ["DAY_S", "Budgets", "LocalBudgets", "Refusal", "Verdict", "verdict"]

DAY_S = 86_400

# Idle entries are swept out when there are so many; with `auth: none` each client address makes one.
_SWEEP_AT = 10_000

Refusal = Literal["rate", "day", "concurrent"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, and what its key has left.

    Attributes:
        refused: which of the limits said no; ``None``: the request may pass.
        remaining: requests that may come at once after this one; ``None`` where the rate is not limited.
        reset_s: seconds until the burst is there again in full.
        images_left: of the day; ``None`` where they are not limited.
        retry_after_s: seconds after which the same request may pass; 0 where it did.
    """

    refused: Refusal | None
    remaining: int | None
    reset_s: float
    images_left: int | None
    retry_after_s: float


class Budgets(Protocol):
    """Decides, and counts what has passed."""

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """Let a request pass or not. What is refused takes nothing.

        Args:
            key: whose budget.
            limits: the budget.
            images: that the request wants to run.
            lease: names the request until it is given back.
            lease_s: after that time it counts as ended in any case.
        """

    async def give_back(self, key: str, lease: str) -> None:
        """The request has ended."""


@dataclass(slots=True)
class _Account:
    full_at: float = 0.0
    day: int = 0
    images: int = 0
    leases: dict[str, float] = field(default_factory=dict)

    def is_idle(self, now: float) -> bool:
        return self.full_at <= now and self.day != int(now // DAY_S) and not self.leases


class LocalBudgets:
    """Counts in this process. Use it from one event loop.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._sweep_at = _SWEEP_AT

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """See :class:`Budgets`."""
        now = self._clock()
        account = self._account(key, now)
        interval = 1 / limits.requests_per_second if limits.requests_per_second else 0.0
        depth = limits.burst_size * interval
        full_at = max(account.full_at, now) + interval
        day = int(now // DAY_S)
        used = account.images if account.day == day else 0
        if account.leases and min(account.leases.values()) <= now:
            account.leases = {name: ends for name, ends in account.leases.items() if ends > now}

        refused: Refusal | None = None
        retry_after = 0.0
        if interval and full_at - now > depth + _ROUNDING_S:
            refused, retry_after = "rate", full_at - now - depth
        elif limits.images_per_day is not None and used + images > limits.images_per_day:
            refused, retry_after = "day", (day + 1) * DAY_S - now
        elif limits.concurrent is not None and len(account.leases) >= limits.concurrent:
            refused, retry_after = "concurrent", 1.0
        if refused is None:
            if interval:
                account.full_at = full_at
            if limits.images_per_day is not None:
                account.day, account.images = day, used + images
                used += images
            if limits.concurrent is not None:
                account.leases[lease] = now + lease_s
        return verdict(limits, refused, max(0.0, account.full_at - now), used, retry_after)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`Budgets`."""
        account = self._accounts.get(key)
        if account is not None:
            account.leases.pop(lease, None)

    def _account(self, key: str, now: float) -> _Account:
        if key not in self._accounts and len(self._accounts) >= self._sweep_at:
            self._accounts = {name: account for name, account in self._accounts.items() if not account.is_idle(now)}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._accounts))
        return self._accounts.setdefault(key, _Account())


# Times are doubles since the epoch: below this they cannot be told apart.
_ROUNDING_S = 1e-6


def verdict(limits: Limits, refused: Refusal | None, reset_s: float, images_used: int, retry_after_s: float) -> Verdict:
    """Put what was counted into words."""
    remaining = None
    if limits.requests_per_second is not None:
        remaining = max(0, math.floor(limits.burst_size - reset_s * limits.requests_per_second + 1e-3))
    left = None if limits.images_per_day is None else max(0, limits.images_per_day - images_used)
    return Verdict(refused, remaining, reset_s, left, retry_after_s)
