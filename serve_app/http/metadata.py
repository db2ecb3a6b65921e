"""What a client may say about its image: JSON that can be answered again, and no larger than it must be."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from serve_app.http.problems import Malformed

__all__ = ["MAX_METADATA_BYTES", "checked_metadata", "parse_metadata"]

MAX_METADATA_BYTES = 64 * 1024
"""Small JSON can make large objects: of 64 KiB at most some 2 MB."""

_MAX_DEPTH = 32


def parse_metadata(text: str) -> dict[str, Any]:
    """Read the form's field.

    Raises:
        Malformed: it is not a JSON object, or has values that JSON does not know.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the form field 'metadata' is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("the form field 'metadata' must be a JSON object")
    return checked_metadata(value)


def checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return it when it can be written as JSON again.

    Raises:
        Malformed: too deep, a number that is not finite, or half of a surrogate pair.
    """
    waiting: list[tuple[Any, int]] = [(metadata, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise Malformed(f"'metadata' is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict):
            waiting.extend((item, depth + 1) for item in value.values())
            waiting.extend((key, depth + 1) for key in value)
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)
        elif isinstance(value, float) and not -_LARGEST <= value <= _LARGEST:
            raise Malformed("'metadata' has a number that is too large, or NaN")
        elif isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise Malformed(f"'metadata' has an integer of more than {_MAX_INT_BITS} bits")
        elif isinstance(value, str) and not _is_text(value):
            raise Malformed("'metadata' has half of a surrogate pair, which is no text")
    return metadata


_LARGEST = 1.7976931348623157e308
# Python refuses to write integers of more than 4,300 digits; rules multiply.
_MAX_INT_BITS = 256


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
