"""Whether two systems said the same about a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differences"]

_CONFIDENCE = 5e-3
_PIXELS = 1.0


def differences(expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    """Where two results by step differ by more than noise; an empty list: nowhere."""
    if expected.keys() != got.keys():
        return [f"steps {sorted(got)} instead of {sorted(expected)}"]
    return [line for name in expected for line in _compare(name, expected[name], got[name])]


def _compare(where: str, expected: Any, got: Any) -> list[str]:
    if isinstance(expected, Mapping) and isinstance(got, Mapping) and expected.keys() == got.keys():
        # the order of labels that are equally likely is noise
        keys = [key for key in expected if key != "labels"]
        return [line for key in keys for line in _compare(f"{where}.{key}", expected[key], got[key])]
    if _is_list(expected) and _is_list(got) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [line for index, pair in pairs for line in _compare(f"{where}[{index}]", *pair)]
    if isinstance(expected, float) and isinstance(got, int | float):
        allowed = _PIXELS if "bbox" in where else _CONFIDENCE
        return [] if abs(expected - got) <= allowed else [f"{where} is {got} instead of {expected}"]
    return [] if expected == got else [f"{where} is {str(got)[:80]} instead of {str(expected)[:80]}"]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
