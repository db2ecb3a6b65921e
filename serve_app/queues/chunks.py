"""Sequences in pieces of a size that a broker takes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["chunks"]

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Pieces of at most ``size``, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
