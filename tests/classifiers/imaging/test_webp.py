from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from classifiers import BadImage
from classifiers.imaging.decoding import decode, probe

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(**options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(NOISE).save(buffer, "WEBP", lossless=True, **options)
    return buffer.getvalue()


WITH_EXIF = encoded(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(500))
ANIMATED = encoded(save_all=True, append_images=[PIL.Image.fromarray(NOISE[::-1].copy())])


@pytest.mark.parametrize(
    "data",
    [
        WITH_EXIF[:-1],
        WITH_EXIF[:-400],
        WITH_EXIF[: WITH_EXIF.index(b"EXIF") + 6],
        WITH_EXIF[: WITH_EXIF.index(b"EXIF")],
        encoded(xmp=bytes(301))[:-1],
        ANIMATED[: len(ANIMATED) * 3 // 4],
    ],
    ids=["last byte", "within EXIF", "within its header", "before EXIF", "padding", "within the second frame"],
)
def test_all_pixels_are_there_although_the_end_is_cut_off(data: bytes) -> None:
    assert probe(data).width == 60
    np.testing.assert_array_equal(decode(data), NOISE)


def test_a_length_beyond_the_end() -> None:
    data = encoded()
    np.testing.assert_array_equal(decode(data[:4] + (len(data) + 100).to_bytes(4, "little") + data[8:]), NOISE)


@pytest.mark.parametrize("data", [encoded()[:-100], ANIMATED[: len(ANIMATED) // 4], WITH_EXIF[:200]])
def test_cut_off_pixels_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage, match="cut off within its pixels"):
        decode(data)
