"""Pixels of an image in any mode to RGB."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from classifiers.base import Image
from classifiers.imaging.colour_profiles import is_srgb, to_srgb
from classifiers.imaging.tiff_tags import TiffTag

__all__ = ["rgb_pixels"]


def rgb_pixels(image: PillowImage.Image, profile: bytes | None) -> Image:
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
            return np.asarray(_on_white(image, image))  # without the copies below: memory matters in a gateway
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
