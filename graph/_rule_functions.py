"""The functions that a rule may call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from graph._rule_budget import SCALARS, SIZED, Budget, name_of, weight
from graph._rule_syntax import MAX_LENGTH
from graph._rule_values import add, bounded, items, number

__all__ = ["FUNCTIONS", "Function", "paid"]

MAX_DIGITS = 20
"""Largest number of digits for ``round``, either sign; no number here has more. ``round(1, -10**9)`` would compute
10**10**9."""


def paid(budget: Budget, value: Any) -> Iterable[Any]:
    """The items of ``value`` for a function that goes through all of them."""
    found = items(budget, value)
    budget.spend(len(found))
    return found


def _size(_budget: Budget, value: Any) -> int:
    if type(value) not in SIZED:
        raise TypeError(f"len() works on lists, texts and dicts, not on {name_of(value)}")
    return len(value)


def _magnitude(_budget: Budget, value: Any) -> Any:
    return abs(number(value, "abs()"))


def _rounded(_budget: Budget, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > MAX_DIGITS:
        raise OverflowError(f"round() takes up to {MAX_DIGITS} digits")
    return bounded(round(number(value, "round()"), digits))


def _total(budget: Budget, values: Iterable[Any], start: Any = 0) -> Any:
    if type(start) is list or type(start) is tuple:
        for value in values:
            start = add(budget, start, value)
        return start
    return bounded(sum([number(value, "sum()") for value in values], number(start, "sum()")))


def _extreme(budget: Budget, name: str, values: Iterable[Any], default: tuple[Any, ...]) -> list[Any]:
    found = list(values)
    if not found and not default:
        raise ValueError(f"{name}() of nothing; write {name}(..., default=0)")
    for value in found:
        if type(value) not in SCALARS:
            budget.spend(weight(budget, value))  # no comparison looks at more of it than all
    return found or [default[0]]


def _smallest(budget: Budget, values: Iterable[Any], *default: Any) -> Any:
    return min(_extreme(budget, "min", values, default))


def _largest(budget: Budget, values: Iterable[Any], *default: Any) -> Any:
    return max(_extreme(budget, "max", values, default))


class Function(NamedTuple):
    code: Callable[..., Any]
    """Takes the budget, then the arguments."""

    most: int
    """Arguments; one at least."""

    iterates: bool
    """Whether it goes through its first argument, which may be a generator."""


FUNCTIONS: Mapping[str, Function] = {
    "abs": Function(_magnitude, 1, iterates=False),
    "all": Function(lambda _budget, found: all(found), 1, iterates=True),
    "any": Function(lambda _budget, found: any(found), 1, iterates=True),
    "len": Function(_size, 1, iterates=False),
    "max": Function(_largest, MAX_LENGTH, iterates=True),
    "min": Function(_smallest, MAX_LENGTH, iterates=True),
    "round": Function(_rounded, 2, iterates=False),
    "sum": Function(_total, 2, iterates=True),
}
