"""The directory of tags that a TIFF file and an EXIF block start with (TIFF 6.0, section 2).

Read by hand, because Pillow's reader decodes a PNG's pixels to look for a late EXIF block, warns on damaged ones, and
has spent seconds and gigabytes on a hostile TIFF before it can be asked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL.Image import Transpose

__all__ = ["TO_UPRIGHT", "exif_orientation", "png_exif", "tiff_pieces"]

TO_UPRIGHT: dict[int, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF orientation to what turns the stored pixels upright. 5 to 8 swap width and height."""

_ORIENTATION = 0x0112
_STRIP_OFFSETS = 0x0111
_TILE_OFFSETS = 0x0144

_ENTRY_BYTES = 12
_SHORT = 3
# Length, type, and (not consumed) the byte order that the content starts with.
_EXIF_CHUNK = re.compile(rb"[\s\S]{4}eXIf(?=II|MM)")


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1..8, that an EXIF block (with or without its ``Exif\\0\\0`` prefix) holds.

    1 (upright) where it holds none or cannot be read: a damaged block costs a photo its orientation, as in browsers,
    and not its pixels.
    """
    for tag, _, value in _entries(exif.removeprefix(b"Exif\0\0")):
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else 1
    return 1


def png_exif(data: bytes) -> bytes:
    """The content of a PNG file's ``eXIf`` chunk, which may stand before or after the pixels, or empty."""
    chunk = _EXIF_CHUNK.search(data)
    if chunk is None:
        return b""
    (length,) = struct.unpack_from(">L", data, chunk.start())
    return data[chunk.end() : chunk.end() + length]


def tiff_pieces(data: bytes) -> int:
    """How many strips or tiles a TIFF file says that its first image is cut into."""
    return max((count for tag, count, _ in _entries(data) if tag in (_STRIP_OFFSETS, _TILE_OFFSETS)), default=0)


def _entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, number of values, and value (or its offset, where it does not fit) of each entry of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (size,) = struct.unpack_from(f"{order}H", block, start)
        for position in range(start + 2, start + 2 + size * _ENTRY_BYTES, _ENTRY_BYTES):
            tag, kind, count = struct.unpack_from(f"{order}HHL", block, position)
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'L'}", block, position + 8)
            yield tag, count, value
    except struct.error:
        # Truncated: the entries that are there count.
        return
