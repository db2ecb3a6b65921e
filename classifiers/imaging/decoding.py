"""Encoded bytes to pixels: reading the header, and decoding within limits.

Supported: JPEG, PNG, WebP, BMP, GIF and TIFF. Of an animation or of several pages only the first is decoded. All
functions are pure and may be called from several threads at once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from pydantic import Field

from classifiers.base import Image
from classifiers.errors import BadImage, TooManyBytes, TooManyPixels, UnsupportedImage, VisionError
from classifiers.imaging.bitmaps import bmp_profile, with_full_palette
from classifiers.imaging.colour_profiles import ADOBE_RGB, is_srgb
from classifiers.imaging.jpeg import JpegHeader, jpeg_header
from classifiers.imaging.png import PngFile, read_png
from classifiers.imaging.rgb import rgb_pixels
from classifiers.imaging.signatures import served_format, tiff_kind, unserved_format, unserved_kind
from classifiers.imaging.strict_jpeg import TWO_SIZES, jpeg_channels
from classifiers.imaging.tiff_damage import check_tiff
from classifiers.imaging.tiff_tags import TO_UPRIGHT, exif_is_adobe_rgb, exif_orientation, tiff_pieces
from classifiers.imaging.webp import whole_webp
from classifiers.validation import Closed

__all__ = ["DEFAULT_LIMITS", "ImageHeader", "ImageLimits", "OpenedImage", "decode", "from_pillow", "probe"]


class ImageLimits(Closed, strict=True):
    """The block ``limits`` of a pipeline file. All limits are checked before any pixel is decoded."""

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
    """The format and size of an image, from its header.

    Attributes:
        format: ``"JPEG"``, ``"PNG"``, ``"WEBP"``, ``"BMP"``, ``"GIF"`` or ``"TIFF"``.
        width: pixels of the upright image (EXIF orientation applied).
        height: pixels of the upright image (EXIF orientation applied).
    """

    format: str
    width: int
    height: int


class OpenedImage:
    """An image whose header was read and checked against the limits; its pixels are not decoded yet.

    Attributes:
        header: what it is.

    Raises:
        TooManyBytes: more bytes than ``limits.max_bytes``.
        UnsupportedImage: an unsupported type, such as HEIC, SVG or PDF, or an unsupported kind of a supported type,
            such as a 12-bit JPEG or a TIFF of 64-bit numbers.
        TooManyPixels: more pixels or frames than the limits.
        BadImage: not an image, or its header is damaged.
    """

    def __init__(self, data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self._parts = _open(data, limits)
        self._data = data
        self._limits = limits
        width, height = self._parts.size
        self._orientation = exif_orientation(self._parts.exif)
        if self._orientation >= 5:
            width, height = height, width
        self.header = ImageHeader(self._parts.format, width, height)

    def decode(self, at_least: tuple[int, int] | None = None) -> Image:
        """Decode it to upright pixels, see :func:`decode`. Only once: Pillow cannot read it again."""
        with _translated(self.header.format, self._limits):
            if isinstance(self._parts.content, JpegHeader):
                if at_least is not None and self._orientation >= 5:
                    at_least = at_least[::-1]
                pixels = _jpeg_pixels(self._data, self._parts.content, self._profile(), at_least)
            else:
                if self._parts.png is not None:
                    self._parts.png.check(self._data)
                elif self._parts.format == "TIFF":
                    check_tiff(self._data, self._parts.size[0] * self._parts.size[1])
                self._parts.content.load()
                pixels = rgb_pixels(self._parts.content, self._profile())
            turn = TO_UPRIGHT.get(self._orientation)
            if turn is not None:
                pixels = np.asarray(PillowImage.fromarray(pixels).transpose(turn))
        pixels.setflags(write=False)
        return pixels

    def _profile(self) -> bytes | None:
        parts = self._parts
        if isinstance(parts.content, JpegHeader):
            profile = parts.content.icc
        elif parts.png is not None:
            profile = parts.png.profile()
        elif parts.format == "BMP":
            profile = bmp_profile(self._data)
        else:
            profile = parts.content.info.get("icc_profile")
        if profile is None and exif_is_adobe_rgb(parts.exif):
            return ADOBE_RGB
        return profile


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Check an image against the limits and read its size, from its header alone.

    Raises:
        InputError: as :class:`OpenedImage`.
    """
    return OpenedImage(data, limits).header


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, at_least: tuple[int, int] | None = None) -> Image:
    """Decode an image to upright pixels.

    Colours are converted to sRGB by the colour profile, if there is a valid one. Without one, RGB is taken as sRGB, and
    CMYK is converted plainly. Transparent pixels are blended with white; an alpha channel of all 0 is ignored, because
    some programs leave it empty. 16-bit grey is scaled from 0..65535; 32-bit integers and floats, which have no defined
    white, from 0..1, widened to their minimum and maximum.

    Args:
        data: the encoded image.
        limits: see :class:`ImageLimits`.
        at_least: (H, W) that suffices: a JPEG is decoded at the smallest of 1/2, 1/4 and 1/8 of its size that has both.
            That skips most of the work. ``None`` and other formats: full size.

    Returns:
        (H, W, 3) RGB uint8, C-contiguous, read-only; H and W are those of :func:`probe`, or these over the divisor,
        rounded up.

    Raises:
        TooManyBytes, UnsupportedImage, TooManyPixels: as :class:`OpenedImage`, before any pixel is decoded.
        BadImage: not an image, truncated or damaged.
    """
    return OpenedImage(data, limits).decode(at_least)


