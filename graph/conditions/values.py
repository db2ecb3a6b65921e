"""What a rule computes with: plain JSON values, every operation on them bounded and paid for.

Python's own operators and functions do the work. Before one of them runs on values whose size somebody else chose, its
cost is charged to the :class:`Budget`; a result that could grow is refused before it is built.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from classifiers.suggestions import did_you_mean
from graph.conditions.budget import Budget, RuleError, size, weight

__all__ = ["ARITHMETIC", "FUNCTIONS", "HELPERS"]

Operation = Callable[..., Any]
"""Takes the budget, then its operands."""

_MAX_NUMBER = 2**64
"""Largest whole number that arithmetic takes or gives, either sign; Python's have no end and get ever slower."""

_MAX_POWER = 64  # every base but -1, 0 and 1 passes _MAX_NUMBER with a larger exponent
_MAX_DIGITS = 20  # of `round`, either sign; no number here has more
_KEYS_COMPARED = 100  # in the search for the key that was meant
_KEY_LENGTH = 60  # of a missing key in a message

# Operations
_TUPLE_KEY = 32  # tuples of chosen numbers can all have the same place in a hash table
_DIVISION = 20  # C divides floats bit by bit
_LONG_ROUND = 1_000  # Python writes out all digits, of which a float has up to 309

_NUMBERS = frozenset({int, float, bool})


# ---- reading


def _item(budget: Budget, container: Any, key: Any) -> Any:
    """``container[key]``, and ``container[start:stop:step]``."""
    budget.spent += 1
    if type(key) is slice:
        budget.copy(len(range(*key.indices(size(container)))))
    elif type(key) is not str and type(container) is dict:
        _key(budget, key)
    try:
        return container[key]
    except KeyError:
        names = (name for name in islice(container, _KEYS_COMPARED) if isinstance(name, str))
        hint = did_you_mean(key, names) if isinstance(key, str) else ""
        shown = repr(key)
        shown = shown if len(shown) <= _KEY_LENGTH else f"{shown[:_KEY_LENGTH]}..."
        raise RuleError(f"KeyError: {shown}{hint}") from None


def _key(budget: Budget, value: Any) -> Any:
    """``value`` as a key of a dict or a member of a set."""
    if type(value) is int:
        _bounded(value)  # of larger ones, any number can have the same hash
    budget.spend(weight(budget, value) * (_TUPLE_KEY if type(value) is tuple else 1))
    return value


def _each(budget: Budget, value: Any) -> Collection[Any]:
    """What a loop over ``value`` goes through, always in the same order."""
    if type(value) is set:
        # The order of a set of strings differs from process to process; a rule must be evaluated alike in all of them.
        budget.spend(weight(budget, value) * len(value).bit_length())
        return sorted(value, key=lambda member: (type(member).__name__, repr(member)))
    return value  # type: ignore[no-any-return]


def _loop(budget: Budget, value: Any, unpacks: bool) -> Iterator[Any]:
    """What the variable, or with ``unpacks`` the variables, of a ``for`` become."""
    for member in _each(budget, value):
        budget.spent += 1
        if budget.spent > budget.limit:
            budget.spend(0)
        yield _each(budget, member) if unpacks else member


# ---- comparing


def _comparison(compare: Callable[[Any, Any], Any]) -> Operation:
    def compared(budget: Budget, left: Any, right: Any) -> Any:
        budget.spent += 1
        if type(left) not in _NUMBERS and type(right) not in _NUMBERS:
            budget.spent += weight(budget, left if size(left) <= size(right) else right)
        return compare(left, right)

    return compared


def _contains(budget: Budget, member: Any, container: Any) -> bool:
    if isinstance(container, str):
        budget.spend(1 + (len(container) * size(member) >> 6))  # it may go through `member` at every character
    elif isinstance(container, list | tuple):
        budget.spend(1 + (len(container) * weight(budget, member) >> 2))
    else:
        _key(budget, member)
    return member in container


COMPARISONS: Mapping[str, Operation] = {
    "Eq": _comparison(operator.eq),
    "NotEq": _comparison(operator.ne),
    "Lt": _comparison(operator.lt),
    "LtE": _comparison(operator.le),
    "Gt": _comparison(operator.gt),
    "GtE": _comparison(operator.ge),
    "Is": _comparison(operator.is_),
    "IsNot": _comparison(operator.is_not),
    "In": _contains,
    "NotIn": lambda budget, member, container: not _contains(budget, member, container),
}
"""By the name of the operator's class in ``ast``."""


