from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from PIL import ImageCms

from classifiers.imaging.decoding import decode, from_pillow

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, BLUE = [255, 0, 0], [0, 0, 255]
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
P3_PRIMARIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)

FILES = [
    ("JPEG", {"quality": 100, "subsampling": 0}),
    ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}),
    ("MPO", {"quality": 100, "subsampling": 0}),
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]


def profile_with_red_and_blue_swapped() -> bytes:
    """A valid profile whose red is the blue of sRGB: it cannot be mistaken for another one."""
    tags = SRGB.replace(b"rXYZ", b"####", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"####", b"bXYZ", 1)
    assert tags != SRGB
    return tags


SWAPPED = profile_with_red_and_blue_swapped()


def encoded(image: PIL.Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def plain(colour: object = (255, 0, 0), mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.new(mode, (16, 16), colour)  # type: ignore[arg-type]


def is_close(pixels: npt.NDArray[np.uint8], colour: object, tolerance: int = 3) -> bool:
    return bool(np.abs(pixels[8, 8].astype(int) - np.array(colour)).max() <= tolerance)


def png(colour: tuple[int, int, int], *chunks: tuple[bytes, bytes]) -> bytes:
    data = encoded(plain(colour), "PNG")
    added = b"".join(
        struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:33] + added + data[33:]


def srgb_of_p3(colour: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    encoded_values = np.array(colour) / 255
    linear = np.where(encoded_values <= 0.04045, encoded_values / 12.92, ((encoded_values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(P3_TO_SRGB @ linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("image_format", "options"), FILES)
def test_the_profile_is_applied(image_format: str, options: dict[str, object]) -> None:
    data = encoded(plain(), image_format, icc_profile=SWAPPED, **options)
    assert is_close(decode(data), BLUE)
    assert is_close(from_pillow(PIL.Image.open(io.BytesIO(data))), BLUE)


def test_a_reduced_jpeg_has_the_same_colours() -> None:
    image = PIL.Image.new("RGB", (160, 160), (255, 0, 0))
    data = encoded(image, "JPEG", icc_profile=SWAPPED, quality=100)
    assert decode(data, at_least=(20, 20)).shape == (20, 20, 3)
    assert is_close(decode(data, at_least=(20, 20)), BLUE)


@pytest.mark.parametrize(("image_format", "options"), FILES)
@pytest.mark.parametrize("profile", [SRGB, b"no profile" * 20, SWAPPED[:300], SWAPPED[:128] + bytes(300)])
def test_srgb_and_broken_profiles_change_nothing(image_format: str, options: dict[str, object], profile: bytes) -> None:
    data = encoded(plain(), image_format, **options)
    with_profile = encoded(plain(), image_format, icc_profile=profile, **options)
    np.testing.assert_array_equal(decode(with_profile), decode(data))


def test_a_profile_that_is_ignored_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "classifiers"):
        decode(encoded(plain(), "PNG", icc_profile=b"not a profile at all"))
    assert "colour profile ignored" in caplog.text


def test_incomplete_and_malformed_profiles_of_a_jpeg_are_ignored() -> None:
    data = encoded(plain(), "JPEG")
    for content in (b"", b"\1", b"\1\2part of two", b"\0\0zero", b"\1\1" + SWAPPED[:100]):
        segment = b"\xff\xe2" + struct.pack(">H", 14 + len(content)) + b"ICC_PROFILE\0" + content
        np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), decode(data))


def test_a_profile_in_several_segments_in_any_order() -> None:
    data = encoded(plain(), "JPEG", quality=100)
    parts = [SWAPPED[:100], SWAPPED[100:300], SWAPPED[300:]]
    segments = [
        b"\xff\xe2" + struct.pack(">H", 16 + len(part)) + b"ICC_PROFILE\0" + bytes([number, 3]) + part
        for number, part in enumerate(parts, 1)
    ]
    assert is_close(decode(data[:2] + b"".join(reversed(segments)) + data[2:]), BLUE)


def test_a_profile_for_another_colour_space_is_ignored() -> None:
    assert is_close(decode(encoded(plain((10, 20, 30, 40), "CMYK"), "TIFF", icc_profile=SWAPPED)), [206, 198, 190], 8)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert is_close(decode(encoded(plain(), "PNG", icc_profile=lab)), RED)


def test_grey_with_the_profile_of_an_rgb_image() -> None:
    for image_format in ("JPEG", "PNG", "TIFF"):
        data = encoded(plain(100, "L"), image_format, icc_profile=SWAPPED)
        assert is_close(decode(data), [100] * 3), image_format


def gray_profile(gamma: float) -> bytes:
    curve = struct.pack(">4sLLH", b"curv", 0, 1, round(gamma * 256)).ljust(16, b"\0")
    white = struct.pack(">4sLlll", b"XYZ ", 0, 63190, 65536, 54061)
    tags = struct.pack(">L4sLL4sLL", 2, b"kTRC", 156, 16, b"wtpt", 172, 20)
    head = struct.pack(">L4sL4s4s4s", 192, bytes(4), 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    return head.ljust(68, b"\0").ljust(128, b"\0") + tags + curve + white


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_grey_profiles(image_format: str) -> None:
    data = encoded(plain(55, "L"), image_format, icc_profile=gray_profile(1.0))
    assert is_close(decode(data), [128] * 3)
    assert is_close(decode(encoded(plain(55, "L"), image_format, icc_profile=gray_profile(2.2))), [55] * 3, 4)


def test_colours_are_converted_before_they_are_laid_on_white() -> None:
    image = plain((255, 0, 0, 128), "RGBA")
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert is_close(decode(encoded(image, image_format, icc_profile=SWAPPED, **options)), [127, 127, 255])
    palette = plain().convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    assert is_close(decode(encoded(palette, "PNG", icc_profile=SWAPPED)), BLUE)


def test_a_bitmap_of_version_5_with_its_profile() -> None:
    header = struct.pack("<LllHHLLllLL", 124, 2, 1, 1, 24, 0, 8, 2835, 2835, 0, 0)
    header = header.ljust(56, b"\0") + b"DEBM"
    header = header.ljust(112, b"\0") + struct.pack("<LL", 124 + 8, len(SWAPPED))
    header = header.ljust(124, b"\0")
    file = b"BM" + struct.pack("<LLL", 14 + 124 + 8 + len(SWAPPED), 0, 138)
    data = file + header + bytes([0, 0, 255, 0, 0, 255, 0, 0]) + SWAPPED
    assert np.abs(decode(data)[0, 0].astype(int) - BLUE).max() <= 3


@pytest.mark.parametrize("colour", [(200, 100, 100), (40, 180, 90), (128, 128, 128), (10, 10, 200)])
def test_png_chunks_that_describe_display_p3(colour: tuple[int, int, int]) -> None:
    wanted = srgb_of_p3(colour)
    assert is_close(decode(png(colour, (b"cICP", b"\x0c\x0d\0\1"))), wanted)
    chromaticities = (b"cHRM", struct.pack(">8L", *P3_PRIMARIES))
    assert is_close(decode(png(colour, chromaticities, (b"gAMA", struct.pack(">L", 45455)))), wanted)
    # the one that stands first in the specification counts
    assert is_close(decode(png(colour, chromaticities, (b"sRGB", b"\0"))), colour, 0)
    assert is_close(decode(png(colour, (b"cICP", b"\1\x0d\0\1"), chromaticities)), colour, 0)


def test_png_gamma() -> None:
    def gamma(value: int) -> tuple[bytes, bytes]:
        return b"gAMA", struct.pack(">L", value)

    assert is_close(decode(png((55, 55, 55), gamma(100_000))), [128] * 3)
    for common in (45_455, 45_000, 47_000):
        assert is_close(decode(png((55, 155, 255), gamma(common))), [55, 155, 255], 0)
    for odd in (0, 1, 2**32 - 1):
        assert decode(png((55, 55, 55), gamma(odd))).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cHRM", bytes(32)),
        (b"cHRM", b"\xff" * 32),
        (b"cHRM", struct.pack(">8L", *[33_000] * 8)),
        (b"cHRM", b"short"),
        (b"gAMA", b""),
        (b"cICP", b"\x09\x10\0\1"),  # high dynamic range
        (b"cICP", b"\xff\xff\0\1"),
        (b"iCCP", b"name\0\0no zlib"),
        (b"iCCP", b"name"),
        (b"iCCP", b"name\0\0" + zlib.compress(bytes(50 * 2**20))),
        (b"iCCP", b""),
    ],
)
def test_png_chunks_of_no_use(chunk: tuple[bytes, bytes]) -> None:
    assert is_close(decode(png((200, 100, 50), chunk)), [200, 100, 50], 0)


def exif(*, interoperability: bytes, colour_space: int, order: str) -> bytes:
    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        packed = [struct.pack(f"{order}HHL", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries]
        return struct.pack(f"{order}H", len(entries)) + b"".join(packed) + bytes(4)

    def number(value: int) -> bytes:
        return struct.pack(f"{order}L", value)

    mark = b"II*\0" if order == "<" else b"MM\0*"
    first = directory((0x8769, 4, 1, number(26)))
    second = directory((0xA001, 3, 1, struct.pack(f"{order}H", colour_space)), (0xA005, 4, 1, number(56)))
    third = directory((1, 2, 4, interoperability))
    return b"Exif\0\0" + mark + number(8) + first + second + third


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_exif_mark_of_adobe_rgb(order: str) -> None:
    colour = (60, 180, 90)
    marked = exif(interoperability=b"R03\0", colour_space=0xFFFF, order=order)
    for image_format, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})):
        data = encoded(plain(colour), image_format, exif=marked, **options)
        red, green, _ = decode(data)[8, 8].astype(int)
        assert red < 10, image_format  # outside of sRGB
        assert abs(green - 181) <= 3, image_format
        np.testing.assert_array_equal(from_pillow(PIL.Image.open(io.BytesIO(data))), decode(data))
        for other in (
            exif(interoperability=b"R98\0", colour_space=1, order=order),
            exif(interoperability=b"R03\0", colour_space=1, order=order),
            marked[:40],
        ):
            assert is_close(decode(encoded(plain(colour), image_format, exif=other, **options)), colour)
    assert is_close(decode(encoded(plain(colour), "JPEG", exif=marked, icc_profile=SRGB, quality=100)), colour)
