"""Draws results into pictures, one at a time: pixels are the one thing that this process has no memory for."""

from __future__ import annotations

import asyncio
from typing import Any

from classifiers import TooManyPixels
from graph import Frame, annotate
from serve_app.http.middleware import Room

__all__ = ["Drawings"]

# A phone's 12 MP. Decoding and drawing take up to 21 bytes a pixel (WebP with transparency; 16 in other formats).
_MAX_PIXELS = 13_000_000

# A body takes up to three times the bytes that it counts for.
_COUNTED_BYTES_A_PIXEL = 14 / 3


class Drawings:
    """Draws for all requests of this process. Use it from one event loop.

    Args:
        room: what there is for bodies, and for the picture that is being drawn.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._one_at_a_time = asyncio.Lock()

    def check(self, frame: Frame) -> None:
        """Refuse a picture that is too large, before the pipeline runs on it.

        Raises:
            TooManyPixels: it is.
        """
        if frame.width * frame.height > _MAX_PIXELS:
            raise TooManyPixels(
                f"pictures of more than {_MAX_PIXELS:,} pixels are not drawn; send a smaller one, or leave out "
                "annotate=true and draw the boxes of the result yourself",
                limit=_MAX_PIXELS,
            )

    async def draw(self, frame: Frame, result: dict[str, Any]) -> bytes:
        """A JPEG of the image with the result drawn into it.

        Raises:
            InputError: the image cannot be decoded.
            Overloaded: there is no room beside the bodies that are under way.
        """
        await self._one_at_a_time.acquire()
        size = int(frame.width * frame.height * _COUNTED_BYTES_A_PIXEL)

        def done(_: object) -> None:
            self._room.give_back(size)
            self._one_at_a_time.release()

        try:
            self._room.take(size)
        except BaseException:
            done(None)
            raise
        # A thread cannot be cancelled: the next one waits for it even where nobody waits for its picture any more.
        drawing = asyncio.ensure_future(asyncio.to_thread(annotate, frame, result))
        drawing.add_done_callback(done)
        return await asyncio.shield(drawing)
