from __future__ import annotations

import io
import zlib

import numpy as np
import PIL.Image
import pytest

from classifiers import BadImage
from classifiers.imaging.decoding import decode

NOISE = np.random.default_rng(0).integers(0, 256, (180, 240, 3), dtype=np.uint8)
SMOOTH = PIL.Image.fromarray(NOISE[:45, :60]).resize((240, 180), PIL.Image.Resampling.BICUBIC)


def encoded(compression: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    SMOOTH.save(buffer, "TIFF", compression=compression, **options)
    return buffer.getvalue()


FILES = {
    "deflate": encoded("tiff_adobe_deflate"),
    "old deflate": encoded("tiff_deflate"),
    "deflate in strips": encoded("tiff_adobe_deflate", strip_size=240 * 3 * 16),
    "JPEG": encoded("jpeg", quality=95),
    "JPEG in strips": encoded("jpeg", quality=95, strip_size=240 * 3 * 16),
}
DAMAGES = {
    "60 bytes overwritten": lambda data, at: data[:at] + NOISE.tobytes()[:60] + data[at + 60 :],
    "hole": lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
    "rubbish": lambda data, at: data[:at] + NOISE.tobytes()[:2000] + data[at + 2000 :],
}


@pytest.mark.parametrize("name", FILES)
def test_sound_ones_are_decoded(name: str) -> None:
    assert np.abs(decode(FILES[name]).astype(int) - np.asarray(SMOOTH)).mean() < 3


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_are_refused(name: str, damage: str) -> None:
    data = FILES[name]
    for part in (0.2, 0.4, 0.6):
        with pytest.raises(BadImage, match="damaged"):
            decode(DAMAGES[damage](data, int(len(data) * part)))


def test_a_strip_that_inflates_to_more_than_the_pixels_is_not_inflated_whole() -> None:
    data = FILES["deflate"]
    start = data.index(b"\x78", 8)
    inflater = zlib.decompressobj()
    pixels = inflater.decompress(data[start:])
    end = len(data) - len(inflater.unused_data)
    bomb = zlib.compress(pixels + bytes(300 * 2**20))
    assert len(bomb) > end - start
    moved = data + bomb  # behind everything else, and the directory says so
    for tag, old, new in ((b"\x11\x01", start, len(data)), (b"\x17\x01", end - start, len(bomb))):
        entry = tag + b"\x04\0\1\0\0\0"
        moved = moved.replace(entry + old.to_bytes(4, "little"), entry + new.to_bytes(4, "little"))
    np.testing.assert_array_equal(decode(moved), np.asarray(SMOOTH))
