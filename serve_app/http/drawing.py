"""Draws results into pictures, one at a time, since the pixels of several would not fit into memory."""

from __future__ import annotations

import asyncio
from typing import Any

from classifiers import TooManyPixels
from graph import Frame, annotate
from serve_app.http.middleware import MemoryBudget

__all__ = ["Drawings"]

# A phone's 12 MP.
_MAX_PIXELS = 13_000_000

# the most that decoding and drawing take: measured, and tested for WebP with transparency
_BYTES_A_PIXEL = 16
_WEBP_BYTES_A_PIXEL = 21

# a body takes up to three times the bytes that are counted for it
_BYTES_A_COUNTED_BYTE = 3


class Drawings:
    """Draws for all requests of this process. Use it from one event loop.

    Args:
        memory: for bodies, and for the picture that is being drawn.
    """

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        self._one_at_a_time = asyncio.Lock()

    def check(self, frame: Frame, body_bytes: int) -> None:
        """Refuse an image that is too large to be drawn, before the pipeline runs on it.

        Raises:
            TooManyPixels: it is.
        """
        limit = min(_MAX_PIXELS, int((self._memory.size - body_bytes) / _counted_bytes_a_pixel(frame)))
        if frame.width * frame.height > limit:
            raise TooManyPixels(
                f"pictures of more than {limit:,} pixels are not drawn beside a body of {body_bytes:,} bytes; send a "
                "smaller one, or leave out annotate=true and draw the boxes of the result yourself",
                limit=limit,
            )

    async def draw(self, frame: Frame, result: dict[str, Any]) -> bytes:
        """Return a JPEG of the image with the result drawn into it.

        Raises:
            InputError: the image cannot be decoded.
            Overloaded: there is not enough memory beside the bodies.
        """
        await self._one_at_a_time.acquire()
        size = int(frame.width * frame.height * _counted_bytes_a_pixel(frame))

        def done(_: object) -> None:
            self._memory.give_back(size)
            self._one_at_a_time.release()

        try:
            self._memory.take(size)
        except BaseException:
            done(None)
            raise
        # A thread cannot be cancelled: the next one waits for it even when its request has ended.
        drawing = asyncio.ensure_future(asyncio.to_thread(annotate, frame, result))
        drawing.add_done_callback(done)
        return await asyncio.shield(drawing)


def _counted_bytes_a_pixel(frame: Frame) -> float:
    return (_WEBP_BYTES_A_PIXEL if frame.format == "WEBP" else _BYTES_A_PIXEL) / _BYTES_A_COUNTED_BYTE
