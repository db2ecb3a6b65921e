from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from classifiers import BadImage, TooManyPixels, UnsupportedImage
from classifiers.imaging.decoding import ImageLimits, decode, probe

NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def encoded(image: PIL.Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


DATA = encoded(PIL.Image.fromarray(NOISE))
HEADER_END = 8 + 12 + 13

METADATA = {
    "large text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
    "compressed text that inflates to much": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70 * 2**20))),
    "compressed international text": chunk(b"iTXt", b"XML\0\1\0\0\0" + zlib.compress(bytes(5 * 2**20))),
    "many texts": chunk(b"tEXt", b"Comment\0" + bytes(60_000)) * 100,
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0text", checksum=1),
    "time with a wrong checksum": chunk(b"tIME", bytes(7), checksum=1),
    "profile with a wrong checksum": chunk(b"iCCP", b"name\0\0", checksum=1),
    "transparency with a wrong checksum": chunk(b"tRNS", bytes(6), checksum=1),
    "empty transparency": chunk(b"tRNS", b""),
    "short transparency": chunk(b"tRNS", bytes(2)),
    "malformed time": chunk(b"tIME", b""),
    "malformed size": chunk(b"pHYs", b"1"),
    "malformed text": chunk(b"zTXt", b"no end of the keyword"),
    "malformed EXIF": chunk(b"eXIf", b"MM\0*"),
    "malformed gamma": chunk(b"gAMA", b""),
    "malformed animation": chunk(b"acTL", b"1") + chunk(b"fcTL", b"2"),
    "private chunk": chunk(b"prVt", bytes(1000)),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_is_not_needed_is_skipped(name: str) -> None:
    end = len(DATA) - 12
    for data in (DATA[:HEADER_END] + METADATA[name] + DATA[HEADER_END:], DATA[:end] + METADATA[name] + DATA[end:]):
        assert probe(data).width == 160
        np.testing.assert_array_equal(decode(data), NOISE)


def with_wrong_checksum(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    end = start + 12 + int.from_bytes(data[start : start + 4])
    return data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_what_is_needed_is_refused(kind: bytes) -> None:
    palette = encoded(PIL.Image.fromarray(NOISE).convert("P"))
    decode(palette)
    with pytest.raises(BadImage, match="damaged"):
        decode(with_wrong_checksum(palette, kind))


def test_a_wrong_checksum_of_the_end_is_accepted() -> None:
    np.testing.assert_array_equal(decode(with_wrong_checksum(DATA, b"IEND")), NOISE)


def test_one_wrong_byte_in_pixels_that_are_stored_plainly() -> None:
    data = encoded(PIL.Image.fromarray(NOISE), compress_level=0)
    middle = len(data) // 2
    assert decode(data).shape == NOISE.shape
    with pytest.raises(BadImage, match="damaged"):
        decode(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_truncated(share: float) -> None:
    with pytest.raises(BadImage, match="damaged or truncated"):
        decode(DATA[: int((len(DATA) - 16) * share)])


def test_holes_and_lost_bytes() -> None:
    middle = len(DATA) // 2
    for data in (
        DATA[:middle] + bytes(4096) + DATA[middle + 4096 :],
        DATA[:middle] + DATA[middle + 10 :],
        DATA[:middle] + bytes(len(DATA) - middle),
    ):
        with pytest.raises(BadImage, match="damaged"):
            decode(data)


def test_only_the_end_chunk_is_missing_or_something_follows_it() -> None:
    np.testing.assert_array_equal(decode(DATA[:-12]), NOISE)
    np.testing.assert_array_equal(decode(DATA + b"rubbish" * 100), NOISE)
    np.testing.assert_array_equal(decode(DATA[:-12] + METADATA["compressed text that inflates to much"]), NOISE)


def test_frames_are_counted_without_being_read() -> None:
    film = DATA[:HEADER_END] + chunk(b"acTL", struct.pack(">LL", 5, 0)) + DATA[HEADER_END:]
    np.testing.assert_array_equal(decode(film, ImageLimits(max_frames=5)), NOISE)
    with pytest.raises(TooManyPixels, match="5 frames"):
        probe(film, ImageLimits(max_frames=4))


def test_pngs_of_iphone_apps_are_named() -> None:
    with pytest.raises(UnsupportedImage, match="CgBI"):
        probe(DATA[:8] + chunk(b"CgBI", bytes(4)) + DATA[8:])
