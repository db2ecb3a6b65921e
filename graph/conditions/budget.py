"""The work that the rules of a step may do for one image, and what things cost."""

from __future__ import annotations

from typing import Any

__all__ = [
    "MAX_OPERATIONS",
    "MAX_SIZE",
    "MIN_OPERATIONS",
    "NUMBERS",
    "PLAIN",
    "SCALARS",
    "SEQUENCES",
    "SIZED",
    "Budget",
    "Failure",
    "look_up_cost",
    "name_of",
    "scan_cost",
    "weight",
]

MAX_OPERATIONS = 30_000
"""Operations of all rules of a step for one image. One takes about 0.1 us: some milliseconds in all, whatever a client
sends. An ordinary crop rule takes 5 to 15 for each detection; a look at every pair of 60 detections fits."""

MIN_OPERATIONS = 5_000
"""What the rules of a step may always do, however many steps share ``MAX_OPERATIONS`` because they read metadata."""

MAX_SIZE = 10_000
"""Items or characters of a value that a rule builds: more than any list of detections, too few to matter as memory."""

_CHARACTERS = 6  # one operation pays for 2**6 characters compared or searched: the C code does about one a nanosecond
_ITEMS = 3  # one operation pays for 2**3 items that are copied
_PROBES = 4  # one operation pays for 2**4 steps in a hash table, of which tuples of chosen numbers may need very many
_LARGEST_KEY = 2**64  # of larger whole numbers, any number of different ones can have the same hash

NUMBERS = frozenset({int, float, bool})
SCALARS = NUMBERS | {type(None)}
SEQUENCES = frozenset({str, list, tuple})
SIZED = SEQUENCES | {dict, set}
PLAIN = SCALARS | SIZED


class Failure(Exception):
    """The evaluation ends here; ``str(failure)`` says why."""


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
            raise Failure(
                f"does too much work: the rules of this step may do {self.limit:,} operations for one image, over all "
                "detections; look at fewer values"
            )

    def grow(self, length: int) -> None:
        """Pay for a value of ``length`` items or characters that is about to be built."""
        if length > MAX_SIZE:
            raise Failure(f"does too much work: a value of {length} items or characters, {MAX_SIZE} are allowed")
        self.copy(length)

    def copy(self, length: int) -> None:
        """Pay for a copy of ``length`` items or characters of a value that is there."""
        self.spend(length >> _ITEMS)


def name_of(value: Any) -> str:
    """The type of ``value`` for a message."""
    return repr(type(value).__name__)


def weight(budget: Budget, value: Any) -> int:
    """Operations that a walk through all of ``value`` takes at worst; raises where the budget cannot pay for them."""
    kind = type(value)
    if kind in SCALARS:
        return 1
    if kind is str:
        return 1 + (len(value) >> _CHARACTERS)
    found, left = 0, [value]
    while left:
        value = left.pop()
        kind = type(value)
        found += 1
        if kind is str:
            found += len(value) >> _CHARACTERS
        elif kind in SIZED:
            length = len(value)
            if budget.spent + found + length > budget.limit:
                budget.spend(found + length)
            left.extend(value)
            if kind is dict:
                left.extend(value.values())
            if kind is set and tuple in map(type, value):
                found += length * length >> _PROBES
        elif kind not in SCALARS:
            raise TypeError(f"a value of type {name_of(value)} is not plain JSON; a rule cannot use it")
    return found


def look_up_cost(budget: Budget, key: Any, table: dict[Any, Any] | set[Any]) -> int:
    if type(key) is str:
        return 1 + (len(key) >> _CHARACTERS)
    if type(key) is int and not -_LARGEST_KEY <= key <= _LARGEST_KEY:
        raise OverflowError("a whole number is larger than 2**64")
    return weight(budget, key) * (1 + (len(table) >> _PROBES if type(key) is tuple else 1))


def scan_cost(part: str, text: str) -> int:
    """What ``part in text`` takes: for short ones Python's search may go through ``part`` at every character."""
    return len(text) * len(part) >> _CHARACTERS
