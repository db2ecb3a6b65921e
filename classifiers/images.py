"""Encoded bytes to pixels: what the header says, and decoding within limits.

Served: JPEG, PNG, WebP, BMP, GIF and TIFF. Of an animation or of several pages only the first is decoded. All functions
are pure and may be called from several threads at once.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, Field

from classifiers._directory import TO_UPRIGHT, exif_orientation, png_exif, tiff_pieces
from classifiers._signatures import served_format, unserved_format
from classifiers.base import Image
from classifiers.errors import BadImage, TooManyBytes, TooManyPixels, UnsupportedImage, VisionError

__all__ = ["DEFAULT_LIMITS", "ImageHeader", "ImageLimits", "OpenedImage", "decode", "probe"]


class ImageLimits(BaseModel):
    """The block ``limits`` of a pipeline file. All limits are checked before any pixel is decoded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_bytes: int = Field(
        32 * 2**20, ge=1, le=2**31 - 1, description="Largest encoded image, in bytes.", examples=[33554432]
    )
    # Above this, Pillow itself refuses some formats (twice its MAX_IMAGE_PIXELS).
    max_pixels: int = Field(
        50_000_000, ge=1, le=178_956_970, description="Largest image, width x height.", examples=[50000000]
    )
    max_frames: int = Field(
        1000, ge=1, description="Most frames or pages, of which only the first is decoded.", examples=[1000]
    )


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image is, as its header says.

    Attributes:
        format: ``"JPEG"``, ``"PNG"``, ``"WEBP"``, ``"BMP"``, ``"GIF"`` or ``"TIFF"``.
        width: pixels of the upright image (EXIF orientation applied).
        height: pixels of the upright image (EXIF orientation applied).
    """

    format: str
    width: int
    height: int


class OpenedImage:
    """An image whose header was read and checked against the limits, its pixels not decoded yet.

    Attributes:
        header: what it is.

    Raises:
        TooManyBytes: more bytes than ``limits.max_bytes``.
        UnsupportedImage: a type that is not served, such as HEIC, SVG or PDF.
        TooManyPixels: more pixels or frames than the limits.
        BadImage: not an image, or its header is damaged.
    """

    def __init__(self, data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.header, self._orientation, self._encoded = _open(data, limits)
        self._data = data
        self._limits = limits

    def decode(self, at_least: tuple[int, int] | None = None) -> Image:
        """Decode it to upright pixels, once: Pillow can read it no second time.

        See :func:`decode`.
        """
        with _translated(self.header.format, self._limits):
            size = self._encoded.size
            if at_least is not None and self.header.format == "JPEG":
                height, width = at_least if self._orientation < 5 else at_least[::-1]
                self._encoded.draft(None, (width, height))
            pixels = _common_jpeg(self._data, size, self._encoded)
            if pixels is None:
                self._encoded.load()
                pixels = _rgb(self._encoded)
            turn = TO_UPRIGHT.get(self._orientation)
            if turn is not None:
                pixels = np.asarray(PillowImage.fromarray(pixels).transpose(turn))
        pixels.setflags(write=False)
        return pixels


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Check an image against the limits and tell its size, from its header alone.

    Raises:
        InputError: as :class:`OpenedImage`.
    """
    return OpenedImage(data, limits).header


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, at_least: tuple[int, int] | None = None) -> Image:
    """Decode an image to upright pixels.

    Transparency is laid on white. CMYK is converted without its colour profile. 16-bit grey is scaled from 0..65535;
    32-bit integers and floats, which have no agreed white, from 0..1, widened to their minimum and maximum.

    Args:
        data: the encoded image.
        limits: what it may have at most.
        at_least: (H, W) that is enough: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, whichever is the smallest
            that has both. That skips most of the work; ``None`` and other formats: full size.

    Returns:
        (H, W, 3) RGB uint8, C-contiguous, read-only; H and W are those of :func:`probe`, or these over the divisor,
        rounded up.

    Raises:
        TooManyBytes, UnsupportedImage, TooManyPixels: as :class:`OpenedImage`, before any pixel is decoded.
        BadImage: not an image, truncated or damaged.
    """
    return OpenedImage(data, limits).decode(at_least)


# The plugins' classes and not Image.open: ultralytics replaces that by a function that pip-installs a HEIF reader.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

# A scan of a progressive JPEG costs a pass over all pixels and takes only a few bytes. Cameras and encoders write about
# 10; 100 is where libtiff stops (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
_MAX_JPEG_SCANS = 100
# Looked at only where there may be too many scans. A common JPEG has some 20, and each takes half a microsecond.
_MAX_JPEG_MARKERS = 10_000
# In coded data 0xFF is followed by 0 (stuffing), D0..D7 (restart) or FF (fill): anything else is a marker.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG_SCAN = re.compile(rb"\xff\xda")
_JPEG_END = 0xD9
_JPEG_START_OF_SCAN = 0xDA

# Each costs 80 times its bytes in memory. The longest side of a legitimate one has some 20,000 rows.
_MAX_TIFF_PIECES = 100_000

# Pillow reads each chunk, segment or run with a call or two in Python: these take seconds. A common PNG of
# 32 MiB needs 12,000.
_MAX_READS = 300_000


