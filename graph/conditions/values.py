"""What a rule computes with: plain JSON values, every operation on them bounded and paid for.

Python's own operators do the work. Before one of them runs on values whose size somebody else chose, its cost is
charged to the :class:`Budget`; a result that could grow is refused before it is built.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from graph.conditions.budget import (
    MAX_SIZE,
    NUMBERS,
    PLAIN,
    SCALARS,
    SEQUENCES,
    SIZED,
    Budget,
    Failure,
    look_up_cost,
    name_of,
    scan_cost,
    weight,
)
from graph.conditions.syntax import MAX_LENGTH

__all__ = ["ARITHMETIC", "FUNCTIONS", "HELPERS", "MAX_NUMBER", "Function", "Shape", "truth"]

MAX_NUMBER = 2**64
"""Largest whole number that arithmetic takes or gives, either sign; Python's have no end and get ever slower."""

MAX_POWER = 64
"""Largest whole exponent; every base but -1, 0 and 1 passes ``MAX_NUMBER`` with a larger one."""

_COMPARED = 2  # one operation pays for 2**2 members of a list that are compared with a value

_MAX_KEYS_COMPARED, _MAX_KEY_LENGTH = 100, 60  # what a search for the nearest key looks at


# ---- reading


def _missing(key: Any, mapping: Iterable[Any]) -> Failure:
    shown = repr(key)
    message = f"KeyError: {shown if len(shown) <= _MAX_KEY_LENGTH else shown[:_MAX_KEY_LENGTH] + '...'}"
    if isinstance(key, str) and len(key) <= _MAX_KEY_LENGTH:
        names = [name for name, _ in zip(mapping, range(_MAX_KEYS_COMPARED), strict=False) if isinstance(name, str)]
        near = difflib.get_close_matches(key, [name for name in names if len(name) <= _MAX_KEY_LENGTH], n=1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    return Failure(message)


def _step_result(_budget: Budget, context: Mapping[str, Any], name: str) -> Any:
    """``context[name]``."""
    try:
        return context[name]
    except KeyError:
        raise _missing(name, context) from None


def _item(budget: Budget, container: Any, key: Any) -> Any:
    """``container[key]``."""
    kind = type(container)
    if kind is dict:
        if type(key) is not str:
            budget.spend(look_up_cost(budget, key, container))
        try:
            return container[key]
        except KeyError:
            raise _missing(key, container) from None
    if kind in SEQUENCES:
        return container[key]
    raise TypeError(f"{name_of(container)} object is not subscriptable")


def _cut(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """``value[start:stop:step]``."""
    if type(value) not in SEQUENCES:
        raise TypeError(f"{name_of(value)} object cannot be sliced")
    part = slice(start, stop, step)
    budget.copy(len(range(*part.indices(len(value)))))
    return value[part]


def _items(budget: Budget, value: Any) -> Collection[Any]:
    """What a loop over ``value`` goes through, always in the same order."""
    kind = type(value)
    if kind is set:
        # The order of a set of texts differs from process to process; a rule must be decided alike in all of them.
        members = list(value)
        budget.spend(weight(budget, members) * len(members).bit_length())
        return sorted(members, key=lambda member: (type(member).__name__, repr(member)))
    if kind in SIZED:
        return value  # type: ignore[no-any-return]
    raise TypeError(f"{name_of(value)} object is not iterable")


Shape = tuple["Shape | None", ...]
"""Of what a loop unpacks: ``None`` for a variable; ``a, (b, c)`` is ``(None, (None, None))``."""


def _loop(budget: Budget, value: Any, cost: int, shape: Shape | None) -> Iterator[Any]:
    """The values that the variables of a ``for`` take, each of which costs what one turn costs."""
    for member in _items(budget, value):
        budget.spent += cost
        if budget.spent > budget.limit:
            budget.spend(0)
        yield member if shape is None else _unpacked(budget, member, shape)


def _unpacked(budget: Budget, value: Any, shape: Shape | None) -> Any:
    if shape is None:
        return value
    values = _items(budget, value)
    if len(values) != len(shape):
        raise ValueError(f"expected {len(shape)} values to unpack, got {len(values)}")
    return [_unpacked(budget, part, inner) for part, inner in zip(values, shape, strict=True)]


def truth(value: Any) -> bool:
    if type(value) not in PLAIN:
        raise TypeError(f"a value of type {name_of(value)} is not plain JSON; a rule cannot be decided by it")
    return bool(value)


# ---- building


def _make_list(budget: Budget, found: Iterable[Any]) -> list[Any]:
    made: list[Any] = []
    for value in found:
        made.append(value)
        if len(made) > MAX_SIZE:
            budget.grow(len(made))
    return made


def _make_set(budget: Budget, found: Iterable[Any]) -> set[Any]:
    made: set[Any] = set()
    for value in found:
        budget.spend(look_up_cost(budget, value, made))  # which ends it long before MAX_SIZE
        made.add(value)
    return made


def _make_dict(budget: Budget, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        budget.spend(look_up_cost(budget, key, made))  # which ends it long before MAX_SIZE
        made[key] = value
    return made


# ---- comparing


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Budget, Any, Any], Any]:
    def compared(budget: Budget, left: Any, right: Any) -> Any:
        one, other = type(left), type(right)
        if one is str and other is str:
            shorter = min(len(left), len(right))
            if shorter > 64:
                budget.spend(shorter >> 6)
        elif one not in SCALARS or other not in SCALARS:
            if one not in PLAIN or other not in PLAIN:
                raise TypeError(
                    f"cannot compare {name_of(left)} and {name_of(right)}: a rule works with plain JSON values"
                )
            if one in SIZED and other in SIZED:
                budget.spend(weight(budget, left if len(left) <= len(right) else right))
        return compare(left, right)

    return compared


def _contains(budget: Budget, member: Any, container: Any) -> bool:
    kind = type(container)
    if kind is list or kind is tuple:
        if type(member) is str and len(member) < 64:
            budget.spend(len(container) >> _COMPARED)
        else:
            budget.spend(len(container) * weight(budget, member) >> _COMPARED)
    elif kind is str:
        if type(member) is str:
            budget.spend(scan_cost(member, container))
    elif kind in SIZED:
        budget.spend(look_up_cost(budget, member, container))
    else:
        raise TypeError(f"'in' needs a list, a string or a dict on its right, not {name_of(container)}")
    return member in container


COMPARISONS: Mapping[str, Callable[[Budget, Any, Any], Any]] = {
    "Eq": _ordered(operator.eq),
    "NotEq": _ordered(operator.ne),
    "Lt": _ordered(operator.lt),
    "LtE": _ordered(operator.le),
    "Gt": _ordered(operator.gt),
    "GtE": _ordered(operator.ge),
    "In": _contains,
    "NotIn": lambda budget, member, container: not _contains(budget, member, container),
    "Is": lambda _run, left, right: left is right,
    "IsNot": lambda _run, left, right: left is not right,
}
"""By the name of the operator's class in ``ast``."""


def _chain(budget: Budget, operators: tuple[str, ...], left: Any, *operands: Callable[[], Any]) -> bool:
    """``left < a < b``: the operands are evaluated as far as the comparisons hold."""
    for name, operand in zip(operators, operands, strict=True):
        right = operand()
        if not COMPARISONS[name](budget, left, right):
            return False
        left = right
    return True


# ---- arithmetic


def _bounded(value: Any) -> Any:
    if isinstance(value, int):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise OverflowError("a whole number is larger than 2**64")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError("a number is not finite")
    else:
        raise ValueError("the result is not a real number")  # noqa: TRY004 - complex: the values were at fault, not the types
    return value


def _number(value: Any, user: str) -> Any:
    if type(value) not in NUMBERS:
        raise TypeError(f"{user} works on numbers, not on {name_of(value)}")
    return _bounded(value)


def _numeric(symbol: str, operation: Callable[[Any, Any], Any]) -> Callable[[Budget, Any, Any], Any]:
    def computed(_budget: Budget, left: Any, right: Any) -> Any:
        if type(left) not in NUMBERS or type(right) not in NUMBERS:
            raise TypeError(f"'{symbol}' does not work on {name_of(left)} and {name_of(right)}")
        if not (-MAX_NUMBER <= left <= MAX_NUMBER and -MAX_NUMBER <= right <= MAX_NUMBER):  # or not finite
            _bounded(left)
            _bounded(right)
        result = operation(left, right)
        return result if type(result) in NUMBERS and -MAX_NUMBER <= result <= MAX_NUMBER else _bounded(result)

    return computed


def _divided(symbol: str, operation: Callable[[Any, Any], Any]) -> Callable[[Budget, Any, Any], Any]:
    compute = _numeric(symbol, operation)

    def computed(budget: Budget, left: Any, right: Any) -> Any:
        numbers = type(left) in NUMBERS and type(right) in NUMBERS
        if numbers and (type(left) is float or type(right) is float) and abs(left) > abs(right) * 2**32:
            budget.spend(100)  # C divides floats bit by bit
        return compute(budget, left, right)

    return computed


_add_numbers = _numeric("+", operator.add)
_subtract_numbers = _numeric("-", operator.sub)
_multiply_numbers = _numeric("*", operator.mul)
_raise_numbers = _numeric("**", operator.pow)


def _add(budget: Budget, left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right) and kind in SEQUENCES:
        budget.grow(len(left) + len(right))
        return left + right
    return _add_numbers(budget, left, right)


def _subtract(budget: Budget, left: Any, right: Any) -> Any:
    if type(left) is set and type(right) is set:
        budget.spend(weight(budget, left) + weight(budget, right))
        return left - right
    return _subtract_numbers(budget, left, right)


def _multiply(budget: Budget, left: Any, right: Any) -> Any:
    for sequence, times in ((left, right), (right, left)):
        if type(sequence) in SEQUENCES and isinstance(times, int):
            budget.grow(len(sequence) * max(times, 0))
            return left * right
    return _multiply_numbers(budget, left, right)


def _power(budget: Budget, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and right > MAX_POWER:
        raise OverflowError("a whole number is larger than 2**64")
    return _raise_numbers(budget, left, right)


ARITHMETIC: Mapping[str, Callable[[Budget, Any, Any], Any]] = {
    "Add": _add,
    "Sub": _subtract,
    "Mult": _multiply,
    "Div": _numeric("/", operator.truediv),
    "FloorDiv": _divided("//", operator.floordiv),
    "Mod": _divided("%", operator.mod),
    "Pow": _power,
}
"""By the name of the operator's class in ``ast``."""


def _negative(_budget: Budget, value: Any) -> Any:
    return -_number(value, "'-'")


def _positive(_budget: Budget, value: Any) -> Any:
    return +_number(value, "'+'")


# ---- functions

MAX_DIGITS = 20
"""Largest number of digits for ``round``, either sign; no number here has more. ``round(1, -10**9)`` would compute
10**10**9."""


def _paid(budget: Budget, value: Any) -> Iterable[Any]:
    """The items of ``value`` for a function that goes through all of them."""
    found = _items(budget, value)
    budget.spend(len(found))
    return found


def _size(_budget: Budget, value: Any) -> int:
    if type(value) not in SIZED:
        raise TypeError(f"len() works on lists, texts and dicts, not on {name_of(value)}")
    return len(value)


def _magnitude(_budget: Budget, value: Any) -> Any:
    return abs(_number(value, "abs()"))


def _rounded(budget: Budget, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int):
        if abs(digits) > MAX_DIGITS:
            raise OverflowError(f"round() takes up to {MAX_DIGITS} digits")
        # Python writes out the decimal digits, of which a large number has up to 309.
        budget.spend(10 + 2 * abs(digits) if isinstance(value, int | float) and abs(value) < 2**64 else 1_000)
    return _bounded(round(_number(value, "round()"), digits))


def _total(budget: Budget, values: Iterable[Any], start: Any = 0) -> Any:
    if type(start) is list or type(start) is tuple:
        for value in values:
            start = _add(budget, start, value)
        return start
    return _bounded(sum([_number(value, "sum()") for value in values], _number(start, "sum()")))


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
"""What a rule may call, by name."""

HELPERS: Mapping[str, Callable[..., Any]] = {
    **COMPARISONS,
    **ARITHMETIC,
    **{name: function.code for name, function in FUNCTIONS.items()},
    "chain": _chain,
    "cut": _cut,
    "item": _item,
    "loop": _loop,
    "make_dict": _make_dict,
    "make_list": _make_list,
    "make_set": _make_set,
    "negative": _negative,
    "paid": _paid,
    "positive": _positive,
    "step_result": _step_result,
}
"""What a compiled rule calls, by name; each takes the budget first."""
