"""What a rule computes with: plain JSON values, every operation on them bounded and paid for.

Python's own operators and functions do the work. No operator makes more than it was given (``*`` works on numbers
only), so a rule's work is bounded by charging for each operation, and for the size of what it looks at.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from classifiers.errors import VisionError
from classifiers.suggestions import did_you_mean

__all__ = ["ARITHMETIC", "FUNCTIONS", "HELPERS", "MAX_OPERATIONS", "MIN_OPERATIONS", "Budget", "RuleError"]

MAX_OPERATIONS = 30_000
"""Operations of all rules of a step for one image. One takes about 0.1 us: some milliseconds in all, whatever clients
send. An ordinary crop rule takes 5 to 15 for each detection; comparing every pair of 60 detections fits."""

MIN_OPERATIONS = 5_000
"""Operations that the rules of a step have at least, however many steps share ``MAX_OPERATIONS`` because they read
metadata."""

Operation = Callable[..., Any]
"""Takes the budget, then its operands."""

_MAX_NUMBER = 2**64
"""Largest whole number that arithmetic takes or returns, either sign; Python's are unlimited and get ever slower."""

_MAX_EXPONENT = 64  # any larger one takes every whole base but -1, 0 and 1 beyond _MAX_NUMBER
_MAX_DIGITS = 20  # of `round`, either sign
_KEYS_COMPARED = 100  # for a "did you mean"

# One operation pays for this many items or characters, which Python's own code goes through.
_ITEMS = 8
_CHARACTERS = 64
_DIVISION = 20  # operations: floats are divided bit by bit

_NUMBERS = frozenset({int, float, bool})
_CONTAINERS = (list, tuple, dict, set)


class RuleError(VisionError):
    """A rule could not be evaluated: a missing key, a wrong type, a division by zero, too much work."""


class Budget:
    """The work that the rules of one step may do for one image: its condition, and its crop rule for every detection.

    Each step has its own, and an evaluation costs the same in every process. So it depends neither on the runtime nor
    on the order of the steps whether the budget suffices.
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

    def weigh(self, value: Any) -> int:
        """Pay for a walk through all of ``value``, and return what it cost."""
        before = self.spent
        if isinstance(value, str):
            self.spend(1 + len(value) // _CHARACTERS)
        elif isinstance(value, _CONTAINERS):
            self.spend(1 + len(value) // _ITEMS)
            for part in chain(value, value.values()) if isinstance(value, dict) else value:
                if type(part) not in _NUMBERS:
                    self.weigh(part)
        else:
            self.spend(1)
        return self.spent - before


def _size(value: Any) -> int:
    """Items or characters of a value, 0 for a number."""
    return len(value) if isinstance(value, (str, *_CONTAINERS)) else 0


# ---- reading


def _item(budget: Budget, container: Any, key: Any) -> Any:
    """``container[key]``, and ``container[start:stop:step]``."""
    budget.spent += 1
    if type(key) is slice:
        budget.spend(len(range(*key.indices(_size(container)))) // _ITEMS)
    elif type(key) is not str and type(container) is dict:
        _key(budget, key)
    try:
        return container[key]
    except KeyError:
        names = (name for name in islice(container, _KEYS_COMPARED) if isinstance(name, str))
        hint = did_you_mean(key, names) if isinstance(key, str) else ""
        raise RuleError(f"KeyError: {reprlib.repr(key)}{hint}") from None


def _key(budget: Budget, value: Any) -> Any:
    """``value`` as a key of a dict or a member of a set. Clients must not be able to make many with one hash."""
    if type(value) is tuple:
        raise TypeError("a tuple cannot be a key or in a set; use a string or a number")
    if type(value) is int:
        _bounded(value)
    budget.weigh(value)
    return value


def _each(budget: Budget, value: Any) -> Iterable[Any]:
    """What a loop or a function goes through, always in the same order; a generator pays for itself."""
    budget.spend(1 + _size(value) // _ITEMS)
    if type(value) is set:
        # The order of a set of strings differs from process to process; a rule must be evaluated alike in all of them.
        budget.spend(budget.weigh(value) + len(value) * len(value).bit_length())
        return sorted(value, key=lambda member: (type(member).__name__, repr(member)))
    return value  # type: ignore[no-any-return]


def _loop(budget: Budget, value: Any, unpacks: bool) -> Iterator[Any]:
    """What the variable, or with ``unpacks`` the variables, of a ``for`` become."""
    for member in _each(budget, value):
        budget.spend(1)
        yield _each(budget, member) if unpacks else member


# ---- comparing


def _compared(budget: Budget, value: Any) -> Any:
    """An operand of ``==``, ``<`` and their like, which look at all of it at worst."""
    if type(value) in _NUMBERS:
        budget.spent += 1
    else:
        budget.weigh(value)
    return value


def _contains(budget: Budget, member: Any, container: Any) -> bool:
    if isinstance(container, list | tuple):
        budget.spend(len(container) * budget.weigh(member) // 4)
    elif isinstance(container, str):
        budget.spend(1 + len(container) * _size(member) // _CHARACTERS)  # it may be compared at every character
    else:
        _key(budget, member)
    return member in container


# ---- arithmetic


def _bounded(value: Any) -> Any:
    if type(value) in _NUMBERS and -_MAX_NUMBER <= value <= _MAX_NUMBER:
        return value
    if isinstance(value, int):
        raise OverflowError("a whole number is larger than 2**64")
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError("a number is not finite")
    return value


def _arithmetic(name: str, operation: Callable[[Any, Any], Any]) -> Operation:
    cost = _DIVISION if name in ("FloorDiv", "Mod") else 1

    def computed(budget: Budget, left: Any, right: Any) -> Any:
        budget.spend(cost)
        if type(left) not in _NUMBERS or type(right) not in _NUMBERS:
            if name in ("Mult", "Mod"):
                raise TypeError(f"{'*' if name == 'Mult' else '%'!r} works on numbers only")
            budget.spend((_size(left) + _size(right)) // _ITEMS)
        elif name == "Pow" and float not in (type(left), type(right)) and right > _MAX_EXPONENT and abs(left) > 1:
            raise OverflowError("a whole number is larger than 2**64")
        return _bounded(operation(_bounded(left), _bounded(right)))

    return computed


ARITHMETIC: Mapping[str, Operation] = {
    name: _arithmetic(name, operation)
    for name, operation in {
        "Add": operator.add,
        "Sub": operator.sub,
        "Mult": operator.mul,
        "Div": operator.truediv,
        "FloorDiv": operator.floordiv,
        "Mod": operator.mod,
        "Pow": operator.pow,
    }.items()
}
"""By the name of the operator's class in ``ast``."""


