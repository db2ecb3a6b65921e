"""The one shape of a classifier's result: plain JSON values, checked and rounded the same way in every runtime."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

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
    """A classifier returned something that is not a result. The message tells its author which value is wrong, what
    was expected, and what came."""


def normalise(result: Mapping[str, Any], source: str = "the classifier") -> dict[str, Any]:
    """Check what a classifier returned for one image, and turn it into what the result shows and rules read.

    NumPy values become Python's, tuples and sets become lists (a set sorted), ``confidence`` is rounded to 4 places,
    ``bbox`` to 2. These keys have a fixed shape, all others hold any JSON value:

    - ``detections``: a list of dicts with ``bbox``, four finite numbers [x1, y1, x2, y2] in pixels; ``class_name``, a
      string; ``confidence``, 0..1; ``class_id``, an integer of at most 64 bits. Boxes may be inverted or reach beyond
      the image, and detections may be equal: whoever reads them copes with that. They may have ``mask``, a list of
      polygons, each a list of points [x, y]; ``keypoints``, points [x, y] or [x, y, confidence]; ``corners``, four
      points. Their coordinates are pixels, rounded to 2 places.
    - ``detected_classes``: strings; sorted and without repeats. Made of the ``detections`` where it is missing.
    - ``label``: a string; ``confidence``: 0..1; ``labels``: a list of dicts with ``label`` and ``confidence``.
    - ``objects`` is reserved for what the engine makes of a step's answers about detections.

    Args:
        result: what ``process`` returned.
        source: begins the message of an error.

    Raises:
        BadResult: it does not fit; the message says where.
    """
    try:
        plain = _shaped(result, None, "", _RESULT, frozenset())
        if "detections" in plain and "detected_classes" not in plain:
            plain["detected_classes"] = sorted({detection["class_name"] for detection in plain["detections"]})
    except BadResult as error:
        raise BadResult(f"{source}: {error}") from None
    except Exception as error:  # an object of a plug-in may do anything when it is looked into
        raise BadResult(f"{source}: the result cannot be read: {type(error).__name__}: {error}") from error
    return plain


_Where: TypeAlias = "tuple[_Where, str | int, int] | None"
"""The value's container: where that is, its key there, and its depth. Turned into words only for an error."""

_Reader: TypeAlias = Callable[[Any, _Where, "str | int"], Any]
"""Checks a value, given its container and its key there, and returns it as a plain one."""


def _wrong(where: _Where, key: str | int, expected: str, value: Any) -> NoReturn:
    place = ""
    if where is not None:
        path = [key]
        while where[0] is not None:
            path.append(where[1])
            where = where[0]
        place = "".join(f"[{part!r}]" for part in reversed(path))
    raise BadResult(f"result{place} must be {expected}, but is {reprlib.repr(value)} ({type(value).__name__})")


def _inside(where: _Where, key: str | int, value: Any) -> _Where:
    depth = 0 if where is None else where[2] + 1
    if depth > _MAX_DEPTH:
        _wrong(where, key, f"nested at most {_MAX_DEPTH} deep, and not within itself", value)
    return where, key, depth


def _shaped(
    value: Any,
    where: _Where,
    key: str | int,
    readers: Mapping[str, _Reader],
    required: frozenset[str],
    digits: int | None = None,
) -> dict[str, Any]:
    """A dict of which some keys have readers of their own, and some are required."""
    if not isinstance(value, Mapping):
        _wrong(where, key, "a dict", value)
    here = _inside(where, key, value)
    plain: dict[str, Any] = {}
    for name, item in value.items():
        if type(name) is not str or not name.isascii():
            if not isinstance(name, str):
                _wrong(where, key, "a dict whose keys are strings", value)
            name = _text(name, here, name)  # noqa: PLW2901
        reader = readers.get(name)
        if reader is None:
            plain[name] = _plain(item, here, name, _DIGITS.get(name, digits))
        else:
            plain[name] = reader(item, here, name)
    if not required <= plain.keys():
        missing = ", ".join(repr(name) for name in sorted(required - plain.keys()))
        _wrong(where, key, f"a dict with {missing} too", value)
    return plain