def from_pillow(image: PillowImage.Image, limits: ImageLimits = DEFAULT_LIMITS) -> Image:
    """The upright pixels of a Pillow image, decoded or not; the same as :func:`decode` returns for its file.

    Returns:
        As :func:`decode`.

    Raises:
        TooManyPixels: over the limit.
        BadImage: truncated or damaged, as far as Pillow detects it.
    """
    _check_size(*image.size, limits)
    with _translated(image.format or "Pillow image", limits):
        upright = ImageOps.exif_transpose(image)
        profile = image.info.get("icc_profile")
        if profile is None and exif_is_adobe_rgb(image.info.get("exif", b"")):
            profile = ADOBE_RGB
        pixels = rgb_pixels(upright, profile)
    pixels.setflags(write=False)
    return pixels


# The plugins' classes and not Image.open: ultralytics replaces that by a function that pip-installs a HEIF reader.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

# Each costs 80 times its bytes in memory. The longest side of a legitimate one has some 20,000 rows.
_MAX_TIFF_PIECES = 100_000

# Pillow reads each block or run with a call or two in Python: these take seconds.
_MAX_READS = 300_000


class _MeteredBytes(io.BytesIO):
    """Bytes with a limited number of reads, which bounds the work for a hostile file of tiny parts."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise BadImage(f"the image has more than {_MAX_READS} parts; save it again with a common image program")
        return super().read(size)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A file whose header was read.

    Attributes:
        format: as in :class:`ImageHeader`.
        size: (W, H) before the EXIF orientation is applied.
        content: a JPEG's header, or the image in Pillow, its pixels not decoded.
        exif: an EXIF block, or empty. A TIFF has none: Pillow turns it upright itself, by its own tags.
        png: the chunks of a PNG.
    """

    format: str
    size: tuple[int, int]
    content: JpegHeader | ImageFile.ImageFile
    exif: bytes
    png: PngFile | None = None


def _open(data: bytes, limits: ImageLimits) -> _Parts:
    if len(data) > limits.max_bytes:
        raise TooManyBytes(
            f"the image has {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller or more compressed one",
            limit=limits.max_bytes,
        )
    image_format = served_format(data)
    if image_format is None:
        _refuse(data)
    if image_format == "TIFF" and (pieces := tiff_pieces(data)) > _MAX_TIFF_PIECES:
        raise BadImage(f"the TIFF is cut into {pieces} strips or tiles, more than {_MAX_TIFF_PIECES}; save it again")
    kind = unserved_kind(image_format, data)
    if kind is not None:
        _refuse_kind(kind)
    with _translated(image_format, limits):
        parts = _read_parts(image_format, data)
        _check_size(*parts.size, limits)
        frames = parts.png.frames if parts.png is not None else getattr(parts.content, "n_frames", 1)
        if frames > limits.max_frames:
            raise TooManyPixels(
                f"the image has {frames} frames, the limit is {limits.max_frames}, and only the first is looked at; "
                "send the frames one by one",
                limit=limits.max_frames,
            )
    return parts


