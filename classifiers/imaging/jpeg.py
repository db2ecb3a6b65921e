"""The segments of a JPEG file (ITU-T T.81, annex B): what its header says, and whether all of its scans are there.

Own parser, because Pillow hides the decoder's warnings and cannot open a file with a malformed profile.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from classifiers.errors import BadImage

__all__ = ["JpegHeader", "jpeg_header", "repaired"]

# Each is a step in Python. One of 32 MiB has some 500.
_MAX_SEGMENTS = 10_000

# A scan of a progressive JPEG costs a pass over all pixels and takes only a few bytes. Cameras and encoders write about
# 10; 100 is where libtiff stops (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
_MAX_SCANS = 100

# In coded data 0xFF is followed by 0 (stuffing), D0..D7 (restart) or FF (fill): anything else is a marker.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_JFIF, _EXIF, _ICC, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_LOSSLESS, _HIERARCHICAL, _JPEG_LS = {0xC3, 0xCB}, {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}, 0xF7
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA, _JPEG_LS} | _LOSSLESS | _HIERARCHICAL
_PROGRESSIVE = {0xC2, 0xCA}
# Application data and comments do not affect the pixels, except the two that define the components.
_UNNEEDED = {*range(0xE0, 0xF0), 0xFE} - {_JFIF, _ADOBE}

_EXIF_PREFIX = b"Exif\0\0"
_ICC_PREFIX = b"ICC_PROFILE\0"

# One byte of its kind at the end of coded data belongs to them, more are fill.
_MIN_FILL_BYTES = 2


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What the segments of a JPEG say.

    Attributes:
        width, height: stored pixels, before the EXIF orientation is applied.
        components: 1 (grey), 3 (colour) or 4 (CMYK).
        progressive: whether scans refine each other.
        is_complete: whether its scans hold each coefficient of each component in full precision. The decoder does not
            miss scans that were cut off: it shows a blurred or grey image.
        exif: content of the EXIF segments with its ``Exif\\0\\0`` prefix, or empty.
        icc: the colour profile; ``None`` where there is none or parts of it are missing.
        unsupported: what kind of JPEG it is, for people, where that cannot be decoded; ``None`` otherwise.
    """

    width: int
    height: int
    components: int
    progressive: bool
    is_complete: bool
    exif: bytes
    icc: bytes | None
    unsupported: str | None


class _Segment(NamedTuple):
    code: int
    marker: int  # where its marker starts
    start: int  # its length field
    end: int


def jpeg_header(data: bytes) -> JpegHeader:
    """Read the segments up to the first scan, and to the end of the image where that is not the only one.

    Raises:
        BadImage: more segments or scans than a sound JPEG has.
        ValueError: no frame or no scan in it, or one that is cut off.
    """
    exif, icc_parts, frame, frame_code = b"", [], b"", 0
    segments = _segments(data)
    for segment in segments:
        code, _, start, end = segment
        if code == _EXIF and data.startswith(_EXIF_PREFIX, start + 2):
            exif += data[start + 8 if exif else start + 2 : end]
        elif code == _ICC and data.startswith(_ICC_PREFIX, start + 2):
            icc_parts.append(data[start + 14 : end])
        elif code in _FRAMES:
            frame, frame_code = data[start + 2 : end], code
        elif code == _START_OF_SCAN:
            break
    else:
        raise ValueError("it has no scan")
    if len(frame) < 6 or frame[3:5] == b"\0\0" or end > len(data):
        raise ValueError("its header is cut off")
    height, width, components = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5]), frame[5]
    progressive = frame_code in _PROGRESSIVE
    is_complete = not progressive and data[start + 2] >= components
    return JpegHeader(
        width,
        height,
        components,
        progressive,
        is_complete or _has_all_scans(data, itertools.chain([segment], segments), components, progressive),
        exif,
        _joined(icc_parts),
        _unsupported(frame_code, frame[0], height, components),
    )


def _has_all_scans(data: bytes, segments: Iterable[_Segment], components: int, progressive: bool) -> bool:
    missing_bits: dict[int, list[int]] = {}
    scans = (segment for segment in segments if segment.code == _START_OF_SCAN)
    for index, (_, _, start, end) in enumerate(scans):
        if index >= _MAX_SCANS:
            raise BadImage(f"the JPEG has more than {_MAX_SCANS} scans; save it again as a baseline JPEG")
        first, last, approximation = data[end - 3 : end] if progressive and end <= len(data) else (0, 63, 0)
        for component in data[start + 3 : end - 3 : 2]:
            bits = missing_bits.setdefault(component, [1] * 64)
            bits[first : last + 1] = [approximation & 15] * (last + 1 - first)
    return len(missing_bits) == components and not any(any(bits) for bits in missing_bits.values())


def repaired(data: bytes, header: JpegHeader) -> Iterator[bytes]:
    """The same JPEG without what decoders warn about although the image is complete.

    First without rubbish between segments and application data, with the only parameters that a sequential scan can
    have, and with an end marker, then without fill of one repeated byte between the coded data and that marker. Where
    other bytes are left over, the decoder has lost its way in damaged data.
    """
    parts = [b"\xff\xd8"]
    segments = [*_segments(data)]
    ends = [segment.marker for segment in segments[1:]] + [len(data)]
    for (code, _, start, end), next_marker in zip(segments, ends, strict=True):
        if code == _END_OF_IMAGE:
            break
        if code in _UNNEEDED:
            continue
        parts += (b"\xff", bytes([code]), data[start:end])
        if code == _START_OF_SCAN:
            if not header.progressive:
                parts[-1] = parts[-1][:-3] + b"\0\x3f\0"
            parts.append(data[end:next_marker])
    yield b"".join([*parts, b"\xff\xd9"])
    coded = parts[-1]
    bare = coded.rstrip(coded[-1:])
    if len(coded) - len(bare) >= _MIN_FILL_BYTES:
        parts[-1] = bare + b"\0" if bare.endswith(b"\xff") else bare
        yield b"".join([*parts, b"\xff\xd9"])


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments up to the end marker, with it, or up to where the data end."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            return
        code, start = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            yield _Segment(code, marker.start(), start, start)
            return
        # A segment starts with its own length.
        position = start + int.from_bytes(data[start : start + 2])
        yield _Segment(code, marker.start(), start, position)
    raise BadImage(f"the image has more than {_MAX_SEGMENTS} parts; save it again with a common image program")


def _unsupported(code: int, bits: int, height: int, components: int) -> str | None:
    if code == _JPEG_LS:
        return "JPEG-LS"
    if code in _LOSSLESS:
        return "lossless JPEG"
    if code in _HIERARCHICAL:
        return "hierarchical JPEG"
    if bits != 8:
        return f"{bits}-bit JPEG"
    if components not in (1, 3, 4):
        return f"JPEG with {components} components"
    return "JPEG that tells its height after the pixels" if height == 0 else None


def _joined(parts: list[bytes]) -> bytes | None:
    """The profile of its numbered parts (ICC.1:2022, annex B.4)."""
    parts = sorted(parts)
    if not parts or [part[:2] for part in parts] != [bytes([i + 1, len(parts) & 255]) for i in range(len(parts))]:
        return None
    return b"".join(part[2:] for part in parts)
