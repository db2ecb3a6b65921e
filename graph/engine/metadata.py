"""Metadata: what a client sends with its image. Checked in one place for all inputs, so that what is accepted can be
stored and returned as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graph.failures import Malformed

__all__ = ["MAX_METADATA_BYTES", "MAX_METADATA_TEXT_BYTES", "checked_metadata", "parse_metadata"]

MAX_METADATA_BYTES = 64 * 1024
"""As compact JSON in UTF-8. Small JSON can make large objects: of 64 KiB at most some 2 MB."""

MAX_METADATA_TEXT_BYTES = 3 * MAX_METADATA_BYTES
"""As sent, with spaces, and with characters of two bytes escaped to six. This bounds what is parsed."""

_MAX_DEPTH = 32
# Python refuses to write integers of more than 4,300 digits; rules multiply.
_MAX_INT_BITS = 256


def parse_metadata(text: str | bytes, where: str = "'metadata'") -> dict[str, Any]:
    """Parse metadata from text: a form field, a command-line option.

    Args:
        text: JSON.
        where: its name in messages.

    Raises:
        Malformed: it is not JSON, too long, or :func:`checked_metadata` refuses it.
    """
    if len(text) > MAX_METADATA_TEXT_BYTES:
        raise Malformed(f"{where} has more than {MAX_METADATA_TEXT_BYTES:,} bytes of JSON")
    try:
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise Malformed(f"{where} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{where} is not JSON: {error}") from error
    return checked_metadata(value, where)


def checked_metadata(metadata: object, where: str = "'metadata'") -> dict[str, Any]:
    """Return metadata that can be written as JSON again.

    Args:
        metadata: the value; ``None`` gives ``{}``.
        where: its name in messages.

    Raises:
        Malformed: it is not a JSON object, is nested too deeply or too large, or has a value that is not JSON: NaN,
            Infinity, a lone surrogate.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise Malformed(f"{where} must be a JSON object")
    if not metadata:
        return {}
    waiting: list[tuple[Any, int]] = [(dict(metadata), 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise Malformed(f"{where} is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise Malformed(f"{where} has a key that is not a string")
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, dict | list | tuple):
                waiting.append((item, depth + 1))
            elif isinstance(item, int) and item.bit_length() > _MAX_INT_BITS:
                raise Malformed(f"{where} has an integer of more than {_MAX_INT_BITS} bits")
    try:
        written = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{where} has half of a surrogate pair, which is not valid Unicode") from error
    except TypeError as error:
        raise Malformed(f"{where} has a value that is not JSON: {error}") from error
    except ValueError as error:
        raise Malformed(f"{where} has NaN, Infinity or a number that is too large; JSON does not know them") from error
    if len(written) > MAX_METADATA_BYTES:
        raise Malformed(f"{where} has more than {MAX_METADATA_BYTES:,} bytes")
    return dict(metadata)
