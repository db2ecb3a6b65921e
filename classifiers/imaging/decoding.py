"""Encoded bytes to pixels: what the header says, and decoding within limits.

Served: JPEG, PNG, WebP, BMP, GIF and TIFF. Of an animation or of several pages only the first is decoded. All functions
are pure and may be called from several threads at once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import cv2
import numpy as np
import numpy.typing as npt
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
from classifiers.imaging.colour_profiles import ADOBE_RGB, is_srgb, to_srgb
from classifiers.imaging.jpeg import JpegHeader, jpeg_header
from classifiers.imaging.png import PngFile, read_png
from classifiers.imaging.signatures import served_format, tiff_kind, unserved_format, unserved_kind
from classifiers.imaging.strict_jpeg import TWO_SIZES, jpeg_channels
from classifiers.imaging.tiff_damage import check_tiff
from classifiers.imaging.tiff_tags import TO_UPRIGHT, TiffTag, exif_is_adobe_rgb, exif_orientation, tiff_pieces
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
        UnsupportedImage: a type that is not served, such as HEIC, SVG or PDF, or a kind of a served type that is not,
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
        """Decode it to upright pixels, once: Pillow can read it no second time.

        See :func:`decode`.
        """
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
                pixels = _srgb(self._parts.content, self._profile())
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
    """Check an image against the limits and tell its size, from its header alone.

    Raises:
        InputError: as :class:`OpenedImage`.
    """
    return OpenedImage(data, limits).header


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, at_least: tuple[int, int] | None = None) -> Image:
    """Decode an image to upright pixels.

    Colours are converted to sRGB from the colour profile, where there is one that fits; without one they are taken for
    sRGB, and CMYK is converted plainly. Transparency is laid on white; an alpha channel that is 0 everywhere was left
    empty by what wrote it, and is ignored. 16-bit grey is scaled from 0..65535; 32-bit integers and floats, which have
    no agreed white, from 0..1, widened to their minimum and maximum.

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


def from_pillow(image: PillowImage.Image, limits: ImageLimits = DEFAULT_LIMITS) -> Image:
    """The upright pixels of a Pillow image, decoded already or not; those that :func:`decode` gives for its file.

    Returns:
        As :func:`decode`.

    Raises:
        TooManyPixels: over the limit.
        BadImage: truncated or damaged, as far as Pillow tells.
    """
    _check_size(*image.size, limits)
    with _translated(image.format or "Pillow image", limits):
        upright = ImageOps.exif_transpose(image)
        profile = image.info.get("icc_profile")
        if profile is None and exif_is_adobe_rgb(image.info.get("exif", b"")):
            profile = ADOBE_RGB
        pixels = _srgb(upright, profile)
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
    """Bytes that can be read so many times only, which bounds the work that a hostile file of tiny parts can cause."""

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
        raise BadImage("the image is empty: 0 bytes came")
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
    try:
        encoded = _READERS[image_format](_MeteredBytes(_readable(image_format, data) if png is None else png.pixels))
    except SyntaxError:  # Pillow's, where it does not know the kind or finds no kind
        if image_format == "TIFF" and (kind := tiff_kind(data)):
            _refuse_kind(kind)
        raise
    except OSError as error:
        if str(error).startswith(_NOT_READ):
            _refuse_kind(str(error).removeprefix(_NOT_READ))
        raise
    exif = bytes(encoded.info.get("exif", b"")) if png is None else png.exif
    return _Parts(image_format, encoded.size, encoded, exif, png)


def _readable(image_format: str, data: bytes) -> bytes:
    if image_format == "WEBP":
        return whole_webp(data)
    return with_full_palette(data) if image_format == "BMP" else data


_NOT_READ = "Unsupported "  # what Pillow says of a sound bitmap that it cannot read


def _refuse_kind(kind: str) -> NoReturn:
    raise UnsupportedImage(f"{kind} is not supported; convert it to a common kind with 8 bits a channel", format=kind)


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
        return _srgb(encoded, profile)
    if header.components == 1 and colours == "GRAY":
        return _srgb(PillowImage.fromarray(pixels.squeeze(2)), profile)
    if header.components == 4:
        inks = 255 - pixels  # Adobe writes them inverted, and everyone follows it
        return _srgb(PillowImage.frombytes("CMYK", (width, height), inks.data), profile)
    return pixels if is_srgb(profile) else _srgb(PillowImage.fromarray(pixels), profile)


def _srgb(image: PillowImage.Image, profile: bytes | None) -> Image:
    """(H, W, 3) RGB uint8 of an image in any mode that the readers give."""
    if image.mode == "LAB":
        # Pillow has a* and b* as signed bytes, OpenCV with 128 added.
        lab = np.asarray(image) ^ np.array([0, 128, 128], np.uint8)
        return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), dtype=np.uint8)
    alpha = None
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = _grey(image)
    elif image.has_transparency_data:
        image = image if image.mode in ("LA", "RGBA") else image.convert("LA" if image.mode == "La" else "RGBA")
        lowest, highest = cast("tuple[tuple[int, int], ...]", image.getextrema())[-1]
        is_opaque = lowest == 255 or highest == 0
        if not is_opaque and image.mode == "RGBA" and (profile is None or is_srgb(profile)):
            return np.asarray(_on_white(image, image))  # without the copies below: a gateway counts bytes a pixel
        alpha = None if is_opaque else image.getchannel("A")
        image = image.convert(image.mode[:-1])
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image = to_srgb(image, profile)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image if alpha is None else _on_white(image, alpha))


def _on_white(image: PillowImage.Image, mask: PillowImage.Image) -> PillowImage.Image:
    canvas = PillowImage.new("RGB", image.size, "white")
    canvas.paste(image, mask=mask)
    return canvas


def _grey(image: PillowImage.Image) -> PillowImage.Image:
    """Grey of more than 8 bits, as mode ``L``."""
    values: npt.NDArray[Any] = np.asarray(image)
    tags = getattr(image, "tag_v2", None) if image.mode == "I" else None
    if tags is not None and tags.get(TiffTag.SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # Pillow has no mode for these
    values = values.astype(np.float32)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        values = np.nan_to_num(values, nan=0.0)
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    grey = np.round((values - low) * (255.0 / (high - low))).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return PillowImage.fromarray(grey)
