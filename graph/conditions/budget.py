"""The work that the rules of a step may do for one image, and what values cost."""

from __future__ import annotations

from typing import Any

from classifiers.errors import VisionError

__all__ = [
    "MAX_OPERATIONS",
    "MAX_SIZE",
    "MIN_OPERATIONS",
    "Budget",
    "RuleError",
    "size",
    "weight",
]

MAX_OPERATIONS = 30_000
"""Operations of all rules of a step for one image. One takes about 0.1 us: some milliseconds in all, whatever a client
sends. An ordinary crop rule takes 5 to 15 for each detection; a look at every pair of 60 detections fits."""

MIN_OPERATIONS = 5_000
"""What the rules of a step may always do, however many steps share ``MAX_OPERATIONS`` because they read metadata."""

MAX_SIZE = 10_000
"""Items or characters of a value that an operator builds: more than any list of detections, too few to matter as
memory."""

_SIZED = (str, list, tuple, dict, set)
_CHARACTERS = 6  # one operation pays for 2**6 characters: the C code compares about one per nanosecond
_ITEMS = 3  # one operation pays for 2**3 items that are copied


class RuleError(VisionError):
    """A rule could not be evaluated: a missing key, a wrong type, a division by zero, too much work."""


class Budget:
    """What the rules of one step may still do for one image: its condition, and its crop rule for every detection.

    Each step has its own, and an evaluation counts the same in every process, so that whether the budget is enough
    depends neither on the runtime nor on which step comes first.
    """

    __slots__ = ("limit", "spent")

    def __init__(self, limit: int = MAX_OPERATIONS) -> None:
        self.limit = limit
        self.spent = 0

    def spend(self, operations: int) -> None:
        self.spent += operations
        if self.spent > self.limit:
            raise RuleError(
                f"does too much work: the rules of this step may do {self.limit:,} operations for one image, over all "
                "detections; look at fewer values"
            )

    def copy(self, length: int) -> None:
        """Pay for a copy of ``length`` items or characters."""
        self.spend(1 + (length >> _ITEMS))

    def grow(self, length: int) -> None:
        """Pay for a value of ``length`` items or characters that is about to be built."""
        if length > MAX_SIZE:
            raise RuleError(f"does too much work: a value of {length} items or characters, {MAX_SIZE} are allowed")
        self.copy(length)


def size(value: Any) -> int:
    """Items or characters of a value, 0 for a number."""
    return len(value) if isinstance(value, _SIZED) else 0


def weight(budget: Budget, value: Any) -> int:
    """Operations that a walk through all of ``value`` takes; raises where the budget cannot pay for them."""
    if type(value) is str:
        return 1 + (len(value) >> _CHARACTERS)
    found, left = 0, [value]
    while left:
        value = left.pop()
        found += 1
        if isinstance(value, str):
            found += len(value) >> _CHARACTERS
        elif length := size(value):
            if budget.spent + found + length > budget.limit:
                budget.spend(found + length)
            left.extend(value)
            if isinstance(value, dict):
                left.extend(value.values())
    return found
