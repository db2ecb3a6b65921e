"""Base64 as clients send it: as a ``data:`` URI, in lines, in the URL-safe alphabet, with or without padding."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from serve_app.http.json_bodies import PIECE_BYTES
from serve_app.http.problems import Malformed

__all__ = ["decode_base64"]

_STANDARD = bytes.maketrans(b"-_", b"+/")
_SPACE = b" \t\r\n\f\v"

_DATA = re.compile(rb"\s{0,100}data:", re.IGNORECASE)
# the type in a data: URI
_MAX_HEAD = 1024
# each takes 60 bytes of memory
_MAX_PERCENTS = 500_000
# The longest escape in JSON: \u002b.
_ESCAPE_BYTES = 6


def decode_base64(text: bytes, start: int = 0, end: int | None = None, *, in_json: bool = False) -> bytes:
    """The bytes of ``text[start:end]``; with ``in_json`` that is part of a JSON string and may have escapes.

    Raises:
        Malformed: it is not base64, or is cut off.
    """
    end = len(text) if end is None else end
    if begins := _DATA.match(text, start, end):
        start = begins.end() - len(b"data:")
        comma = text.find(b",", start, min(end, start + _MAX_HEAD))
        if comma < 0:
            raise Malformed("'base64' is a data: URI without a comma")
        kind, start = text[start:comma], comma + 1
        if b";base64" not in kind.replace(b" ", b"").lower():
            return _unquoted(_unescaped(text[start:end], in_json))
    if text.find(b"%", start, end) >= 0:
        text = _unquoted(_unescaped(text[start:end], in_json))
        start, end, in_json = 0, len(text), False
    decoded, rest, is_padded = [], b"", False
    try:
        for piece in _pieces(text, start, end):
            data, padding, after = _unescaped(piece, in_json).translate(_STANDARD, _SPACE).partition(b"=")
            if after.strip(b"=") or (is_padded and data):
                raise Malformed("'base64' is not base64: there are characters after its padding")
            is_padded = is_padded or bool(padding)
            rest += data
            whole = len(rest) // 4 * 4
            decoded.append(binascii.a2b_base64(rest[:whole], strict_mode=True))
            rest = rest[whole:]
        decoded.append(binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True))
    except binascii.Error as error:
        raise Malformed(f"'base64' is not base64: {error}") from error
    return b"".join(decoded)


def _pieces(text: bytes, start: int, end: int) -> Iterator[bytes]:
    """In pieces, none of which ends inside an escape."""
    while start < end:
        stop = min(end, start + PIECE_BYTES)
        if stop < end:
            escape = text.rfind(b"\\", stop - _ESCAPE_BYTES, stop)
            stop = escape if escape >= 0 else stop
        yield text[start:stop]
        start = stop


def _unescaped(piece: bytes, in_json: bool) -> bytes:
    if not in_json or b"\\" not in piece:
        return piece
    try:
        return str(json.loads(b'"' + piece + b'"')).encode(errors="replace")
    except ValueError as error:
        raise Malformed(f"'base64' is not a JSON string: {error}") from error


def _unquoted(text: bytes) -> bytes:
    if text.count(b"%") > _MAX_PERCENTS:
        raise Malformed(f"'base64' has more than {_MAX_PERCENTS:,} percent signs; send it in base64")
    return unquote_to_bytes(text)
