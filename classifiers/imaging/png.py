"""The chunks of a PNG file (PNG 3, section 5).

Own parser, because Pillow fails on a wrong checksum or a large text in chunks that are not needed, and does not
check those of the pixels.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from classifiers.errors import BadImage
from classifiers.imaging.colour_profiles import (
    MAX_PROFILE_BYTES,
    PRIMARIES,
    SRGB_CURVE,
    TRANSFER_CURVES,
    Curve,
    matrix_profile,
)

__all__ = ["PngFile", "read_png"]

# Each is a step in Python. A common one of 32 MiB has 12,000.
_MAX_CHUNKS = 50_000

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12  # length, kind and checksum
_COLOR_TYPE_AT = 25

# The ancillary chunks that are needed. Critical ones start with a capital letter.
_USED = {b"tRNS", b"acTL", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}

# Color type to the lengths that tRNS may have (PNG 3, section 11.3.1.1). Browsers ignore one of another length.
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}

# Decoders take gamma values this close to that of sRGB for it (PNG 3, section 13.13; libpng's threshold).
_GAMMA_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG taken to pieces.

    Attributes:
        pixels: the file with nothing but what decides the pixels of its first frame.
        frames: how many frames it announces.
        exif: content of its EXIF chunk, which may be before or after the pixels, or empty.
    """

    pixels: bytes
    frames: int
    exif: bytes
    _ancillary: dict[bytes, bytes]
    _damage: str | None
    _data: tuple[tuple[int, int], ...]

    def check(self, data: bytes) -> None:
        """Check that the pixels are as they were written.

        Raises:
            ValueError: they are not; the message says what.
        """
        for start, end in self._data:
            if not _is_intact(data, start, end):
                raise ValueError("wrong checksum of the pixels")
        if self._damage:
            raise ValueError(self._damage)

    def profile(self) -> bytes | None:
        """The colour profile that its chunks hold or describe (PNG 3, section 4.3); ``None`` for sRGB."""
        chunks = self._ancillary
        if len(cicp := chunks.get(b"cICP", b"")) == 4:
            primaries, curve = PRIMARIES.get(cicp[0]), TRANSFER_CURVES.get(cicp[1])
            # Those of television and of high dynamic range are left as they are.
            return matrix_profile(primaries, curve) if primaries and curve and cicp[2:] == b"\0\1" else None
        if b"iCCP" in chunks:
            return _inflated(chunks[b"iCCP"].partition(b"\0")[2][1:])
        if b"sRGB" in chunks:
            return None
        gamma = _longs(chunks.get(b"gAMA", b""), 1)
        edges = _longs(chunks.get(b"cHRM", b""), 8)
        encoded = gamma[0] / 100_000 if gamma and gamma[0] else 1 / 2.2
        is_srgb_curve = abs(encoded * 2.2 - 1) <= _GAMMA_TOLERANCE
        if edges is None and is_srgb_curve:
            return None
        curve = SRGB_CURVE if is_srgb_curve else Curve(1 / encoded)
        return matrix_profile(tuple(edge / 100_000 for edge in edges) if edges else PRIMARIES[1], curve)


def read_png(data: bytes) -> PngFile:
    """Find the chunks that are needed. The checksums of the pixels are not computed yet.

    Raises:
        BadImage: more chunks than a sound PNG has.
        ValueError: the header or the palette is damaged.
    """
    kept = [data[:_SIGNATURE_BYTES]]
    ancillary: dict[bytes, bytes] = {}
    pixels: list[tuple[int, int]] = []
    run_start = run_end = _SIGNATURE_BYTES
    position, damage = _SIGNATURE_BYTES, None
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        (length,) = struct.unpack_from(">L", data, position)
        kind = data[position + 4 : position + 8]
        start, position = position, position + length + _FRAME_BYTES
        if not kind.isalpha():
            damage = "unknown chunk"
            break
        if kind == b"IDAT":
            pixels.append((start, position))
        elif kind[:1].isupper():
            if kind != b"IEND" and position <= len(data) and not _is_intact(data, start, position):
                raise ValueError(f"wrong checksum of {kind.decode()}")
        elif kind in _USED and length <= MAX_PROFILE_BYTES and _is_intact(data, start, position):
            ancillary.setdefault(kind, data[start + 8 : position - 4])
        if kind[:1].isupper() or (kind in ancillary and kind == b"tRNS" and _fits(data, length)):
            if run_end != start:
                kept.append(data[run_start:run_end])
                run_start = start
            run_end = position
        if kind == b"IEND":
            break
    else:
        raise BadImage(f"the image has more than {_MAX_CHUNKS} parts; save it again with a common image program")
    whole = run_start == _SIGNATURE_BYTES and run_end == position
    kept.append(data[run_start:run_end])
    frames = _longs(ancillary.get(b"acTL", b"")[:4], 1)
    return PngFile(
        data if whole else b"".join(kept),
        frames[0] if frames else 1,
        ancillary.get(b"eXIf", b""),
        ancillary,
        damage,
        tuple(pixels),
    )


def _is_intact(data: bytes, start: int, end: int) -> bool:
    return end <= len(data) and zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _fits(data: bytes, transparency_bytes: int) -> bool:
    return transparency_bytes in _TRANSPARENCY_BYTES.get(data[_COLOR_TYPE_AT], ())


def _longs(content: bytes, count: int) -> tuple[int, ...] | None:
    return struct.unpack(f">{count}L", content) if len(content) == 4 * count else None


def _inflated(content: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(content, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
