from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import simplejpeg

from classifiers import BadImage, UnsupportedImage
from classifiers.imaging.decoding import decode, probe

END = b"\xff\xd9"
SCAN = b"\xff\xda"


def picture(width: int = 240, height: int = 180, mode: str = "RGB") -> PIL.Image.Image:
    """Smooth shapes and some noise, so that each block has something to decode."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = np.stack([across, down, np.sin(20 * across * down)], axis=-1) * 100 + 80
    noise = np.random.default_rng(0).normal(0, 12, channels.shape)
    return PIL.Image.fromarray((channels + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: PIL.Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(code: int, content: bytes) -> bytes:
    return b"\xff" + bytes([code]) + (len(content) + 2).to_bytes(2) + content


JPEGS = {
    "baseline": encoded(picture()),
    "progressive": encoded(picture(), progressive=True),
    "restart markers": encoded(picture(), restart_marker_rows=1),
    "optimized": encoded(picture(), optimize=True, quality=60),
    "grey": encoded(picture(mode="L")),
    "CMYK": encoded(picture(mode="CMYK")),
    "4:1:1": simplejpeg.encode_jpeg(np.asarray(picture()).copy(), colorsubsampling="411"),
    "4:4:0": simplejpeg.encode_jpeg(np.asarray(picture()).copy(), colorsubsampling="440"),
}
kinds = pytest.mark.parametrize("kind", JPEGS)
reductions = pytest.mark.parametrize("at_least", [None, (90, 120), (20, 30)])


def coded_middle(data: bytes) -> int:
    return (data.index(SCAN) + len(data)) // 2


def overwritten(data: bytes, start: int, with_: bytes) -> bytes:
    return (data[:start] + with_ + data[start + len(with_) :])[: len(data) - 2] + data[-2:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda data: data[: coded_middle(data)],
    "cut in the middle, end marker set": lambda data: data[: coded_middle(data)] + END,
    "last coded bytes lost": lambda data: data[:-4],
    "last coded bytes lost, end marker kept": lambda data: data[:-4] + END,
    "zeros from the middle": lambda data: data[: coded_middle(data)] + bytes(len(data) - coded_middle(data)),
    "0xFF from the middle": lambda data: data[: coded_middle(data)] + b"\xff" * (len(data) - coded_middle(data)),
    "hole": lambda data: overwritten(data, coded_middle(data), bytes(3000)),
    "bytes lost": lambda data: data[: coded_middle(data)] + data[coded_middle(data) + 1500 :],
    "noise": lambda data: overwritten(data, coded_middle(data), random.Random(1).randbytes(1500)),
    "text in it": lambda data: data[: coded_middle(data)] + b"HTTP/1.1 200 OK\r\n" * 40 + data[coded_middle(data) :],
}


@kinds
@pytest.mark.parametrize("damage", DAMAGES)
@reductions
def test_damaged_ones_are_refused(kind: str, damage: str, at_least: tuple[int, int] | None) -> None:
    damaged = DAMAGES[damage](JPEGS[kind])
    with pytest.raises(BadImage, match=r"damaged|truncated"):
        decode(damaged, at_least=at_least)


COMPLETE: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "no end marker": lambda data: data[:-2],
    "half an end marker": lambda data: data[:-1],
    "no end marker, filled up": lambda data: data[:-2] + bytes(4096),
    "fill before the end marker": lambda data: data[:-2] + b"\0" * 100 + END,
    "little fill before the end marker": lambda data: data[:-2] + bytes(3) + END,
    "marker fill before the end marker": lambda data: data[:-2] + b"\xff" * 100 + END,
    "rubbish behind": lambda data: data + b"rubbish \xff\xda" * 200,
    "film behind": lambda data: data + b"\0\0\0\x18ftypmp42" + bytes(5000),
    "another one behind": lambda data: data + data[: len(data) // 2],
    "rubbish between segments": lambda data: data.replace(b"\xff\xdb", b"rubbish\xff\xdb").replace(
        SCAN, b"rubbish" + SCAN, 1
    ),
    "large application data": lambda data: (
        data[:2]
        + b"".join(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) for _ in range(20))
        + data[2:]
    ),
    "EXIF in several segments": lambda data: (
        data[:2] + 2 * segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(60_000)) + data[2:]
    ),
    "thumbnail": lambda data: data[:2] + segment(0xE1, b"Exif\0\0" + JPEGS["progressive"][:9000]) + data[2:],
    "malformed profile": lambda data: data[:2] + segment(0xE2, b"ICC_PROFILE\0\1\2part") + data[2:],
    "comment": lambda data: data[:2] + segment(0xFE, b"\xff\xd9\xff\xda") + data[2:],
}


@kinds
@pytest.mark.parametrize("habit", COMPLETE)
@reductions
def test_complete_ones_are_accepted(kind: str, habit: str, at_least: tuple[int, int] | None) -> None:
    sound = JPEGS[kind]
    np.testing.assert_array_equal(decode(COMPLETE[habit](sound), at_least=at_least), decode(sound, at_least=at_least))


@pytest.mark.parametrize("end", [b"", END])
def test_progressive_ones_that_lack_scans_are_refused(end: bytes) -> None:
    data = JPEGS["progressive"]
    for scan in [match.start() for match in re.finditer(SCAN, data)][1:]:
        cut = data.rindex(b"\xff\xc4", 0, scan)  # the scan's Huffman table
        with pytest.raises(BadImage, match="truncated"):
            decode(data[:cut] + end)
        assert probe(data[:cut] + end).width == 240


def test_fill_of_coded_data_that_ends_in_a_stuffed_byte() -> None:
    for seed in range(600):
        values = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
        data = encoded(PIL.Image.fromarray(values), quality=90)
        if data[-4:] == b"\xff\0" + END:
            break
    else:
        pytest.fail("no such JPEG in 600")
    np.testing.assert_array_equal(decode(data[:-2] + bytes(64)), decode(data))


def test_parameters_that_a_sequential_scan_has_no_use_for() -> None:
    data = JPEGS["baseline"]
    start = data.index(SCAN)
    assert data[start + 11 : start + 14] == b"\0\x3f\0"
    np.testing.assert_array_equal(decode(data[: start + 11] + b"\0\0\0" + data[start + 14 :]), decode(data))


def test_subsampling_without_a_name() -> None:
    # Sampled alike, and different from 1 x 1 only in the order of the blocks, which are all the same.
    data = encoded(PIL.Image.new("RGB", (32, 32), (128, 128, 128)), subsampling=0, optimize=True)
    frame = data.index(b"\xff\xc0")
    sampled = bytearray(data)
    for component in range(3):
        sampled[frame + 11 + 3 * component] = 0x21
    assert (decode(bytes(sampled)) == 128).all()
    assert decode(bytes(sampled), at_least=(16, 16)).shape == (16, 16, 3)
    with pytest.raises(BadImage):
        decode(bytes(sampled[:-4]))


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (b"\xff\xc1\0\x11\x0c", "12-bit JPEG"),
        (b"\xff\xc0\0\x11\x10", "16-bit JPEG"),
        (b"\xff\xc3\0\x11\x08", "lossless JPEG"),
        (b"\xff\xf7\0\x11\x08", "JPEG-LS"),
        (b"\xff\xc5\0\x11\x08", "hierarchical JPEG"),
    ],
)
def test_kinds_that_are_not_served(frame: bytes, name: str) -> None:
    data = JPEGS["baseline"].replace(b"\xff\xc0\0\x11\x08", frame)
    for check in (probe, decode):
        with pytest.raises(UnsupportedImage, match=f"{name} is not supported; convert it") as caught:
            check(data)
        assert caught.value.fields == {"format": name}


def test_height_and_components_that_are_not_served() -> None:
    data = JPEGS["baseline"]
    frame = data.index(b"\xff\xc0")
    with pytest.raises(UnsupportedImage, match="height after the pixels"):
        probe(data[: frame + 5] + b"\0\0" + data[frame + 7 :])
    with pytest.raises(UnsupportedImage, match="2 components"):
        probe(data[: frame + 9] + b"\2" + data[frame + 10 :])


def test_a_second_size_is_refused() -> None:
    data = JPEGS["baseline"]
    frame = data.index(b"\xff\xc0")
    larger = data[frame : frame + 5] + b"\x40\0\x40\0" + data[frame + 9 : frame + 19]
    with pytest.raises(BadImage):
        decode(data[:frame] + larger + data[frame:])


def test_real_photos_are_accepted(shared_data: Path) -> None:
    photos = [
        *sorted((shared_data / "detect").rglob("*.jpg"))[::8],
        *sorted((shared_data / "cars").rglob("*.jpg"))[::200],
    ]
    assert len(photos) > 100
    for path in photos:
        data = path.read_bytes()
        assert decode(data, at_least=(64, 64)).size, path
        assert decode(data[:-2], at_least=(64, 64)).size, path


@pytest.mark.parametrize(
    ("name", "is_sound"),
    [("no-eoi.jpg", True), ("zeros-from-the-middle.jpg", False), ("60-bytes-overwritten.jpg", False)],
)
def test_inputs_from_the_field(shared_data: Path, name: str, is_sound: bool) -> None:
    data = (shared_data / "field" / name).read_bytes()
    if is_sound:
        assert decode(data).size
    else:
        with pytest.raises(BadImage, match="damaged"):
            decode(data)