class _MeteredBytes(io.BytesIO):
    """Bytes that can be read so many times only, which bounds the work that a hostile file of tiny parts can cause."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise BadImage(f"the image has more than {_MAX_READS} parts; save it again with a common image program")
        return super().read(size)


def _open(data: bytes, limits: ImageLimits) -> tuple[ImageHeader, int, ImageFile.ImageFile]:
    """The header, the EXIF orientation that is still to be applied (1..8), and the image, its pixels not decoded."""
    if len(data) > limits.max_bytes:
        raise TooManyBytes(
            f"the image has {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller or more compressed one",
            limit=limits.max_bytes,
        )
    image_format = served_format(data)
    if image_format is None:
        _refuse(data)
    _check_parts(image_format, data)
    with _translated(image_format, limits):
        encoded = _READERS[image_format](_MeteredBytes(data))
        width, height = encoded.size
        if width * height > limits.max_pixels:
            raise TooManyPixels(
                f"the image has {width} x {height} = {width * height} pixels, the limit is {limits.max_pixels}; "
                "send a smaller one",
                limit=limits.max_pixels,
            )
        frames = getattr(encoded, "n_frames", 1)
        if frames > limits.max_frames:
            raise TooManyPixels(
                f"the image has {frames} frames, the limit is {limits.max_frames}, and only the first is looked at; "
                "send the frames one by one",
                limit=limits.max_frames,
            )
    orientation = exif_orientation(_exif(data, encoded))
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(image_format, width, height), orientation, encoded


def _refuse(data: bytes) -> NoReturn:
    if not data:
        raise BadImage("the image is empty: 0 bytes came")
    unserved = unserved_format(data)
    if unserved is not None:
        raise UnsupportedImage(f"{unserved} is not served; send {', '.join(_READERS)}", format=unserved)
    raise BadImage(f"not an image: the bytes start with {data[:8]!r}; send {', '.join(_READERS)}")


def _check_parts(image_format: str, data: bytes) -> None:
    if image_format == "TIFF" and (pieces := tiff_pieces(data)) > _MAX_TIFF_PIECES:
        raise BadImage(f"the TIFF is cut into {pieces} strips or tiles, more than {_MAX_TIFF_PIECES}; save it again")
    # The quick count may be too high (thumbnails, films appended by phones), never too low.
    if image_format == "JPEG" and _may_have_too_many_scans(data) and _has_too_many_scans(data):
        raise BadImage(f"the JPEG has more than {_MAX_JPEG_SCANS} scans; save it again as a baseline JPEG")


def _may_have_too_many_scans(data: bytes) -> bool:
    """Not ``bytes.count``: that takes eight times as long, as much as half of reading the header."""
    return sum(1 for _ in itertools.islice(_JPEG_SCAN.finditer(data), _MAX_JPEG_SCANS + 1)) > _MAX_JPEG_SCANS


def _has_too_many_scans(data: bytes) -> bool:
    scans, markers, position = 0, 0, 2
    while (marker := _JPEG_MARKER.search(data, position)) and (code := marker[1][0]) != _JPEG_END:
        scans += code == _JPEG_START_OF_SCAN
        markers += 1
        if scans > _MAX_JPEG_SCANS or markers > _MAX_JPEG_MARKERS:
            return True
        # A marker's segment starts with its own length.
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False


def _exif(data: bytes, encoded: ImageFile.ImageFile) -> bytes:
    if encoded.format == "PNG":
        return png_exif(data)
    # A TIFF has no such block: Pillow turns it upright itself, by its own tags.
    return bytes(encoded.info.get("exif", b""))


@contextmanager
def _translated(image_format: str, limits: ImageLimits) -> Iterator[None]:
    """Turn what Pillow raises into errors of this package."""
    try:
        yield
    except VisionError:
        raise
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise TooManyPixels(f"{error}; the limit is {limits.max_pixels} pixels", limit=limits.max_pixels) from error
    except Exception as error:  # hostile bytes raise anything in Pillow
        raise BadImage(
            f"the {image_format} cannot be decoded, it is damaged or truncated ({type(error).__name__}: {error})"
        ) from error


def _common_jpeg(data: bytes, size: tuple[int, int], encoded: ImageFile.ImageFile) -> Image | None:
    """The pixels of a whole RGB or grey JPEG: those that Pillow gives, sooner, since they are not copied twice.

    Args:
        data: the JPEG.
        size: (W, H) that was checked against the limits.
        encoded: the same JPEG; it may be about to be reduced.

    Returns:
        ``None`` where it is something else or damaged; Pillow says what it is.
    """
    if encoded.format != "JPEG" or encoded.mode not in ("RGB", "L"):
        return None
    width, height = encoded.size
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != size[::-1]:
            return None
        pixels: Image = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _rgb(image: PillowImage.Image) -> Image:
    """(H, W, 3) RGB uint8 of an image in any mode that the readers give."""
    if image.mode == "LAB":
        # Pillow has a* and b* as signed bytes, OpenCV with 128 added.
        lab = np.asarray(image) ^ np.array([0, 128, 128], np.uint8)
        return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), dtype=np.uint8)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return _grey_rgb(image)
    if image.has_transparency_data:
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")  # which would copy it
        image = PillowImage.new("RGB", image.size, "white")
        image.paste(with_alpha, mask=with_alpha)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_rgb(image: PillowImage.Image) -> Image:
    values: npt.NDArray[np.float32] = np.asarray(image).astype(np.float32)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        values = np.nan_to_num(values, nan=0.0)
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    grey = np.round((values - low) * (255.0 / (high - low))).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
