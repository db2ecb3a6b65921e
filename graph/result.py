"""What a result looks like: plain JSON values, rounded the same way in every runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["CONFIDENCE_DIGITS", "COORDINATE_DIGITS", "normalise"]

CONFIDENCE_DIGITS = 4
COORDINATE_DIGITS = 2

_DIGITS = {"confidence": CONFIDENCE_DIGITS, "bbox": COORDINATE_DIGITS}


def normalise(result: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what a classifier returned into what the result shows and what rules are evaluated on.

    NumPy values become Python's, tuples and sets become lists (a set sorted), ``confidence`` is rounded to 4 places,
    ``bbox`` to 2.
    A result with ``detections`` gets ``detected_classes``, sorted and without repeats, where the classifier gave none.

    Raises:
        TypeError: a value that JSON does not know, or detections of another shape; the message says where it stands.
        ValueError: a number that is not finite, or a detection without a box or a class name.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"a classifier must return a dict for each image, but returned {type(result).__name__}")
    plain = _plain_mapping(result, "result", None)
    if "detections" in plain:
        names = {_class_name(detection, index) for index, detection in enumerate(_detections(plain))}
        plain.setdefault("detected_classes", sorted(names))
    return plain


def _detections(plain: Mapping[str, Any]) -> list[Any]:
    detections = plain["detections"]
    if not isinstance(detections, list):
        raise TypeError(f"result['detections'] must be a list, but is {type(detections).__name__}")
    return detections


def _class_name(detection: Any, index: int) -> str:
    """The class name of a detection that has the shape which rules and crops rely on."""
    where = f"result['detections'][{index}]"
    if not isinstance(detection, dict):
        raise TypeError(f"{where} must be a dict with 'bbox' and 'class_name', but is {type(detection).__name__}")
    bbox, name = detection.get("bbox"), detection.get("class_name")
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(value) in (int, float) for value in bbox)
    if not numbers:
        raise ValueError(f"{where}['bbox'] must be four numbers [x1, y1, x2, y2] in pixels, but is {bbox!r}")
    if not isinstance(name, str):
        raise TypeError(f"{where}['class_name'] must be a string, but is {name!r}")
    return name


def _plain_mapping(value: Mapping[Any, Any], where: str, digits: int | None) -> dict[str, Any]:
    plain = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{where} has the key {key!r}; keys must be strings")
        plain[key] = _plain(item, f"{where}[{key!r}]", _DIGITS.get(key, digits))
    return plain


def _plain(value: Any, where: str, digits: int | None) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON does not know; return a finite number or None")
        return value if digits is None else round(value, digits)
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, digits)
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]", digits) for index, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}; return numbers, strings, lists, dicts, or NumPy arrays of numbers"
    )
