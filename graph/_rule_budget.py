"""The work that one evaluation of a rule may do, and what things cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "MAX_OPERATIONS",
    "MAX_SIZE",
    "NUMBERS",
    "PLAIN",
    "SCALARS",
    "SEQUENCES",
    "SIZED",
    "Failure",
    "Run",
    "look_up_cost",
    "name_of",
    "scan_cost",
    "weight",
]

MAX_OPERATIONS = 100_000
"""Elementary operations in one evaluation. One takes 0.1 to 0.4 us, so that no rule holds an event loop for longer than
about 40 ms; it is enough for a look at 10,000 detections, or at every pair of 80."""

MAX_SIZE = 10_000
"""Items or characters of a value that a rule builds: more than any list of detections, too few to matter as memory."""

_CHARACTERS = 6  # one operation pays for 2**6 characters compared or searched: the C code does about one a nanosecond
_ITEMS = 3  # one operation pays for 2**3 items that are copied
_PROBES = 6  # one operation pays for 2**6 steps in a hash table; who picks its numbers can make a look-up walk it all

NUMBERS = frozenset({int, float, bool})
SCALARS = NUMBERS | {type(None)}
SEQUENCES = frozenset({str, list, tuple})
SIZED = SEQUENCES | {dict, set}
PLAIN = SCALARS | SIZED


class Failure(Exception):
    """The evaluation ends here; ``str(failure)`` says why."""


class Run:
    """One evaluation: what the rule may read, the values of its comprehension variables, and the operations so far."""

    __slots__ = ("context", "detection", "image", "spent", "variables")

    def __init__(self, context: Mapping[str, Any], image: dict[str, Any], detection: dict[str, Any] | None) -> None:
        self.context = context
        self.image = image
        self.detection = detection
        self.variables: list[Any] = []
        self.spent = 0

    def spend(self, operations: int) -> None:
        self.spent += operations
        if self.spent > MAX_OPERATIONS:
            raise Failure(f"does too much work: more than {MAX_OPERATIONS} operations; look at fewer values")

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


def weight(run: Run, value: Any) -> int:
    """Operations that a walk through all of ``value`` takes at worst; raises where the run could not pay for them."""
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
            if run.spent + found + length > MAX_OPERATIONS:
                run.spend(found + length)
            left.extend(value)
            if kind is dict:
                left.extend(value.values())
            if kind is dict or kind is set:
                found += length * length >> _PROBES
        elif kind not in SCALARS:
            raise TypeError(f"a value of type {name_of(value)} is not plain JSON; a rule cannot use it")
    return found


def look_up_cost(run: Run, key: Any, table: dict[Any, Any] | set[Any]) -> int:
    return weight(run, key) * (1 + (len(table) >> _PROBES))


def scan_cost(part: str, text: str) -> int:
    """What ``part in text`` takes: for short ones Python's search may go through ``part`` at every character."""
    return len(text) * len(part) >> _CHARACTERS
