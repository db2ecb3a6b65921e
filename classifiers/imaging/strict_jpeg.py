"""Decodes JPEGs with a decoder that rejects damaged ones.

Not Pillow, which copies the pixels twice, and hides the decoder's warnings about damage.
"""

from __future__ import annotations

import itertools

import simplejpeg

from classifiers.base import Image
from classifiers.imaging.jpeg import JpegHeader, repaired

__all__ = ["TWO_SIZES", "jpeg_channels"]

# The other one was not checked against the limits.
TWO_SIZES = "it has two sizes"


def jpeg_channels(data: bytes, header: JpegHeader, size: tuple[int, int], colours: str) -> Image | None:
    """Decode a JPEG to (H, W, channels); ``None`` if simplejpeg does not support its subsampling.

    Args:
        data: the JPEG.
        header: its header.
        size: (H, W), or that divided by 2, 4 or 8 and rounded up.
        colours: ``"GRAY"``, ``"RGB"`` or ``"CMYK"``.

    Raises:
        ValueError: it is damaged.
    """
    candidates = itertools.chain([data], repaired(data, header))
    while True:
        try:
            return _strictly_decoded(next(candidates), header, size, colours)
        except ValueError as complaint:
            if "subsampling" in str(complaint):
                return None
            error = complaint
        except StopIteration:
            raise error from None


def _strictly_decoded(data: bytes, header: JpegHeader, size: tuple[int, int], colours: str) -> Image:
    """Raises ValueError for any warning of the decoder."""
    if simplejpeg.decode_jpeg_header(data)[:2] != (header.height, header.width):
        raise ValueError(TWO_SIZES)
    pixels: Image = simplejpeg.decode_jpeg(data, colours, min_height=size[0], min_width=size[1])
    if pixels.shape[:2] != size:
        raise ValueError(f"decoded at {pixels.shape[:2]} instead of {size}")
    return pixels
