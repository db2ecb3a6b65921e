"""The headers of Windows bitmaps."""

from __future__ import annotations

import struct

__all__ = ["bmp_profile", "with_full_palette"]

_INFO_HEADER_BYTES = 40
_V5_HEADER = struct.pack("<L", 124)
_EMBEDDED = b"DEBM"
_COLOURS = slice(46, 50)


def bmp_profile(data: bytes) -> bytes | None:
    """The colour profile in a bitmap of version 5."""
    if data[14:18] != _V5_HEADER or data[70:74] != _EMBEDDED:
        return None
    offset, size = struct.unpack_from("<LL", data, 126)
    return data[14 + offset : 14 + offset + size]


def with_full_palette(data: bytes) -> bytes:
    """The same bitmap with as many colours as its pixels can have, if its header has a number that Pillow does not
    handle: more colours, or two for pixels of more than one bit, which it reads as single bits."""
    if int.from_bytes(data[14:18], "little") < _INFO_HEADER_BYTES:
        return data
    bits, colours = int.from_bytes(data[28:30], "little"), int.from_bytes(data[_COLOURS], "little")
    if bits not in (1, 4, 8) or not (colours > 1 << bits or colours == 2 < 1 << bits):
        return data
    return data[: _COLOURS.start] + struct.pack("<L", 1 << bits) + data[_COLOURS.stop :]
