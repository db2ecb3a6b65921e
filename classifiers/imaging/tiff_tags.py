"""The directory of tags that a TIFF file and an EXIF block start with (TIFF 6.0, section 2).

Own parser, because Pillow's warns on damaged ones, and spends seconds and gigabytes on a hostile TIFF before it can
be asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL.Image import Transpose

__all__ = [
    "TO_UPRIGHT",
    "TiffTag",
    "exif_is_adobe_rgb",
    "exif_orientation",
    "tiff_bytes",
    "tiff_numbers",
    "tiff_pieces",
]

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


class TiffTag:
    """Numbers of the tags that are looked at."""

    NEW_SUBFILE_TYPE = 0x00FE
    BITS_PER_SAMPLE = 0x0102
    COMPRESSION = 0x0103
    PHOTOMETRIC = 0x0106
    STRIP_OFFSETS = 0x0111
    ORIENTATION = 0x0112
    STRIP_BYTE_COUNTS = 0x0117
    PLANAR_CONFIGURATION = 0x011C
    TILE_OFFSETS = 0x0144
    TILE_BYTE_COUNTS = 0x0145
    SUB_DIRECTORIES = 0x014A
    SAMPLE_FORMAT = 0x0153
    JPEG_TABLES = 0x015B
    EXIF_DIRECTORY = 0x8769
    COLOUR_SPACE = 0xA001
    INTEROPERABILITY_DIRECTORY = 0xA005
    INTEROPERABILITY_INDEX = 0x0001


_ENTRY_BYTES = 12
_SHORT, _LONG, _DIRECTORY = 3, 4, 13
_UNCALIBRATED = 0xFFFF
_ADOBE_RGB = b"R03\0"


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1..8, that an EXIF block (with or without its ``Exif\\0\\0`` prefix) holds.

    1 (upright) where it holds none or cannot be read: a damaged block costs a photo its orientation, as in browsers,
    and not its pixels.
    """
    for entry in _entries(_block(exif)):
        if entry.tag == TiffTag.ORIENTATION:
            return entry.value if 1 <= entry.value <= 8 else 1
    return 1


def exif_is_adobe_rgb(exif: bytes) -> bool:
    """Whether an EXIF block marks the colours as Adobe RGB (DCF 2.0), as cameras do that write no profile."""
    if _ADOBE_RGB not in exif:
        return False
    block = _block(exif)
    pointers = {entry.tag: entry.value for entry in _entries(block)}
    inner = {entry.tag: entry.value for entry in _entries(block, pointers.get(TiffTag.EXIF_DIRECTORY, len(block)))}
    if inner.get(TiffTag.COLOUR_SPACE) != _UNCALIBRATED:
        return False
    marks = _entries(block, inner.get(TiffTag.INTEROPERABILITY_DIRECTORY, len(block)))
    return any(
        mark.tag == TiffTag.INTEROPERABILITY_INDEX and block[mark.position + 8 : mark.position + 12] == _ADOBE_RGB
        for mark in marks
    )


def tiff_pieces(data: bytes) -> int:
    """The declared number of strips or tiles of the first image of a TIFF file."""
    pieces = (TiffTag.STRIP_OFFSETS, TiffTag.TILE_OFFSETS)
    return max((entry.length for entry in _entries(data) if entry.tag in pieces), default=0)


def tiff_numbers(data: bytes, *tags: int) -> dict[int, tuple[int, ...]]:
    """The integers that a TIFF file has for these tags of its first image, of those that can be read."""
    numbers = {}
    for entry in _entries(data):
        letter = {_SHORT: "H", _LONG: "L", _DIRECTORY: "L"}.get(entry.kind)
        if entry.tag in tags and letter and entry.length <= len(data):
            layout = struct.Struct(f"{_order(data)}{entry.length}{letter}")
            try:
                numbers[entry.tag] = layout.unpack_from(data, entry.position + 8 if layout.size <= 4 else entry.value)
            except struct.error:
                continue
    return numbers


def tiff_bytes(data: bytes, tag: int) -> bytes:
    """The content of a tag of the first image that holds more than 4 plain bytes; empty where it is not there."""
    found = (entry for entry in _entries(data) if entry.tag == tag and entry.length > 4)
    return next((data[entry.value : entry.value + entry.length] for entry in found), b"")


class _Entry(NamedTuple):
    tag: int
    kind: int
    length: int
    value: int  # or its offset, where it does not fit
    position: int


def _block(exif: bytes) -> bytes:
    return exif.removeprefix(b"Exif\0\0")


def _order(block: bytes) -> str | None:
    return {b"II": "<", b"MM": ">"}.get(block[:2])


def _entries(block: bytes, start: int | None = None) -> Iterator[_Entry]:
    """The entries of the directory at an offset; of the first one without."""
    order = _order(block)
    if order is None:
        return
    try:
        if start is None:
            (start,) = struct.unpack_from(f"{order}L", block, 4)
        (size,) = struct.unpack_from(f"{order}H", block, start)
        for position in range(start + 2, start + 2 + size * _ENTRY_BYTES, _ENTRY_BYTES):
            tag, kind, length = struct.unpack_from(f"{order}HHL", block, position)
            is_short = kind == _SHORT and length <= 2
            (value,) = struct.unpack_from(f"{order}{'H' if is_short else 'L'}", block, position + 8)
            yield _Entry(tag, kind, length, value, position)
    except struct.error:
        # Truncated: the entries that are there count.
        return
