"""The load over a day."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classifiers import SetupError

__all__ = ["DayCurve"]

_DAY_S = 86_400
_MOST_PEAK = 100.0


@dataclass(frozen=True)
class DayCurve:
    """Images of a day, with one maximum.

    The rate follows exp(k cos t), the von Mises curve, with k such that its maximum is ``peak`` times its mean: for 2
    it is close to a sine, for 5 or 10 there is a rush of some hours and little else.

    Args:
        images_per_day: above 0.
        peak: the highest rate by the mean rate, 1 to 100.

    Raises:
        SetupError: a number is outside of its range.
    """

    images_per_day: float
    peak: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.images_per_day) and self.images_per_day > 0):
            raise SetupError(f"images per day must be above 0, for example 10e6; got {self.images_per_day:g}")
        if not 1 <= self.peak <= _MOST_PEAK:
            raise SetupError(
                f"the peak is the highest rate by the mean rate, from 1 to {_MOST_PEAK:g}, for example 5; "
                f"got {self.peak:g}"
            )

    @property
    def mean_per_s(self) -> float:
        """Images per second, on average."""
        return self.images_per_day / _DAY_S

    @property
    def peak_per_s(self) -> float:
        """Images per second at the maximum."""
        return self.mean_per_s * self.peak

    def rates(self, parts: int = 24) -> npt.NDArray[np.float64]:
        """Images per second in each of ``parts`` equal parts of the day, from midnight; the maximum is at noon."""
        at = (np.arange(parts * 60) + 0.5) / (parts * 60)
        shape = np.exp(self._concentration() * (np.cos(2 * np.pi * (at - 0.5)) - 1))
        per_part: npt.NDArray[np.float64] = shape.reshape(parts, 60).mean(axis=1)
        per_part *= self.mean_per_s / per_part.mean()
        return per_part

    def _concentration(self) -> float:
        """k by bisection: the maximum by the mean is exp(k) / I0(k), which grows with k."""
        low, high = 0.0, 1.0
        while _peak_of(high) < self.peak:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _peak_of(middle) < self.peak else (low, middle)
        return high


def _peak_of(k: float) -> float:
    angles = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    return float(1 / np.exp(k * (np.cos(angles) - 1)).mean())
