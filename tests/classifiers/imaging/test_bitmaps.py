from __future__ import annotations

import struct

import numpy as np
import pytest

from classifiers.imaging.decoding import decode

BLACK_AND_WHITE = [(0, 0, 0), (255, 255, 255)]
COLOURS = [(index * 3 % 256, 255 - index % 256, 40) for index in range(1000)]


def bitmap(bits: int, palette: list[tuple[int, int, int]], indices: np.ndarray, colours: int) -> bytes:
    """A bitmap with a palette, from the bottom up; ``colours`` is what its header says that the palette has."""
    shifts = np.arange(8 - bits, -1, -bits)
    packed = (indices[::-1].reshape(len(indices), -1, 8 // bits) << shifts).sum(axis=2).astype(np.uint8)
    rows = np.pad(packed, [(0, 0), (0, -packed.shape[1] % 4)]).tobytes()
    entries = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    height, width = indices.shape
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, 0, len(rows), 0, 0, colours, 0)
    start = 14 + len(header) + len(entries)
    return b"BM" + struct.pack("<LLL", start + len(rows), 0, start) + header + entries + rows


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("palette", [BLACK_AND_WHITE, BLACK_AND_WHITE[::-1], COLOURS[:2]])
def test_two_colours_of_several_bits(bits: int, palette: list[tuple[int, int, int]]) -> None:
    indices = np.random.default_rng(0).integers(0, 2, (40, 56))
    np.testing.assert_array_equal(decode(bitmap(bits, palette, indices, 2)), np.array(palette)[indices])


@pytest.mark.parametrize(
    ("bits", "entries", "colours"), [(8, 257, 257), (8, 1000, 1000), (8, 256, 65_537), (4, 300, 300), (8, 256, 2**31)]
)
def test_more_colours_than_the_pixels_can_have(bits: int, entries: int, colours: int) -> None:
    indices = np.random.default_rng(0).integers(0, 1 << bits, (40, 56))
    pixels = decode(bitmap(bits, COLOURS[:entries], indices, colours))
    np.testing.assert_array_equal(pixels, np.array(COLOURS)[indices])