def _text(value: Any, where: _Where, key: str | int) -> str:
    if not isinstance(value, str):
        _wrong(where, key, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        _wrong(where, key, "text without lone surrogates", value)
    return str.__str__(value)  # of an enum or np.str_ the text itself


def _number(value: Any, where: _Where, key: str | int, expected: str) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    _wrong(where, key, expected, value)


def _confidence(value: Any, where: _Where, key: str | int) -> float:
    number = value if type(value) is float else _number(value, where, key, _SCORE)
    rounded = round(number, CONFIDENCE_DIGITS) if -1 < number < 2 else number  # the noise of float32 is no fault
    if not 0 <= rounded <= 1:
        _wrong(where, key, _SCORE, value)
    return rounded + 0.0  # no -0.0


_SCORE = "a number from 0 to 1"


def _bbox(value: Any, where: _Where, key: str | int) -> list[float]:
    box = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        _wrong(where, key, _BOX, value)
    sides = []
    for side in box:
        number = side if type(side) is float else _number(side, where, key, _BOX)
        if not math.isfinite(number):
            _wrong(where, key, _BOX, value)
        sides.append(round(number, COORDINATE_DIGITS))
    return sides


_BOX = "four finite numbers [x1, y1, x2, y2] in pixels"


def _class_id(value: Any, where: _Where, key: str | int) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    number = int(value) if whole else _number(value, where, key, _INTEGER)
    if number != int(number) or not -(2**63) <= number < 2**63:
        _wrong(where, key, _INTEGER, value)
    return int(number)


_INTEGER = "an integer of at most 64 bits"


def _class_names(value: Any, where: _Where, key: str | int) -> list[str]:
    plain = _plain(value, where, key, None)
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        _wrong(where, key, "a list of strings", value)
    return sorted(set(plain))


def _numbers(value: Any, where: _Where, key: str | int, lengths: tuple[int, ...], expected: str) -> list[float]:
    """A point: x, y, and maybe a confidence."""
    if not isinstance(value, (list, tuple)) or len(value) not in lengths:
        _wrong(where, key, expected, value)
    point = [round(_number(number, where, key, expected), COORDINATE_DIGITS) for number in value[:2]]
    return point + [_confidence(number, where, key) for number in value[2:]]


def _points(lengths: tuple[int, ...], count: range, expected: str) -> _Reader:
    """The reader of a list of so many points."""

    def read(value: Any, where: _Where, key: str | int) -> list[list[float]]:
        points = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(points, (list, tuple)) or len(points) not in count:
            _wrong(where, key, expected, value)
        here = _inside(where, key, value)
        return [_numbers(point, here, index, lengths, expected) for index, point in enumerate(points)]

    return read


_ANY_COUNT = range(2**31)
_polygon = _points((2,), range(3, 2**31), "a polygon: three points [x, y] or more, in pixels")


def _mask(value: Any, where: _Where, key: str | int) -> list[list[list[float]]]:
    if not isinstance(value, (list, tuple)):
        _wrong(where, key, "a list of polygons, each a list of points [x, y] in pixels", value)
    here = _inside(where, key, value)
    return [_polygon(polygon, here, index) for index, polygon in enumerate(value)]


def _list_of(readers: Mapping[str, _Reader], optional: Mapping[str, _Reader] | None = None) -> _Reader:
    """The reader of a list of dicts that have all these keys, and maybe some of the optional ones."""
    required = frozenset(readers)
    readers = {**readers, **(optional or {})}

    def read(value: Any, where: _Where, key: str | int) -> list[dict[str, Any]]:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            _wrong(where, key, f"a list of dicts with {', '.join(map(repr, sorted(required)))}", value)
        here = _inside(where, key, value)
        return [_shaped(item, here, index, readers, required) for index, item in enumerate(value)]

    return read


def _reserved(value: Any, where: _Where, key: str | int) -> NoReturn:
    _wrong(where, key, "under another key: 'objects' is reserved for what the engine makes", value)


_LABEL: Mapping[str, _Reader] = {"label": _text, "confidence": _confidence}
_DETECTION: Mapping[str, _Reader] = {
    "bbox": _bbox,
    "class_name": _text,
    "confidence": _confidence,
    "class_id": _class_id,
}
_SHAPES: Mapping[str, _Reader] = {
    "mask": _mask,
    "keypoints": _points((2, 3), _ANY_COUNT, "a list of points [x, y] or [x, y, confidence], in pixels"),
    "corners": _points((2,), range(4, 5), "four points [x, y] in pixels"),
}
_RESULT: Mapping[str, _Reader] = {
    "detections": _list_of(_DETECTION, _SHAPES),
    "detected_classes": _class_names,
    "label": _text,
    "labels": _list_of(_LABEL),
    "confidence": _confidence,
    "objects": _reserved,
}


def _plain(value: Any, where: _Where, key: str | int, digits: int | None) -> Any:
    """Any JSON value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where, key)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INTEGER_BITS:
            _wrong(where, key, f"an integer of at most {_MAX_INTEGER_BITS} bits", "a larger one")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            _wrong(where, key, "a finite number or None", value)
        return float(value) if digits is None else round(float(value), digits)
    if isinstance(value, Mapping):
        return _shaped(value, where, key, {}, frozenset(), digits)
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
        if not isinstance(value, list):
            return _plain(value, where, key, digits)
    if isinstance(value, (list, tuple)):
        here = _inside(where, key, value)
        return [_plain(item, here, index, digits) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        single = float(value) if isinstance(value, np.floating) else value.item()
        if not isinstance(single, np.generic):
            return _plain(single, where, key, digits)
    _wrong(where, key, "a number, a string, a list, a dict, None, or a NumPy array of numbers", value)