def _refuse(data: bytes) -> NoReturn:
    if not data:
        raise BadImage("the image is empty: 0 bytes")
    unserved = unserved_format(data)
    if unserved is not None:
        raise UnsupportedImage(f"{unserved} is not served; send {', '.join(_READERS)}", format=unserved)
    raise BadImage(f"not an image: the bytes start with {data[:8]!r}; send {', '.join(_READERS)}")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"the image has {width} x {height} = {width * height} pixels, the limit is {limits.max_pixels}; "
            "send a smaller one",
            limit=limits.max_pixels,
        )


def _read_parts(image_format: str, data: bytes) -> _Parts:
    if image_format == "JPEG":
        header = jpeg_header(data)
        if header.unsupported is not None:
            _refuse_kind(header.unsupported)
        return _Parts(image_format, (header.width, header.height), header, header.exif)
    png = read_png(data) if image_format == "PNG" else None
    readable = data if png is None else png.pixels
    if image_format == "WEBP":
        readable = whole_webp(data)
    elif image_format == "BMP":
        readable = with_full_palette(data)
    try:
        encoded = _READERS[image_format](_MeteredBytes(readable))
    except SyntaxError:  # Pillow's, for an unknown kind
        if image_format == "TIFF" and (kind := tiff_kind(data)):
            _refuse_kind(kind)
        raise
    except OSError as error:
        if str(error).startswith(_NOT_READ):
            _refuse_kind(str(error).removeprefix(_NOT_READ))
        raise
    exif = bytes(encoded.info.get("exif", b"")) if png is None else png.exif
    return _Parts(image_format, encoded.size, encoded, exif, png)


_NOT_READ = "Unsupported "  # Pillow's message about a valid bitmap that it cannot read


def _refuse_kind(kind: str) -> NoReturn:
    raise UnsupportedImage(f"{kind} is not supported; convert it to a common kind with 8 bits a channel", format=kind)


@contextmanager
def _translated(image_format: str, limits: ImageLimits) -> Iterator[None]:
    """Convert Pillow's errors to those of this package."""
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


def _jpeg_pixels(data: bytes, header: JpegHeader, profile: bytes | None, at_least: tuple[int, int] | None) -> Image:
    """Decode a JPEG, at 1/2, 1/4 or 1/8 of its size if that is enough."""
    if not header.is_complete:
        raise BadImage("the JPEG is truncated: some of its scans are missing")
    divisor = 1
    if at_least is not None:
        fits = min(header.height // at_least[0], header.width // at_least[1])
        divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor <= max(fits, 1))
    height, width = -(-header.height // divisor), -(-header.width // divisor)
    colours = {1: "RGB" if is_srgb(profile) else "GRAY", 3: "RGB", 4: "CMYK"}[header.components]
    pixels = jpeg_channels(data, header, (height, width), colours)
    if pixels is None:
        encoded = JpegImagePlugin.JpegImageFile(_MeteredBytes(data))
        if encoded.size != (header.width, header.height):
            raise ValueError(TWO_SIZES)
        encoded.draft(None, (width, height))
        encoded.load()
        return rgb_pixels(encoded, profile)
    if header.components == 1 and colours == "GRAY":
        return rgb_pixels(PillowImage.fromarray(pixels.squeeze(2)), profile)
    if header.components == 4:
        inks = 255 - pixels  # Adobe writes them inverted, and everyone follows it
        return rgb_pixels(PillowImage.frombytes("CMYK", (width, height), inks.data), profile)
    return pixels if is_srgb(profile) else rgb_pixels(PillowImage.fromarray(pixels), profile)
