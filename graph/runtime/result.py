"""The one shape of a classifier's result: plain JSON values, checked and rounded the same way in every runtime."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from classifiers.errors import VisionError

__all__ = ["BadResult", "normalise"]

_DIGITS = {"confidence": 4, "bbox": 2, "mask": 2, "corners": 2}
_MAX_DEPTH = 32
_MAX_INTEGER_BITS = 1023  # what doubles, and so most JSON readers, can hold


class BadResult(VisionError):
    """A classifier returned something that is not a result. The message tells its author which value is wrong, what
    was expected, and what came."""


class _Wrong(Exception):
    """A value that is not what it must be; its place in the result is added while the error passes its containers."""

    def __init__(self, expected: str, value: Any, *path: str | int) -> None:
        super().__init__(expected)
        self.what = f"{expected}, but is {reprlib.repr(value)} ({type(value).__name__})"
        self.path: list[str | int] = [*path]


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
        return _shaped(_plain(result))
    except _Wrong as wrong:
        place = "".join(f"[{part!r}]" for part in reversed(wrong.path))
        raise BadResult(f"{source}: result{place} must be {wrong.what}") from None
    except Exception as error:  # an object of a plug-in may do anything when it is looked into
        raise BadResult(f"{source}: the result cannot be read: {type(error).__name__}: {error}") from error


# ---- any JSON value


def _plain(value: Any, digits: int | None = None, depth: int = 0) -> Any:
    kind = type(value)
    if kind is float and math.isfinite(value):
        return value if digits is None else round(value, digits)
    if (kind is str and value.isascii()) or (kind is int and value.bit_length() < _MAX_INTEGER_BITS):
        return value
    if kind is not list and kind is not dict:
        return _plain_other(value, digits, depth)
    if depth > _MAX_DEPTH:
        raise _Wrong(f"nested at most {_MAX_DEPTH} deep, and not within itself", value)
    if kind is dict and not all(isinstance(key, str) for key in value):
        raise _Wrong("a dict whose keys are strings", value)
    key: Any = 0
    try:
        if kind is list:
            plain = []
            for key, item in enumerate(value):  # noqa: B007 - the place of an error
                plain.append(_plain(item, digits, depth + 1))
            return plain
        return {_text(key := name): _plain(item, _DIGITS.get(name, digits), depth + 1) for name, item in value.items()}
    except _Wrong as wrong:
        wrong.path.append(key)
        raise


def _plain_other(value: Any, digits: int | None, depth: int) -> Any:
    """What is not one of Python's own floats, lists and dicts."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Wrong("a finite number or None", value)
        return _plain(float(value), digits)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise _Wrong(f"an integer of at most {_MAX_INTEGER_BITS} bits", "a larger one")
        return int(value)
    if isinstance(value, np.ndarray | np.generic):
        found = float(value) if isinstance(value, np.floating) else value.tolist()
    elif isinstance(value, Mapping):
        found = dict(value)
    elif isinstance(value, set | frozenset):
        found = sorted(value)
    elif isinstance(value, tuple | list):
        found = list(value)
    else:
        raise _Wrong("a number, a string, a list, a dict, None, or a NumPy array of numbers", value)
    return _plain(found, digits, depth)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Wrong("text without lone surrogates", value) from None
    return str.__str__(value)  # of an enum or np.str_ the text itself


# ---- the keys with a fixed shape


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _confidence(value: Any) -> Any:
    if not _is_number(value) or not 0 <= value <= 1:
        raise _Wrong("a number from 0 to 1", value)
    return value + 0.0  # no -0.0


def _bbox(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise _Wrong("four finite numbers [x1, y1, x2, y2] in pixels", value)
    return [float(side) for side in value]


def _class_id(value: Any) -> int:
    if not _is_number(value) or value != int(value) or not -(2**63) <= value < 2**63:
        raise _Wrong("an integer of at most 64 bits", value)
    return int(value)


_Readers = Mapping[str, Callable[[Any], Any]]
_LABEL: _Readers = {"label": _text, "confidence": _confidence}
_DETECTION: _Readers = {"bbox": _bbox, "class_name": _text, "confidence": _confidence, "class_id": _class_id}


def _points(value: Any, lengths: tuple[int, ...], counts: range, expected: str) -> list[list[float]]:
    if not isinstance(value, list) or len(value) not in counts:
        raise _Wrong(expected, value)
    for index, point in enumerate(value):
        if not isinstance(point, list) or len(point) not in lengths or not all(map(_is_number, point)):
            raise _Wrong(expected, point, index)
    return [list(map(float, point)) for point in value]


def _mask(value: Any) -> list[list[list[float]]]:
    if not isinstance(value, list):
        raise _Wrong("a list of polygons, each a list of points [x, y] in pixels", value)
    polygons = []
    for index, polygon in enumerate(value):
        try:
            polygons.append(
                _points(polygon, (2,), range(3, _ANY_COUNT), "a polygon: three points [x, y] or more, in pixels")
            )
        except _Wrong as wrong:
            wrong.path.append(index)
            raise
    return polygons


def _keypoints(value: Any) -> list[list[float]]:
    points = _points(value, (2, 3), range(_ANY_COUNT), "a list of points [x, y] or [x, y, confidence], in pixels")
    for index, (_, _, *confidence) in enumerate(points):
        if confidence and not 0 <= round(confidence[0], 4) <= 1:
            raise _Wrong("a number from 0 to 1", confidence[0], index)
    return [[round(x, 2), round(y, 2), *(round(each, 4) for each in confidence)] for x, y, *confidence in points]


def _corners(value: Any) -> list[list[float]]:
    return _points(value, (2,), range(4, 5), "four points [x, y] in pixels")


_ANY_COUNT = 2**31
_SHAPES: _Readers = {"mask": _mask, "keypoints": _keypoints, "corners": _corners}


def _shaped(plain: Any) -> dict[str, Any]:
    """Check the keys with a fixed shape, in place."""
    _read(plain, {})
    if "objects" in plain:
        raise _Wrong("under another key: 'objects' is reserved for what the engine makes", plain["objects"], "objects")
    _read(plain, {key: reader for key, reader in _LABEL.items() if key in plain})
    for name, readers in (("detections", _DETECTION), ("labels", _LABEL)):
        rows = plain.get(name, [])
        if not isinstance(rows, list):
            raise _Wrong(f"a list of dicts with {', '.join(map(repr, sorted(readers)))}", rows, name)
        for index, row in enumerate(rows):
            _read(row, readers, index, name)
            if name == "detections":
                _read(row, {shape: reader for shape, reader in _SHAPES.items() if shape in row}, index, name)
    if "detections" in plain:
        plain.setdefault("detected_classes", [detection["class_name"] for detection in plain["detections"]])
    if "detected_classes" in plain:
        classes = plain["detected_classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise _Wrong("a list of strings", classes, "detected_classes")
        plain["detected_classes"] = sorted(set(classes))
    result: dict[str, Any] = plain
    return result


def _read(row: Any, readers: _Readers, *place: str | int) -> None:
    if not isinstance(row, dict):
        raise _Wrong("a dict", row, *place)
    if not readers.keys() <= row.keys():
        missing = ", ".join(map(repr, sorted(readers.keys() - row.keys())))
        raise _Wrong(f"a dict with {missing} too", row, *place)
    for key, reader in readers.items():
        try:
            row[key] = reader(row[key])
        except _Wrong as wrong:
            wrong.path += [key, *place]
            raise
