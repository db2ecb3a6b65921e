"""Suggestions for misspelled words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]

_MAX_LENGTH = 200
"""Longer words are not compared: keys of a client's metadata may have any length."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar to ``word``; ``None`` if none is similar enough."""
    by_lower = {candidate.lower(): candidate for candidate in known if len(candidate) <= _MAX_LENGTH}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1) if len(word) <= _MAX_LENGTH else []
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """``"; did you mean 'animal'?"``, or ``otherwise`` if no known word is similar enough."""
    found = nearest(word, known)
    return f"; did you mean {found!r}?" if found else otherwise
