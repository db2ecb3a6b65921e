"""Makes a frame of encoded bytes without blocking the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from classifiers.imaging import ImageLimits
from graph import Frame

__all__ = ["read_frame"]

# One thread: a WebP's header alone takes 8 bytes for each of its pixels while it is read.
_thread = ThreadPoolExecutor(1, thread_name_prefix="headers")

# A thread costs 0.1 ms. The header and the hash of a common JPEG of this size take 0.4 ms.
_QUICK_BYTES = 512 * 1024
# Common ones have some 10 segments before their pixels, and no more bytes there than a thumbnail and a profile need. A
# hostile file of tiny parts takes half a second, and so may one of the other types of a few kilobytes.
_QUICK_SEGMENTS = 40
_QUICK_HEADER_BYTES = 32 * 1024


async def read_frame(data: bytes, limits: ImageLimits, uri: str | None = None) -> Frame:
    """Read the header, in a thread where that may take long, together with the hash of the bytes.

    Raises:
        InputError: too many bytes or pixels, a type that is not served, or not an image.
    """
    if _is_quick(data):
        return Frame.from_bytes(data, limits, uri)
    return await asyncio.get_running_loop().run_in_executor(_thread, _read, data, limits, uri)


def _read(data: bytes, limits: ImageLimits, uri: str | None) -> Frame:
    frame = Frame.from_bytes(data, limits, uri)
    _ = frame.sha256  # kept by the frame
    return frame


def _is_quick(data: bytes) -> bool:
    """Whether it is a JPEG whose header is short, and whose pixels are in one scan: only the header is read."""
    if len(data) > _QUICK_BYTES or not data.startswith(b"\xff\xd8"):
        return not data
    position, components = 2, -1
    for _ in range(_QUICK_SEGMENTS):
        segment = data[position : position + 10]  # marker, code, length, content
        if len(segment) < 10 or segment[0] != 0xFF:
            return False
        if segment[1] == _START_OF_SCAN:
            return segment[4] == components
        if segment[1] in _BASELINE:
            components = segment[9]
        position += 2 + int.from_bytes(segment[2:4])
        if position > _QUICK_HEADER_BYTES:
            return False
    return False


_BASELINE = (0xC0, 0xC1)
_START_OF_SCAN = 0xDA
