"""Makes a frame of encoded bytes without holding up the event loop."""

from __future__ import annotations

import asyncio

from classifiers.images import ImageLimits
from graph import Frame

__all__ = ["read_frame"]

# Reading a header takes microseconds, but a hostile file can have a hundred thousand parts.
_QUICK_BYTES = 64 * 1024
_QUICK_JPEG_BYTES = 1024 * 1024


async def read_frame(data: bytes, limits: ImageLimits, uri: str | None = None) -> Frame:
    """Read the header; of what may take long, in a thread.

    Raises:
        InputError: too many bytes or pixels, a type that is not served, or not an image.
    """
    if len(data) <= (_QUICK_JPEG_BYTES if data.startswith(b"\xff\xd8") else _QUICK_BYTES):
        return Frame.from_bytes(data, limits, uri)
    return await asyncio.to_thread(Frame.from_bytes, data, limits, uri)
