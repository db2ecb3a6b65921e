"""Colour profiles (ICC.1:2022): the colours of an image, as sRGB.

Transforms are cached by profile. An image with an unusable profile is taken as sRGB, which is logged.
"""

from __future__ import annotations

import functools
import io
import logging
import struct
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms

__all__ = [
    "ADOBE_RGB",
    "MAX_PROFILE_BYTES",
    "PRIMARIES",
    "SRGB_CURVE",
    "TRANSFER_CURVES",
    "Curve",
    "is_srgb",
    "matrix_profile",
    "to_srgb",
]

_log = logging.getLogger(__name__)

MAX_PROFILE_BYTES = 4 * 2**20
"""Those of printing presses have up to 3 MiB, those of cameras and screens a few KiB."""

# The space that a profile is for, to the mode that Pillow has it in.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

# Of 255. Profiles of sRGB differ by that much because of rounding; it is not visible.
_NO_DIFFERENCE = 2

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue, as in PNG's ``cHRM``."""

_D65 = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white that profiles refer to
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PRIMARIES: dict[int, Chromaticities] = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""By their number in ITU-T H.273: BT.709 and sRGB, BT.601 (625 and 525 lines), BT.2020, DCI-P3, Display P3."""


@dataclass(frozen=True, slots=True)
class Curve:
    """From encoded to linear values: ``((x + offset) / (1 + offset)) ** gamma``, and ``x / slope`` up to ``limit``."""

    gamma: float
    offset: float = 0.0
    slope: float = 1.0
    limit: float = 0.0


SRGB_CURVE = Curve(2.4, 0.055, 12.92, 0.04045)
_TELEVISION = Curve(1 / 0.45, 0.099, 4.5, 0.081)
TRANSFER_CURVES = {
    1: _TELEVISION,
    4: Curve(2.2),
    5: Curve(2.8),
    6: _TELEVISION,
    8: Curve(1.0),
    13: SRGB_CURVE,
    14: _TELEVISION,
    15: _TELEVISION,
}
"""By their number in ITU-T H.273, those of high dynamic range left out."""


def to_srgb(image: PillowImage.Image, profile: bytes | None) -> PillowImage.Image:
    """The image in sRGB, mode ``RGB``; as it is where it has no profile, one of sRGB, or one that cannot be used.

    Args:
        image: mode ``RGB``, ``L`` or ``CMYK``.
        profile: the bytes of its ICC profile.
    """
    transform = _transform(profile) if _may_be_used(profile) else None
    if transform is None:
        return image
    if image.mode == "L" and transform.input_mode == "RGB":
        image = image.convert("RGB")
    if image.mode != transform.input_mode:
        _log.debug("colour profile ignored: it is for %s, the image is %s", transform.input_mode, image.mode)
        return image
    return transform.apply(image)


def is_srgb(profile: bytes | None) -> bool:
    """Whether :func:`to_srgb` leaves an image with this profile as it is."""
    return not _may_be_used(profile) or _transform(profile) is None


def _may_be_used(profile: bytes | None) -> TypeGuard[bytes]:
    if not isinstance(profile, bytes):  # a TIFF may hold numbers
        return False
    if len(profile) > MAX_PROFILE_BYTES:
        _log.debug("colour profile ignored: it has more than %d bytes", MAX_PROFILE_BYTES)
    return len(profile) <= MAX_PROFILE_BYTES


@functools.lru_cache(maxsize=16)  # of up to 4 MiB each
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = _MODES.get(space)
        if mode is None:
            _log.debug("colour profile ignored: it is for the colour space %s", space)
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        _log.debug("colour profile ignored: %s: %s", type(error).__name__, error)
        return None
    return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tested on colours, not by name: many profiles named sRGB are not, and many that are have another name."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        colours = steps[np.newaxis]
        expected = np.repeat(colours[..., np.newaxis], 3, axis=2)
    else:
        expected = colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    result = np.asarray(transform.apply(PillowImage.fromarray(colours)), dtype=np.int16)
    return int(np.abs(result - expected).max()) <= _NO_DIFFERENCE


@functools.lru_cache(maxsize=32)
def matrix_profile(chromaticities: Chromaticities, curve: Curve) -> bytes | None:
    """An ICC profile of a colour space that is given by its primaries and one curve; ``None`` if they span none."""
    pairs = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    scale = 1 / (1 + curve.offset)
    parameters = (curve.gamma, scale, curve.offset * scale, 1 / curve.slope, curve.limit)
    try:
        points = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in pairs])
        white, primaries = points[0], points[1:].T
        adaptation = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD)
        colorants = adaptation @ (primaries * np.linalg.solve(primaries, white))
        fixed = [_xyz(column) for column in (_D50, *colorants.T)]
        para = struct.pack(">4sLHH5l", b"para", 0, 3, 0, *(round(value * 65536) for value in parameters))
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    content, directory, start = b"", struct.pack(">L", len(names)), 128 + 4 + 12 * len(names)
    for name, tag in zip(names, (*fixed, para, para, para), strict=True):
        directory += struct.pack(">4sLL", name, start + len(content), len(tag))
        content += tag
    header = struct.pack(">L4sL4s4s4s", start + len(content), b"\0" * 4, 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    header = (header + bytes(12) + b"acsp").ljust(68, b"\0") + _xyz(_D50)[8:]
    return header.ljust(128, b"\0") + directory + content


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4sL3l", b"XYZ ", 0, *(round(float(value) * 65536) for value in values))


ADOBE_RGB = matrix_profile((*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), Curve(563 / 256))
"""What cameras mean by the mark ``R03`` in EXIF (DCF 2.0)."""
