"""Damage in compressed TIFFs that libtiff does not report: it does not check the checksum of deflated data, and hides
the warnings of the JPEG decoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from classifiers.imaging.jpeg import jpeg_header
from classifiers.imaging.strict_jpeg import jpeg_channels
from classifiers.imaging.tiff_tags import TiffTag, tiff_bytes, tiff_numbers

__all__ = ["check_tiff"]

_DEFLATE, _JPEG = (8, 32946), 7
_INFLATED_BYTES = 2**20  # in one go
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
# Four samples of 64 bits per pixel: further bytes are not read.
_MAX_PIXEL_BYTES = 32


def check_tiff(data: bytes, pixels: int) -> None:
    """Check the strips or tiles of the first image.

    Args:
        data: the file.
        pixels: how many the image has.

    Raises:
        ValueError, zlib.error: they are damaged.
    """
    numbers = tiff_numbers(
        data,
        TiffTag.COMPRESSION,
        TiffTag.STRIP_OFFSETS,
        TiffTag.STRIP_BYTE_COUNTS,
        TiffTag.TILE_OFFSETS,
        TiffTag.TILE_BYTE_COUNTS,
    )
    compression = numbers.get(TiffTag.COMPRESSION, (0,))[0]
    if compression in _DEFLATE:
        left = pixels * _MAX_PIXEL_BYTES
        for piece in _pieces(data, numbers):
            left -= _inflated_bytes(piece, left)
    elif compression == _JPEG:
        tables = tiff_bytes(data, TiffTag.JPEG_TABLES)[:-2]  # without their end marker
        for piece in _pieces(data, numbers):
            _check_jpeg(tables + piece[2:] if tables else piece)


def _pieces(data: bytes, numbers: dict[int, tuple[int, ...]]) -> Iterator[bytes]:
    offsets = numbers.get(TiffTag.TILE_OFFSETS) or numbers.get(TiffTag.STRIP_OFFSETS, ())
    sizes = numbers.get(TiffTag.TILE_BYTE_COUNTS) or numbers.get(TiffTag.STRIP_BYTE_COUNTS, ())
    return (data[offset : offset + size] for offset, size in zip(offsets, sizes, strict=False) if size)


def _inflated_bytes(piece: bytes, at_most: int) -> int:
    inflater, count = zlib.decompressobj(), 0
    while not inflater.eof and count < at_most:
        inflated = inflater.decompress(piece, _INFLATED_BYTES)
        if not inflated and not inflater.unconsumed_tail and not inflater.eof:
            raise ValueError("deflated data are cut off")
        count += len(inflated)
        piece = inflater.unconsumed_tail
    return count


def _check_jpeg(data: bytes) -> None:
    header = jpeg_header(data)
    if not header.is_complete:
        raise ValueError("some scans are missing")
    if header.unsupported is None:  # libtiff rejects the others
        jpeg_channels(data, header, (header.height, header.width), _COLOURS[header.components])