# ---- functions


def _rounded(budget: Budget, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int):
        if abs(digits) > _MAX_DIGITS or abs(value) > _MAX_NUMBER:
            raise OverflowError(f"round() takes up to {_MAX_DIGITS} digits, of numbers up to 2**64")
        budget.spend(_MAX_DIGITS)
    return _bounded(round(_bounded(value), digits))


def _total(budget: Budget, values: Any, start: Any = 0) -> Any:
    if isinstance(start, list | tuple):  # each step would copy all that was joined before
        raise TypeError("sum() adds numbers; to join lists write [x for part in parts for x in part]")
    return _bounded(sum(_each(budget, values), start))


def _extreme(choose: Callable[..., Any]) -> Operation:
    def chosen(budget: Budget, first: Any, *others: Any, **default: Any) -> Any:
        values = [first, *others] if others else list(_each(budget, first))
        if not values and not default:
            raise ValueError(f"{choose.__name__}() of nothing; write {choose.__name__}(..., default=0)")
        budget.weigh(values)
        return choose(values, **default)

    return chosen


FUNCTIONS: Mapping[str, tuple[Operation, int | None]] = {
    "abs": (lambda _budget, value: abs(value), 1),
    "all": (lambda budget, values: all(_each(budget, values)), 1),
    "any": (lambda budget, values: any(_each(budget, values)), 1),
    "len": (lambda _budget, value: len(value), 1),
    "max": (_extreme(max), None),
    "min": (_extreme(min), None),
    "round": (_rounded, 2),
    "sum": (_total, 2),
}
"""What a rule may call, by name, and with how many arguments at most."""

HELPERS: Mapping[str, Operation] = {
    **{name: function for name, (function, _) in FUNCTIONS.items()},
    **{helper.__name__[1:]: helper for helper in (_compared, _contains, _item, _key, _loop)},
    **ARITHMETIC,
}
"""What a compiled rule calls, by name; each takes the budget first."""
