"""What a rule computes with: plain JSON values, every operation on them bounded and paid for.

Python's own operators do the work. Before one of them is let loose on values whose size somebody else chose, its cost
is charged to the :class:`Run`; a result that could grow is refused before it is built.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from graph._rule_budget import (
    MAX_SIZE,
    NUMBERS,
    PLAIN,
    SCALARS,
    SEQUENCES,
    SIZED,
    Failure,
    Run,
    look_up_cost,
    name_of,
    scan_cost,
    weight,
)

__all__ = [
    "ARITHMETIC",
    "COMPARISONS",
    "MAX_NUMBER",
    "add",
    "bounded",
    "cut",
    "item",
    "items",
    "make_dict",
    "make_list",
    "make_set",
    "missing",
    "negative",
    "number",
    "positive",
    "truth",
    "unpack",
]

MAX_NUMBER = 2**64
"""Largest whole number that arithmetic takes or gives, either sign; Python's have no end and get ever slower."""

MAX_POWER = 64
"""Largest whole exponent; every base but -1, 0 and 1 passes ``MAX_NUMBER`` with a larger one."""

_MAX_KEYS_COMPARED, _MAX_KEY_LENGTH = 100, 60  # what a search for the nearest key looks at


# ---- reading


def missing(key: Any, mapping: Iterable[Any]) -> Failure:
    shown = repr(key)
    message = f"KeyError: {shown if len(shown) <= _MAX_KEY_LENGTH else shown[:_MAX_KEY_LENGTH] + '...'}"
    if isinstance(key, str) and len(key) <= _MAX_KEY_LENGTH:
        names = [name for name, _ in zip(mapping, range(_MAX_KEYS_COMPARED), strict=False) if isinstance(name, str)]
        near = difflib.get_close_matches(key, [name for name in names if len(name) <= _MAX_KEY_LENGTH], n=1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    return Failure(message)


def item(run: Run, container: Any, key: Any) -> Any:
    """``container[key]``."""
    kind = type(container)
    if kind is dict:
        if type(key) is not str:
            run.spend(look_up_cost(run, key, container))
        try:
            return container[key]
        except KeyError:
            raise missing(key, container) from None
    if kind in SEQUENCES:
        return container[key]
    raise TypeError(f"{name_of(container)} object is not subscriptable")


def cut(run: Run, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``."""
    if type(value) not in SEQUENCES:
        raise TypeError(f"{name_of(value)} object cannot be sliced")
    part = slice(start, stop, step)
    run.copy(len(range(*part.indices(len(value)))))
    return value[part]


def items(run: Run, value: Any) -> Collection[Any]:
    """What a loop over ``value`` goes through, always in the same order."""
    kind = type(value)
    if kind is set:
        # The order of a set of texts differs from process to process; a rule must be decided alike in all of them.
        members = list(value)
        run.spend(weight(run, members) * len(members).bit_length())
        return sorted(members, key=lambda member: (type(member).__name__, repr(member)))
    if kind in SIZED:
        return value  # type: ignore[no-any-return]
    raise TypeError(f"{name_of(value)} object is not iterable")


def unpack(run: Run, value: Any, count: int) -> Collection[Any]:
    """The ``count`` values that stand for ``for a, b in ...``."""
    values = items(run, value)
    if len(values) != count:
        raise ValueError(f"expected {count} values to unpack, got {len(values)}")
    return values


def truth(value: Any) -> bool:
    if type(value) not in PLAIN:
        raise TypeError(f"a value of type {name_of(value)} is not plain JSON; a rule cannot be decided by it")
    return bool(value)


# ---- building


def make_list(run: Run, found: Iterable[Any]) -> list[Any]:
    made: list[Any] = []
    for value in found:
        made.append(value)
        if len(made) > MAX_SIZE:
            run.grow(len(made))
    return made


def make_set(run: Run, found: Iterable[Any]) -> set[Any]:
    made: set[Any] = set()
    for value in found:
        run.spend(look_up_cost(run, value, made))  # which ends it long before MAX_SIZE
        made.add(value)
    return made


def make_dict(run: Run, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        run.spend(look_up_cost(run, key, made))  # which ends it long before MAX_SIZE
        made[key] = value
    return made


# ---- comparing


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Run, Any, Any], Any]:
    def compared(run: Run, left: Any, right: Any) -> Any:
        one, other = type(left), type(right)
        if one not in SCALARS or other not in SCALARS:
            if one not in PLAIN or other not in PLAIN:
                raise TypeError(
                    f"cannot compare {name_of(left)} and {name_of(right)}: a rule works with plain JSON values"
                )
            if one in SIZED and other in SIZED:
                run.spend(weight(run, left if len(left) <= len(right) else right))
        return compare(left, right)

    return compared


def _contains(run: Run, member: Any, container: Any) -> bool:
    kind = type(container)
    if kind is list or kind is tuple:
        run.spend(len(container) * weight(run, member))
    elif kind is str:
        if type(member) is str:
            run.spend(scan_cost(member, container))
    elif kind in SIZED:
        run.spend(look_up_cost(run, member, container))
    else:
        raise TypeError(f"'in' needs a list, a text or a dict on its right, not {name_of(container)}")
    return member in container


COMPARISONS: Mapping[str, Callable[[Run, Any, Any], Any]] = {
    "Eq": _ordered(operator.eq),
    "NotEq": _ordered(operator.ne),
    "Lt": _ordered(operator.lt),
    "LtE": _ordered(operator.le),
    "Gt": _ordered(operator.gt),
    "GtE": _ordered(operator.ge),
    "In": _contains,
    "NotIn": lambda run, member, container: not _contains(run, member, container),
    "Is": lambda _run, left, right: left is right,
    "IsNot": lambda _run, left, right: left is not right,
}
"""By the name of the operator's class in ``ast``."""


# ---- arithmetic


def bounded(value: Any) -> Any:
    if isinstance(value, int):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise OverflowError("a whole number is larger than 2**64")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError("a number is not finite")
    else:
        raise ValueError("the result is not a real number")  # noqa: TRY004 - complex: the values were at fault, not the types
    return value


def number(value: Any, user: str) -> Any:
    if type(value) not in NUMBERS:
        raise TypeError(f"{user} works on numbers, not on {name_of(value)}")
    return bounded(value)


def _numeric(symbol: str, operation: Callable[[Any, Any], Any]) -> Callable[[Run, Any, Any], Any]:
    def computed(_run: Run, left: Any, right: Any) -> Any:
        if type(left) not in NUMBERS or type(right) not in NUMBERS:
            raise TypeError(f"'{symbol}' does not work on {name_of(left)} and {name_of(right)}")
        return bounded(operation(bounded(left), bounded(right)))

    return computed


_add_numbers = _numeric("+", operator.add)
_subtract_numbers = _numeric("-", operator.sub)
_multiply_numbers = _numeric("*", operator.mul)
_raise_numbers = _numeric("**", operator.pow)


def add(run: Run, left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right) and kind in SEQUENCES:
        run.grow(len(left) + len(right))
        return left + right
    return _add_numbers(run, left, right)


def _subtract(run: Run, left: Any, right: Any) -> Any:
    if type(left) is set and type(right) is set:
        run.spend(weight(run, left) + weight(run, right))
        return left - right
    return _subtract_numbers(run, left, right)


def _multiply(run: Run, left: Any, right: Any) -> Any:
    for sequence, times in ((left, right), (right, left)):
        if type(sequence) in SEQUENCES and isinstance(times, int):
            run.grow(len(sequence) * max(times, 0))
            return left * right
    return _multiply_numbers(run, left, right)


def _power(run: Run, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and right > MAX_POWER:
        raise OverflowError("a whole number is larger than 2**64")
    return _raise_numbers(run, left, right)


ARITHMETIC: Mapping[str, Callable[[Run, Any, Any], Any]] = {
    "Add": add,
    "Sub": _subtract,
    "Mult": _multiply,
    "Div": _numeric("/", operator.truediv),
    "FloorDiv": _numeric("//", operator.floordiv),
    "Mod": _numeric("%", operator.mod),
    "Pow": _power,
}
"""By the name of the operator's class in ``ast``."""


def negative(value: Any) -> Any:
    return -number(value, "'-'")


def positive(value: Any) -> Any:
    return +number(value, "'+'")
