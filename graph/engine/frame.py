"""One image: the bytes as received, the size from their header, and the pixels, decoded once per process."""

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
    """One image. Cheap to make from bytes: only the header is read. Only encoded bytes are sent to other processes.

    Attributes:
        width, height: pixels of the upright image (EXIF orientation applied).
        format: as in :class:`classifiers.imaging.decoding.ImageHeader`; ``None`` for an array.
        uri: where the image came from, as the user named it, without secrets; ``None`` for bytes and arrays.
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
        """Use :meth:`from_bytes` or :meth:`from_array`, which check their arguments."""
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
        frame._opened = opened  # the header need not be read again in this process
        return frame

    @classmethod
    def from_array(cls, array: npt.NDArray[Any], limits: ImageLimits | None = None) -> Frame:
        """Wrap decoded pixels, (H, W, 3) RGB uint8. They are copied; the caller may change the array.

        Raises:
            BadImage: another shape or type; the message shows it.
            TooManyPixels: over the limit.
        """
        limits = limits or ImageLimits()
        is_array = isinstance(array, np.ndarray)
        if not is_array or array.dtype != np.uint8 or array.shape[2:] != (3,) or array.size == 0:
            came = f"{array.dtype} {array.shape}" if is_array else type(array).__name__
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
        """Wrap a Pillow image. Its pixels are the same as of the image as a file.

        Raises:
            BadImage: it is damaged.
            TooManyPixels: over the limit.
        """
        return cls.from_array(from_pillow(image, limits or ImageLimits()), limits)

    @property
    def data(self) -> bytes:
        """The bytes as they came; empty for an array."""
        return self._data

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes as received; of an array, of its shape and pixels."""
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
        # Not cached, nor taken from the cache: the result must not depend on whether the image was decoded before.
        with self._lock:
            opened = self._take_opened()
        pixels = opened.decode(at_least)
        return pixels, round(max(self.height / pixels.shape[0], self.width / pixels.shape[1]))

    def _take_opened(self) -> OpenedImage:
        """The image with its header read; it can be decoded once."""
        opened, self._opened = self._opened, None
        return opened or OpenedImage(self._data, self._limits)

    def __getstate__(self) -> dict[str, Any]:
        # Decoded pixels are 20 times the size of the JPEG, so the encoded bytes are sent if there are any.
        pixels = None if self._data else self._pixels
        return {**vars(self), "_lock": None, "_opened": None, "_pixels": pixels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        if self._pixels is not None:
            self._pixels.flags.writeable = False
