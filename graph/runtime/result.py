"""The results of classifiers: plain JSON values, checked and rounded the same way in every runtime."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import numpy as np

from classifiers.errors import VisionError

__all__ = ["CONFIDENCE_DIGITS", "COORDINATE_DIGITS", "BadResult", "normalise"]

CONFIDENCE_DIGITS = 4
COORDINATE_DIGITS = 2

_DIGITS = {"confidence": CONFIDENCE_DIGITS, "bbox": COORDINATE_DIGITS}
_MAX_DEPTH = 32

# What doubles, and so most JSON readers, can hold.
_MAX_INTEGER_BITS = 1023


class BadResult(VisionError):
    """A classifier returned an invalid result. The message tells its author which value is wrong, what was expected,
    and the value."""


def normalise(result: Mapping[str, Any], source: str = "the classifier") -> dict[str, Any]:
    """Check what a classifier returned for one image, and convert it to plain JSON values.

    NumPy values become Python's, tuples and sets become lists (a set sorted), ``confidence`` is rounded to 4 places,
    ``bbox`` to 2. These keys have a fixed shape, all others hold any JSON value:

    - ``detections``: a list of dicts with ``bbox``, four finite numbers [x1, y1, x2, y2] in pixels; ``class_name``, a
      string; ``confidence``, 0..1; ``class_id``, an integer of at most 64 bits. Boxes may be inverted or reach beyond
      the image, and detections may be equal; readers must handle that. They may have ``mask``, a list of
      polygons, each a list of points [x, y]; ``keypoints``, points [x, y] or [x, y, confidence]; ``corners``, four
      points. Their coordinates are pixels, rounded to 2 places.
    - ``detected_classes``: strings; sorted and without repeats. Made from the ``detections`` if missing.
    - ``label``: a string; ``confidence``: 0..1; ``labels``: a list of dicts with ``label`` and ``confidence``.
    - ``objects`` is reserved: the engine makes it from a step's answers about detections.

    Args:
        result: what ``process`` returned.
        source: begins the message of an error.

    Raises:
        BadResult: it is invalid; the message says where.
    """
    try:
        plain = _shaped(result, _RESULT)
        if "detections" in plain and "detected_classes" not in plain:
            plain["detected_classes"] = sorted({detection["class_name"] for detection in plain["detections"]})
    except _Wrong as error:
        raise BadResult(f"{source}: result{error}") from None
    except Exception as error:  # an object of a plug-in may raise anything when it is read
        raise BadResult(f"{source}: the result cannot be read: {type(error).__name__}: {error}") from error
    return plain


class _Wrong(Exception):
    """A value is not as expected. Every container around it adds its key or index while the error propagates."""

    def __init__(self, expected: str, value: Any) -> None:
        super().__init__(expected, value)
        self.path: list[str | int] = []

    def __str__(self) -> str:
        expected, value = self.args
        place = "".join(f"[{key!r}]" for key in reversed(self.path))
        return f"{place} must be {expected}, but is {reprlib.repr(value)} ({type(value).__name__})"


_Reader: TypeAlias = Callable[[Any], Any]
"""Checks a value and returns it as a plain one; raises ``_Wrong``."""

T = TypeVar("T")


def _shaped(
    value: Any,
    readers: Mapping[str, _Reader],
    required: frozenset[str] = frozenset(),
    digits: int | None = None,
    depth: int = 1,
) -> dict[str, Any]:
    """A dict of which some keys have readers of their own, and some are required."""
    if not isinstance(value, Mapping):
        raise _Wrong("a dict", value)
    plain: dict[str, Any] = {}
    for name, item in value.items():
        try:
            if type(name) is not str or not name.isascii():
                name = _text(name)  # noqa: PLW2901
            reader = readers.get(name)
            plain[name] = _plain(item, _DIGITS.get(name, digits), depth) if reader is None else reader(item)
        except _Wrong as error:
            if not isinstance(name, str):
                raise _Wrong("a dict whose keys are strings", value) from None
            error.path.append(name)
            raise
    if not required <= plain.keys():
        missing = ", ".join(repr(name) for name in sorted(required - plain.keys()))
        raise _Wrong(f"a dict with {missing} too", value)
    return plain


def _each(values: Iterable[Any], reader: Callable[..., T], *arguments: Any) -> list[T]:
    plain: list[T] = []
    try:
        for value in values:
            plain.append(reader(value, *arguments))  # noqa: PERF401 - an error needs the index
    except _Wrong as error:
        error.path.append(len(plain))
        raise
    return plain


def _sequence(value: Any, expected: str) -> Sequence[Any]:
    """The items of a list, a tuple or an array."""
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, (list, tuple)):
        raise _Wrong(expected, value)
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong("text without lone surrogates", value) from None
    return str.__str__(value)  # of an enum or np.str_ the text itself


def _number(value: Any, expected: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise _Wrong(expected, value)


_SCORE = "a number from 0 to 1"
_BOX = "four finite numbers [x1, y1, x2, y2] in pixels"
_INTEGER = "an integer of at most 64 bits"


def _confidence(value: Any) -> float:
    number = value if type(value) is float else _number(value, _SCORE)
    rounded = round(number, CONFIDENCE_DIGITS) if -1 < number < 2 else number  # allows for the rounding of float32
    if not 0 <= rounded <= 1:
        raise _Wrong(_SCORE, value)
    return rounded + 0.0  # no -0.0


def _bbox(value: Any) -> list[float]:
    box = value if type(value) is list else _sequence(value, _BOX)
    sides = [round(side if type(side) is float else _number(side, _BOX), COORDINATE_DIGITS) for side in box]
    if len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise _Wrong(_BOX, value)
    return sides


def _class_id(value: Any) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    number = int(value) if whole else _number(value, _INTEGER)
    if number != int(number) or not -(2**63) <= number < 2**63:
        raise _Wrong(_INTEGER, value)
    return int(number)


def _class_names(value: Any) -> list[str]:
    plain = _plain(value, None)
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise _Wrong("a list of strings", value)
    return sorted(set(plain))


def _points(lengths: tuple[int, ...], expected: str, count: range = range(2**31)) -> _Reader:
    """The reader of a list of ``count`` points: x, y, and optionally a confidence."""

    def point(value: Any) -> list[float]:
        if not isinstance(value, (list, tuple)) or len(value) not in lengths:
            raise _Wrong(expected, value)
        place = [round(_number(number, expected), COORDINATE_DIGITS) for number in value[:2]]
        return place + [_confidence(number) for number in value[2:]]

    def read(value: Any) -> list[list[float]]:
        points = _sequence(value, expected)
        if len(points) not in count:
            raise _Wrong(expected, value)
        return _each(points, point)

    return read


_polygon = _points((2,), "a polygon: three points [x, y] or more, in pixels", range(3, 2**31))


def _mask(value: Any) -> list[list[list[float]]]:
    if not isinstance(value, (list, tuple)):
        raise _Wrong("a list of polygons, each a list of points [x, y] in pixels", value)
    return _each(value, _polygon)


def _list_of(readers: Mapping[str, _Reader], optional: Mapping[str, _Reader] | None = None) -> _Reader:
    """The reader of a list of dicts that have all these keys, and may have the optional ones."""
    required, readers = frozenset(readers), {**readers, **(optional or {})}
    expected = f"a list of dicts with {', '.join(map(repr, sorted(required)))}"
    return lambda value: _each(_sequence(value, expected), _shaped, readers, required, None, 3)


def _reserved(value: Any) -> NoReturn:
    raise _Wrong("under another key: 'objects' is reserved for what the engine makes", value)


_LABEL: Mapping[str, _Reader] = {"label": _text, "confidence": _confidence}
_DETECTION: Mapping[str, _Reader] = {
    "bbox": _bbox,
    "class_name": _text,
    "confidence": _confidence,
    "class_id": _class_id,
}
_SHAPES: Mapping[str, _Reader] = {
    "mask": _mask,
    "keypoints": _points((2, 3), "a list of points [x, y] or [x, y, confidence], in pixels"),
    "corners": _points((2,), "four points [x, y] in pixels", range(4, 5)),
}
_RESULT: Mapping[str, _Reader] = {
    "detections": _list_of(_DETECTION, _SHAPES),
    "detected_classes": _class_names,
    "label": _text,
    "labels": _list_of(_LABEL),
    "confidence": _confidence,
    "objects": _reserved,
}


def _plain(value: Any, digits: int | None, depth: int = 1) -> Any:
    """Any JSON value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise _Wrong(f"an integer of at most {_MAX_INTEGER_BITS} bits", "a larger one")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Wrong("a finite number or None", value)
        return float(value) if digits is None else round(float(value), digits)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), digits, depth)
    if isinstance(value, np.generic):
        single = float(value) if isinstance(value, np.floating) else value.item()
        if not isinstance(single, np.generic):
            return _plain(single, digits, depth)
    if depth > _MAX_DEPTH:
        raise _Wrong(f"nested at most {_MAX_DEPTH} deep, and not within itself", value)
    if isinstance(value, Mapping):
        return _shaped(value, {}, digits=digits, depth=depth + 1)
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return _each(value, _plain, digits, depth + 1)
    raise _Wrong("a number, a string, a list, a dict, None, or a NumPy array of numbers", value)
