"""An image on its way through the graph: the bytes as they came, what their header says, and the pixels, decoded
once a process."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from classifiers import Image
from classifiers.errors import BadImage, TooManyPixels
from classifiers.imaging import ImageLimits, OpenedImage, from_pillow
from classifiers.redaction import without_secrets

__all__ = ["Frame"]


class Frame:
    """One image. Cheap to make from bytes (only the header is read), and only the encoded bytes travel between
    processes.

    Attributes:
        width, height: pixels of the upright image (EXIF orientation applied).
        format: as in :class:`classifiers.imaging.decoding.ImageHeader`; ``None`` for an array.
        uri: where the image came from, as the user named it but without secrets; ``None`` for bytes and arrays.
    """

    def __init__(
        self,
        data: bytes,
        width: int,
        height: int,
        limits: ImageLimits,
        uri: str | None = None,
        format: str | None = None,  # noqa: A002 - the name that Pillow gives it
    ) -> None:
        """Use :meth:`from_bytes` or :meth:`from_array`; this takes what they have checked."""
        self._data = data
        self._limits = limits
        self._pixels: Image | None = None
        self._opened: OpenedImage | None = None
        self._lock = threading.Lock()
        self.width = width
        self.height = height
        self.uri = None if uri is None else without_secrets(uri)
        self.format = format

    @classmethod
    def from_bytes(cls, data: bytes, limits: ImageLimits | None = None, uri: str | None = None) -> Frame:
        """Check the header of an encoded image against the limits.

        Raises:
            InputError: too many bytes or pixels, a type that is not served, or not an image.
        """
        limits = limits or ImageLimits()
        opened = OpenedImage(data, limits)
        frame = cls(data, opened.header.width, opened.header.height, limits, uri, opened.header.format)
        frame._opened = opened  # whoever decodes it in this process need not read the header again
        return frame

    @classmethod
    def from_array(cls, array: npt.NDArray[Any], limits: ImageLimits | None = None) -> Frame:
        """Wrap decoded pixels, (H, W, 3) RGB uint8. They are copied, so that the caller may go on using the array.

        Raises:
            BadImage: another shape or type; the message says which came.
            TooManyPixels: over the limit.
        """
        limits = limits or ImageLimits()
        if (
            not isinstance(array, np.ndarray)
            or array.ndim != 3
            or array.shape[2] != 3
            or array.dtype != np.uint8
            or array.size == 0
        ):
            came = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise BadImage(f"an image array must be (H, W, 3) RGB uint8 with H and W of at least 1, but got {came}")
        height, width = array.shape[:2]
        if height * width > limits.max_pixels:
            raise TooManyPixels(
                f"the image has {height * width:,} pixels, the limit is {limits.max_pixels:,}; send a smaller one",
                limit=limits.max_pixels,
            )
        pixels = np.array(array, dtype=np.uint8, order="C", copy=True)
        pixels.flags.writeable = False
        frame = cls(b"", width, height, limits)
        frame._pixels = pixels
        return frame

    @classmethod
    def from_pil(cls, image: PIL.Image.Image, limits: ImageLimits | None = None) -> Frame:
        """Wrap a Pillow image; its pixels become what those of the same image as a file become.

        Raises:
            BadImage: it is not decoded yet, and damaged.
            TooManyPixels: over the limit.
        """
        return cls.from_array(from_pillow(image, limits or ImageLimits()), limits)

    @property
    def data(self) -> bytes:
        """The bytes as they came; empty for an array."""
        return self._data

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes as they came; of an array, of its shape and pixels."""
        if self._data:
            return hashlib.sha256(self._data).hexdigest()
        pixels = self.pixels()
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    @property
    def nbytes(self) -> int:
        """What travels between processes: the encoded bytes; of an array, its pixels."""
        return len(self._data) if self._data or self._pixels is None else self._pixels.nbytes

    def pixels(self) -> Image:
        """The upright image, (H, W, 3) RGB uint8, read-only; decoded on the first call in this process. Thread-safe.

        Raises:
            InputError: the bytes cannot be decoded.
        """
        with self._lock:
            if self._pixels is None:
                self._pixels = self._take_opened().decode()
            return self._pixels

    def reduced_pixels(self, at_least: tuple[int, int]) -> tuple[Image, int]:
        """The upright image, of a JPEG at 1/2, 1/4 or 1/8 of its size if it still has ``at_least`` (H, W) then.

        Returns:
            The pixels as those of :meth:`pixels`, and what to multiply coordinates by: 1, 2, 4 or 8.

        Raises:
            InputError: the bytes cannot be decoded.
        """
        if not self._data or min(self.height // at_least[0], self.width // at_least[1]) < 2:
            return self.pixels(), 1
        # Not kept, nor taken from what is kept: the result must not depend on who has decoded the image before.
        with self._lock:
            opened = self._take_opened()
        pixels = opened.decode(at_least)
        return pixels, round(max(self.height / pixels.shape[0], self.width / pixels.shape[1]))

    def _take_opened(self) -> OpenedImage:
        """The image with its header read; for one decoding."""
        opened, self._opened = self._opened, None
        return opened or OpenedImage(self._data, self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        # Decoded pixels are 20 times the size of the JPEG: what travels is the JPEG, or the array where there is no
        # JPEG.
        carried = None if self._data else self._pixels
        return _restore, ((self._data, self.width, self.height, self._limits, self.uri, self.format), carried)


def _restore(fields: tuple[Any, ...], pixels: Image | None) -> Frame:
    frame = Frame(*fields)
    if pixels is not None:
        pixels.flags.writeable = False
        frame._pixels = pixels
    return frame
