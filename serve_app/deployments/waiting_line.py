"""Calls that wait for their turn, in the order of their priority and age."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from typing import Generic, TypeAlias, TypeVar

from graph.engine import Priority

__all__ = ["AGEING_S", "Place", "WaitingLine"]

T = TypeVar("T")

AGEING_S = 5.0
"""A call goes before one of the next higher priority that came so much later, so that none waits forever."""

Place: TypeAlias = tuple[float, int]
"""Where an item is in its line."""


class WaitingLine(Generic[T]):
    """What waits, the first to be taken first."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, T]] = []  # sorted; the number keeps the order of those that are equal
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, priority: Priority, since: float) -> Place:
        """Add an item that has been waiting since then, in seconds by any clock that all items share."""
        place = since + priority * AGEING_S, next(self._numbers)
        insort(self._items, (*place, item))
        return place

    def first(self) -> T:
        """The item that is taken next.

        Raises:
            IndexError: none waits.
        """
        return self._items[0][2]

    def take(self) -> T:
        """Remove the item that is next, and return it.

        Raises:
            IndexError: none waits.
        """
        return self._items.pop(0)[2]

    def remove(self, place: Place) -> bool:
        """Remove an item; ``False``: it was taken."""
        index = bisect_left(self._items, place)
        if index == len(self._items) or self._items[index][:2] != place:
            return False
        del self._items[index]
        return True