def _chain(budget: Budget, operators: str, left: Any, *operands: Callable[[], Any]) -> bool:
    """``left < a < b``: the operands are evaluated as far as the comparisons hold."""
    for name, operand in zip(operators.split(), operands, strict=True):
        right = operand()
        if not COMPARISONS[name](budget, left, right):
            return False
        left = right
    return True


# ---- arithmetic


def _bounded(value: Any) -> Any:
    if type(value) in _NUMBERS and -_MAX_NUMBER <= value <= _MAX_NUMBER:
        return value
    if isinstance(value, complex):
        raise ValueError("the result is not a real number")  # noqa: TRY004 - the values were at fault, not the types
    if isinstance(value, int):
        raise OverflowError("a whole number is larger than 2**64")
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError("a number is not finite")
    return value


def _arithmetic(name: str, operation: Callable[[Any, Any], Any]) -> Operation:
    cost = _DIVISION if name in ("FloorDiv", "Mod") else 1

    def computed(budget: Budget, left: Any, right: Any) -> Any:
        if type(left) not in _NUMBERS or type(right) not in _NUMBERS:
            _grow(budget, name, left, right)
        elif (
            name == "Pow" and isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and right > _MAX_POWER
        ):
            raise OverflowError("a whole number is larger than 2**64")
        budget.spent += cost
        return _bounded(operation(_bounded(left), _bounded(right)))

    return computed


def _grow(budget: Budget, name: str, left: Any, right: Any) -> None:
    """Pay for arithmetic with sequences and sets."""
    if name == "Mod":
        raise TypeError("'%' works on numbers only")
    if name == "Mult" and isinstance(left, int):
        left, right = right, left
    budget.grow(size(left) * max(right, 0) if name == "Mult" and isinstance(right, int) else size(left) + size(right))


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


def _paid(budget: Budget, values: Any) -> Iterable[Any]:
    """``values`` for a function that goes through all of them; a generator pays for itself."""
    budget.spend(1 + size(values))
    return _each(budget, values)


def _rounded(budget: Budget, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int):
        if abs(digits) > _MAX_DIGITS:
            raise OverflowError(f"round() takes up to {_MAX_DIGITS} digits")
        budget.spend(_LONG_ROUND if value > _MAX_NUMBER or value < -_MAX_NUMBER else _MAX_DIGITS)
    return _bounded(round(_bounded(value), digits))


def _total(budget: Budget, values: Any, start: Any = 0) -> Any:
    found = _paid(budget, values)
    if not isinstance(start, list | tuple):
        return _bounded(sum(found, start))
    for value in found:
        start = ARITHMETIC["Add"](budget, start, value)
    return start


def _extreme(choose: Callable[..., Any]) -> Operation:
    def chosen(budget: Budget, first: Any, *others: Any, **default: Any) -> Any:
        values = [first, *others] if others else list(_each(budget, first))
        if not values and not default:
            raise ValueError(f"{choose.__name__}() of nothing; write {choose.__name__}(..., default=0)")
        for value in values:
            budget.spend(weight(budget, value))  # no comparison looks at more of it than all
        return choose(values, **default)

    return chosen


FUNCTIONS: Mapping[str, tuple[Operation, int | None]] = {
    "abs": (lambda _budget, value: abs(value), 1),
    "all": (lambda budget, values: all(_paid(budget, values)), 1),
    "any": (lambda budget, values: any(_paid(budget, values)), 1),
    "len": (lambda _budget, value: len(value), 1),
    "max": (_extreme(max), None),
    "min": (_extreme(min), None),
    "round": (_rounded, 2),
    "sum": (_total, 2),
}
"""What a rule may call, by name, and with how many arguments at most."""

HELPERS: Mapping[str, Operation] = {
    **{name: function for name, (function, _) in FUNCTIONS.items()},
    **{code.__name__[1:]: code for code in (_chain, _item, _key, _loop)},
    **COMPARISONS,
    **ARITHMETIC,
}
"""What a compiled rule calls, by name; each takes the budget first."""
