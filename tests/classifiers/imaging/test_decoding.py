from __future__ import annotations

import csv
import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ImageCms, ImageOps

from classifiers import BadImage, InputError, TooManyBytes, TooManyPixels, UnsupportedImage
from classifiers.imaging.decoding import ImageHeader, ImageLimits, decode, probe

ORIENTATION = 0x0112
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
RED, WHITE = (255, 0, 0), (255, 255, 255)


def photo(width: int = 48, height: int = 32, mode: str = "RGB") -> PIL.Image.Image:
    """Smooth, with a different colour in each corner, so that it survives JPEG and shows which way up it is."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = np.stack([across, down, 1 - across * down], axis=-1) * 255
    return PIL.Image.fromarray(channels.round().astype(np.uint8)).convert(mode)


def encoded(image: PIL.Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def with_orientation(image_format: str, orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95} if image_format == "JPEG" else {}
    return encoded(photo(), image_format, exif=exif, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def insert_after_header(png: bytes, chunk: bytes) -> bytes:
    """The header is the first chunk and has 13 bytes of content."""
    end = 8 + 12 + 13
    return png[:end] + chunk + png[end:]


def tiff(width: int, height: int, strips: int) -> bytes:
    """A grey TIFF, uncompressed, with the strip offsets that are announced."""
    entries = (
        (256, 1, width),
        (257, 1, height),
        (258, 1, 8),
        (262, 1, 1),
        (273, strips, 200),
        (278, 1, 1),
        (279, 1, 1),
    )
    directory = b"".join(struct.pack("<HHLL", tag, 4, count, value) for tag, count, value in entries)
    head = b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + b"\0\0\0\0"
    return head.ljust(200, b"\0") + struct.pack("<L", 8) * min(strips, 1000)


def tiff_of(values: npt.NDArray[np.generic], **changed: int) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, samples), or (samples, H, W) where ``planar`` is 2."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    planar = changed.pop("planar", 1)
    shape = values.shape if values.ndim == 2 else values.shape[1:] if planar == 2 else values.shape[:2]
    samples = values.size // (shape[0] * shape[1])
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    strips = samples if planar == 2 else 1
    content = values.tobytes()
    start = 8 + 2 + 12 * 11 + 4
    offsets = struct.pack(f"{order}{strips}L", *(start + 64 + i * len(content) // strips for i in range(strips)))
    sizes = struct.pack(f"{order}{strips}L", *[len(content) // strips] * strips)
    bits = struct.pack(f"{order}{samples}H", *[changed.pop("bits", values.dtype.itemsize * 8)] * samples)
    kinds = struct.pack(f"{order}{samples}H", *[kind] * samples)
    photometric = changed.pop("photometric", 2 if samples == 3 else 1)

    def short(value: int) -> bytes:
        return struct.pack(f"{order}H", value)

    entries = [
        (256, 3, 1, short(shape[1])),
        (257, 3, 1, short(shape[0])),
        (258, 3, samples, bits),
        (259, 3, 1, short(changed.pop("compression", 1))),
        (262, 3, 1, short(photometric)),
        (273, 4, strips, offsets),
        (277, 3, 1, short(samples)),
        (278, 3, 1, short(shape[0])),
        (279, 4, strips, sizes),
        (284, 3, 1, short(planar)),
        (339, 3, samples, kinds),
    ]
    directory, extra = struct.pack(f"{order}H", len(entries)), b""
    for tag, tag_kind, count, value in entries:
        directory += struct.pack(f"{order}HHL", tag, tag_kind, count)
        directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(f"{order}L", start + len(extra))
        extra += value if len(value) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}L", 8) + directory + bytes(4) + extra.ljust(64, b"\0") + content


def assert_close(pixels: npt.NDArray[np.uint8], expected: PIL.Image.Image, tolerance: float = 0.0) -> None:
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).mean() <= tolerance


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("PNG", {}, 0),
        ("PNG", {"interlace": True}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 6),
        ("BMP", {}, 0),
        ("GIF", {}, 12),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_deflate"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 3),
    ],
)
def test_each_served_format(image_format: str, options: dict[str, object], tolerance: float) -> None:
    data = encoded(photo(), image_format, **options)

    assert probe(data) == ImageHeader(image_format, 48, 32)
    pixels = decode(data)

    assert_close(pixels, photo(), tolerance)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("P", "BMP"),
        ("1", "BMP"),
        ("L", "GIF"),
        ("1", "TIFF"),
        ("L", "TIFF"),
        ("P", "TIFF"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
    ],
)
def test_colour_modes_become_what_they_show(mode: str, image_format: str) -> None:
    image = photo(mode=mode)
    assert_close(decode(encoded(image, image_format)), image, 2)


def test_inverted_cmyk_of_adobe_is_not_a_negative() -> None:
    data = encoded(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data
    red, green, blue = decode(data)[4, 4].astype(int)
    assert red > 245
    assert max(green, blue) < 10


def test_lab_tiff() -> None:
    # L* 53, a* 80, b* 67 is the red of sRGB; Pillow keeps a* and b* as signed bytes.
    image = PIL.Image.frombytes("LAB", (1, 1), bytes([round(53.2 * 2.55), 80, 67]))
    red, green, blue = decode(encoded(image, "TIFF"))[0, 0].astype(int)
    assert red > 230
    assert max(green, blue) < 60


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_from_its_full_range(image_format: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    pixels = decode(encoded(PIL.Image.fromarray(values), image_format))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert not pixels.flags.writeable


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.25, 0.5, 0.25], [64, 128, 64]),
        ([0.0, 127.5, 255.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
    ],
)
def test_floats_are_scaled_from_zero_to_one_or_their_own_range(values: list[float], expected: list[int]) -> None:
    data = encoded(PIL.Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert decode(data)[0, :, 1].tolist() == expected


def test_thirty_two_bit_integers() -> None:
    data = encoded(PIL.Image.fromarray(np.array([[0, 50_000, 100_000]], dtype=np.int32)), "TIFF")
    assert decode(data)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(image_format: str) -> None:
    image = PIL.Image.new("RGBA", (3, 1), RED)
    image.putalpha(PIL.Image.frombytes("L", (3, 1), bytes([0, 128, 255])))
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    assert decode(encoded(image, image_format, **options))[0].tolist() == [
        [255, 255, 255],
        [255, 127, 127],
        [255, 0, 0],
    ]


def bitmap_with_alpha(pixels: bytes, width: int, height: int, header_bytes: int) -> bytes:
    """A bitmap of version 4 or 5 with BGRA pixels, from the bottom up."""
    header = struct.pack("<LllHHLLllLL", header_bytes, width, height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    header = header.ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<LLL", 14 + len(header) + len(pixels), 0, 14 + len(header)) + header + pixels


@pytest.mark.parametrize("header_bytes", [108, 124])
def test_alpha_of_a_bitmap(header_bytes: int) -> None:
    def bitmap(*alphas: int) -> list[list[int]]:
        pixels = b"".join(bytes([0, 0, 255, alpha]) for alpha in alphas)
        return decode(bitmap_with_alpha(pixels, len(alphas), 1, header_bytes))[0].tolist()

    assert bitmap(0, 0, 0) == [[255, 0, 0]] * 3
    assert bitmap(255, 255) == [[255, 0, 0]] * 2
    assert bitmap(0, 128, 255) == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_an_alpha_channel_that_is_0_everywhere_is_ignored(image_format: str, options: dict[str, object]) -> None:
    image = photo()
    image.putalpha(0)
    assert_close(decode(encoded(image, image_format, **options)), photo())
    image.putpixel((0, 0), (0, 0, 0, 1))
    assert decode(encoded(image, image_format, **options))[1, 1].tolist() == [255, 255, 255]


def test_a_palette_whose_alpha_is_0_everywhere() -> None:
    image = photo().quantize(64)
    assert_close(decode(encoded(image, "PNG", transparency=bytes(64))), image.convert("RGB"))


def test_grey_whose_alpha_is_0_everywhere() -> None:
    image = PIL.Image.merge("LA", (photo(mode="L"), PIL.Image.new("L", (48, 32), 0)))
    assert_close(decode(encoded(image, "PNG")), photo(mode="L"))


def test_grey_with_alpha() -> None:
    image = PIL.Image.frombytes("LA", (2, 1), bytes([10, 0, 10, 255]))
    assert decode(encoded(image, "PNG"))[0].tolist() == [[255] * 3, [10] * 3]


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_transparent_palette_entry(image_format: str) -> None:
    image = PIL.Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([*RED, 0, 0, 255])
    data = encoded(image, image_format, transparency=1)
    assert decode(data)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (PIL.Image.frombytes("RGB", (2, 1), bytes([255, 0, 0, 0, 0, 255])), (0, 0, 255)),
        (PIL.Image.fromarray(np.array([[65535, 300]], dtype=np.uint16)), 300),
    ],
)
def test_transparent_colour_without_alpha_channel(image: PIL.Image.Image, transparency: object) -> None:
    assert decode(encoded(image, "PNG", transparency=transparency))[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    data = with_orientation(image_format, orientation)
    upright = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))

    header, pixels = probe(data), decode(data)

    assert_close(pixels, upright)
    assert (header.height, header.width) == pixels.shape[:2]
    assert pixels.flags.c_contiguous


def test_png_exif_after_the_pixels_counts() -> None:
    tiff_block = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHLHH", ORIENTATION, 3, 1, 6, 0) + b"\0\0\0\0"
    png = encoded(photo(), "PNG")
    end = png.rindex(b"IEND") - 4
    data = png[:end] + png_chunk(b"eXIf", tiff_block) + png[end:]
    assert probe(data) == ImageHeader("PNG", 32, 48)
    assert_close(decode(data), photo().transpose(PIL.Image.Transpose.ROTATE_270))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"XX*\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHLL", 0x010F, 2, 4, 0),
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLL", ORIENTATION, 3, 1, 9),
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLL", ORIENTATION, 3, 1, 0),
    ],
)
def test_unreadable_exif_costs_the_orientation_only(block: bytes) -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0" + block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns while it looks for a resolution
        assert probe(data) == ImageHeader("JPEG", 48, 32)
        assert decode(data).shape == (32, 48, 3)


@pytest.mark.parametrize(("mark", "order"), [(b"II*\0", "<"), (b"MM\0*", ">")])
def test_orientation_written_as_long(mark: bytes, order: str) -> None:
    block = mark + struct.pack(f"{order}LHHHLLL", 8, 1, ORIENTATION, 4, 1, 6, 0)
    assert probe(encoded(photo(), "JPEG", exif=b"Exif\0\0" + block)) == ImageHeader("JPEG", 32, 48)


def test_only_the_first_frame_is_decoded() -> None:
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    for image_format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if image_format == "WEBP" else {}
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        assert decode(data, ImageLimits(max_frames=3))[4, 4].tolist() == [255, 0, 0], image_format
        with pytest.raises(TooManyPixels, match="3 frames, the limit is 2") as caught:
            probe(data, ImageLimits(max_frames=2))
        assert caught.value.fields == {"limit": 2}


def test_photos_with_a_preview_count_as_one_frame() -> None:
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo()])
    assert probe(data, ImageLimits(max_frames=1)) == ImageHeader("JPEG", 48, 32)


def test_too_many_bytes() -> None:
    data = encoded(photo(), "PNG")
    assert decode(data, ImageLimits(max_bytes=len(data))).shape == (32, 48, 3)
    for check in (probe, decode):
        with pytest.raises(TooManyBytes, match=f"{len(data)} bytes, the limit is {len(data) - 1}") as caught:
            check(data, ImageLimits(max_bytes=len(data) - 1))
        assert caught.value.fields == {"limit": len(data) - 1}


@pytest.mark.parametrize("image_format", FORMATS)
def test_too_many_pixels_is_told_from_the_header(image_format: str) -> None:
    data = encoded(photo(200, 150), image_format)
    assert decode(data, ImageLimits(max_pixels=30_000)).shape == (150, 200, 3)
    if image_format not in ("WEBP", "TIFF"):  # these have a directory that must be whole
        data = data[: len(data) * 3 // 4]  # had pixels been decoded, the image would be a bad one
    for check in (probe, decode):
        with pytest.raises(TooManyPixels, match=r"200 x 150 = 30000 pixels, the limit is 29999") as caught:
            check(data, ImageLimits(max_pixels=29_999))
        assert caught.value.fields == {"limit": 29_999}


def test_decompression_bombs_of_a_few_bytes() -> None:
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">LLBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    png += png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    vp8x = b"VP8X" + struct.pack("<L", 10) + b"\0\0\0\0" + (16383).to_bytes(3, "little") + (16383).to_bytes(3, "little")
    webp = b"RIFF" + struct.pack("<L", len(vp8x) + 4) + b"WEBP" + vp8x
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    bmp = b"BM" + struct.pack("<LLLLllHHLLllLL", 54, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
    for data in (png, webp, gif, bmp, tiff(100_000, 100_000, 1)):
        for check in (probe, decode):
            with pytest.raises(TooManyPixels) as caught:
                check(data)
            assert caught.value.fields == {"limit": 50_000_000}


def test_warning_of_pillow_as_error_is_translated() -> None:
    data = tiff(10_000, 10_000, 1)
    limits = ImageLimits(max_pixels=170_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooManyPixels) as caught:
            decode(data, limits)
    assert caught.value.fields == {"limit": 170_000_000}


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(image_format: str, share: float) -> None:
    data = encoded(photo(200, 150), image_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of tags that are cut off
        with pytest.raises(BadImage, match=r"damaged or truncated|not an image"):
            decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the image is empty: 0 bytes"),
        (b"hello world", "not an image: the bytes start with b'hello wo'"),
        (b"<!doctype html><html><body><svg/></body></html>", "not an image"),
        (b"<?xml version='1.0'?><note/>", "not an image"),
        (b"\xff\xd8\xff", "JPEG cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "PNG cannot be decoded"),
        (b"BM", "BMP cannot be decoded"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP cannot be decoded"),
        (b"GIF89a", "GIF cannot be decoded"),
        (b"II*\0", "TIFF cannot be decoded"),
        (bytes(range(1, 200)), "not an image"),
    ],
)
def test_not_an_image(data: bytes, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in (probe, decode):
            with pytest.raises(BadImage, match=message):
                check(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", r"Canon raw \(CR3\)"),
        (b"\0\0\2\0\0\0\0\0", "Targa"),
        (b"\0\0\2\0\1\0\x20\x20", "Windows cursor"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "MP4 or QuickTime video"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\1\0\1\0", "Windows icon"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"MM\0+\0\x08", "BigTIFF"),
        (b"P6\n2 2\n255\n", "Netpbm"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn -->\n<SVG/>", "SVG"),
    ],
)
def test_known_types_that_are_not_served(data: bytes, name: str) -> None:
    for check in (probe, decode):
        with pytest.raises(UnsupportedImage, match=f"{name} is not served; send BMP, GIF, JPEG") as caught:
            check(data)
        assert caught.value.fields == {"format": name.replace("\\", "")}


def test_files_of_countless_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("jpeg._MAX_SEGMENTS", "png._MAX_CHUNKS", "decoding._MAX_READS"):
        monkeypatch.setattr(f"classifiers.imaging.{limit}", 5_000)
    jpeg, gif = encoded(photo(), "JPEG"), encoded(photo(), "GIF")
    hostile = [
        insert_after_header(encoded(photo(), "PNG"), png_chunk(b"prIv", b"") * 5_000),
        jpeg[:2] + b"\xff\xfe\0\2" * 5_000 + jpeg[2:],
        gif[:-1] + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0" * 5_000 + b";",
    ]
    for data in hostile:
        with pytest.raises(BadImage, match="more than 5000 parts"):
            probe(data)


def test_large_pngs_have_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifiers.imaging.png._MAX_CHUNKS", 5_000)  # a tenth of what is allowed for 32 MiB
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    data = encoded(PIL.Image.fromarray(noise), "PNG", compress_level=0)
    assert decode(data).shape == (1000, 1000, 3)


def test_progressive_jpeg_with_hundreds_of_scans() -> None:
    data = encoded(photo(640, 480), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert probe(data[:-2] + last_scan * 50 + data[-2:]).width == 640
    with pytest.raises(BadImage, match="more than 100 scans"):
        probe(data[:-2] + last_scan * 100 + data[-2:])


def test_film_behind_a_jpeg_does_not_count_as_scans() -> None:
    data = encoded(photo(), "JPEG")
    with_film = data + b"\xff\xda" * 500
    assert (decode(with_film) == decode(data)).all()
    with_comment = data[:2] + b"\xff\xfe" + (1002).to_bytes(2) + b"\xff\xda" * 500 + data[2:]
    assert (decode(with_comment) == decode(data)).all()


def test_tiff_of_millions_of_strips() -> None:
    assert decode(tiff(1, 2, 2)).shape == (2, 1, 3)
    with pytest.raises(BadImage, match="200000 strips or tiles, more than 100000"):
        probe(tiff(1, 200_000, 200_000))


@pytest.mark.parametrize("order", ["<", ">"])
def test_kinds_of_tiff(order: str) -> None:
    grey = np.arange(6).reshape(2, 3)
    colours = np.arange(18).reshape(2, 3, 3) * 10
    assert (decode(tiff_of(grey.astype("u1")))[..., 0] == grey).all()
    assert (decode(tiff_of(colours.astype("u1"))) == colours).all()
    assert (decode(tiff_of(np.moveaxis(colours, 2, 0).astype("u1"), planar=2)) == colours).all()
    assert (decode(tiff_of((grey * 257).astype(f"{order}u2")))[..., 0] == grey).all()
    assert (decode(tiff_of((colours * 257).astype(f"{order}u2"))) == colours).all()
    unserved: list[tuple[npt.NDArray[np.generic], dict[str, int], str]] = [
        (grey.astype(f"{order}f8"), {}, "TIFF with 64-bit floating-point numbers"),
        (grey.astype(f"{order}f2"), {}, "TIFF with 16-bit floating-point numbers"),
        (grey.astype(f"{order}c8"), {}, "TIFF with 64-bit complex numbers"),
        (grey.astype(f"{order}u8"), {}, "TIFF with 64-bit integers"),
        (grey.astype(f"{order}u2"), {"bits": 12}, "TIFF with 12-bit integers"),
        (grey.astype(f"{order}u2"), {"photometric": 0}, "TIFF with 16-bit integers where 0 is white"),
        (colours.astype(f"{order}f4"), {}, "TIFF with 3 x 32-bit floating-point numbers"),
        (colours.astype(f"{order}i2"), {}, "TIFF with 3 x 16-bit signed integers"),
        (
            np.moveaxis(colours * 257, 2, 0).astype(f"{order}u2"),
            {"planar": 2},
            "TIFF with 3 x 16-bit integers in separate planes",
        ),
        (grey.astype("i1"), {}, "TIFF with 8-bit signed integers"),
        (colours.astype("i1"), {}, "TIFF with 3 x 8-bit signed integers"),
        (colours.astype("u1"), {"photometric": 9}, "TIFF with 3 x 8-bit integers of photometric kind 9"),
        (colours.astype("u1"), {"compression": 34933}, "TIFF with 3 x 8-bit integers compressed by scheme 34933"),
        (grey.astype("u1"), {"compression": 34712}, "TIFF compressed with JPEG 2000"),
        (grey.astype("u1"), {"compression": 34887}, "TIFF compressed with LERC"),
    ]
    for values, changed, name in unserved:
        for check in (probe, decode):
            with pytest.raises(UnsupportedImage, match=f"{name} is not supported; convert it"):
                check(tiff_of(values, **changed))


def test_unsigned_integers_of_32_bits() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], "<u4")
    assert decode(tiff_of(values))[0, :, 0].tolist() == [0, 128, 255]


def test_a_truncated_tiff_is_no_kind_of_its_own() -> None:
    data = encoded(photo(), "TIFF", compression="tiff_lzw")
    for cut in (5, 100, len(data) // 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of tags that are cut off
            with pytest.raises(BadImage, match="damaged or truncated"):
                decode(data[:-cut])


def test_bitmaps_with_another_format_in_them() -> None:
    data = bytearray(encoded(photo(), "BMP"))
    for compression, name in ((4, "a JPEG in it"), (5, "a PNG in it")):
        data[30] = compression
        with pytest.raises(UnsupportedImage, match=f"BMP with {name} is not supported"):
            probe(bytes(data))


def test_raw_photos_whose_first_image_is_a_preview() -> None:
    preview = struct.pack("<HHHLL", 1, 0x00FE, 4, 1, 1)[2:] + struct.pack("<HHLL", 0x014A, 4, 1, 8)
    for data in (
        b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + preview + bytes(4),  # DNG, NEF
        b"II*\0\x10\0\0\0CR\2\0" + bytes(20),
    ):
        with pytest.raises(UnsupportedImage, match="raw photo of a camera"):
            probe(data)


@pytest.mark.parametrize(
    ("offset", "changed", "kind"),
    [
        (14, struct.pack("<L", 16), "header type"),
        (28, struct.pack("<H", 2), "pixel depth"),
        (30, struct.pack("<L", 6), "compression"),
        (28, struct.pack("<HL", 32, 3), "bitfields layout"),
    ],
)
def test_kinds_of_bitmaps_that_are_not_read_are_named(offset: int, changed: bytes, kind: str) -> None:
    data = encoded(photo(), "BMP")
    data = data[:offset] + changed + data[offset + len(changed) :]
    with pytest.raises(UnsupportedImage, match=f"BMP {kind}.* is not supported"):
        probe(data)


def test_a_gif_without_its_end_marker() -> None:
    data = encoded(photo(), "GIF")
    assert (decode(data[:-1]) == decode(data)).all()


def test_image_open_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(*args: object, **kwargs: object) -> None:
        raise AssertionError("ultralytics' Image.open installs packages")

    data = encoded(photo(), "PNG")
    monkeypatch.setattr(PIL.Image, "open", patched)
    assert decode(data).shape == (32, 48, 3)
    with pytest.raises(BadImage):
        decode(data[:60])


def test_with_ultralytics_imported_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = pytest.importorskip("ultralytics.utils.patches")
    assert PIL.Image.open is patches.image_open
    monkeypatch.setattr("ultralytics.utils.checks.check_requirements", lambda *_: pytest.fail("asked to install"))
    with pytest.raises(BadImage):
        decode(b"hellohello" * 50)
    with pytest.raises(BadImage):
        decode(encoded(photo(), "JPEG")[:100])
    assert "pi_heif" not in sys.modules


def test_many_threads() -> None:
    files = [encoded(photo(100 + i, 60), image_format) for i, image_format in enumerate(FORMATS * 8)]
    expected = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(decode, files), expected, strict=True):
            assert (got == wanted).all()


SEEDS = [
    *(encoded(photo(), image_format) for image_format in FORMATS),
    encoded(photo(), "JPEG", progressive=True),
    encoded(photo(mode="CMYK"), "JPEG"),
    encoded(photo(mode="P"), "PNG", transparency=3),
    encoded(PIL.Image.fromarray(np.arange(512, dtype=np.uint16).reshape(16, 32)), "PNG"),
    encoded(photo(mode="RGBA"), "WEBP", lossless=True),
    encoded(photo(mode="RGBA"), "TIFF", compression="tiff_lzw"),
    encoded(photo(), "GIF", save_all=True, append_images=[photo()]),
    *(with_orientation(image_format, 6) for image_format in ("JPEG", "PNG", "WEBP", "TIFF")),
]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    in_head=st.booleans(),
    keep=st.floats(0.2, 1) | st.just(1.0),
)
def test_mutated_files_end_as_pixels_or_as_our_errors(
    seed: bytes, edits: list[tuple[float, int]], in_head: bool, keep: float
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[int(place * (min(len(data), 120) if in_head else len(data)))] = value
    mutated = bytes(data[: int(len(data) * keep)])
    limits = ImageLimits(max_pixels=1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = probe(mutated, limits)
            pixels = decode(mutated, limits)
        except InputError:
            return
    assert pixels.shape == (header.height, header.width, 3)
    assert pixels.dtype == np.uint8


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data)


def test_real_photos(shared_data: Path) -> None:
    with (shared_data / "corpus" / "manifest.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if not row["file"].startswith("bad_")]
    assert len(names) > 30
    for name in names:
        data = (shared_data / "corpus" / name).read_bytes()
        expected = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
        if profile := expected.info.get("icc_profile"):
            expected = ImageCms.profileToProfile(
                expected, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        elif expected.mode in ("RGBA", "P"):
            white = PIL.Image.new("RGBA", expected.size, WHITE)
            expected = PIL.Image.alpha_composite(white, expected.convert("RGBA"))
        pixels = decode(data)
        header = probe(data)
        assert pixels.shape == (header.height, header.width, 3), name
        assert_close(pixels, expected, 0.5)


@pytest.mark.parametrize("name", ["bad_not_an_image.jpg", "bad_truncated_bus.jpg"])
def test_real_bad_files(shared_data: Path, name: str) -> None:
    with pytest.raises(BadImage):
        decode((shared_data / "corpus" / name).read_bytes())


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0, "quality": 100}),
        ("RGB", {"subsampling": 1, "optimize": True}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"keep_rgb": True, "subsampling": 0}),
        ("L", {}),
        ("L", {"progressive": True}),
        ("CMYK", {}),
        ("CMYK", {"progressive": True}),
    ],
)
@pytest.mark.parametrize("size", [(47, 33), (1, 1)])
def test_jpegs_have_the_pixels_that_pillow_gives(mode: str, options: dict[str, object], size: tuple[int, int]) -> None:
    data = encoded(photo(*size, mode=mode), "JPEG", **options)
    for at_least in (None, *[(-(-size[1] // divisor), -(-size[0] // divisor)) for divisor in (1, 2, 4, 8)]):
        pillow = PIL.Image.open(io.BytesIO(data))
        if at_least is not None:
            pillow.draft(None, at_least[::-1])

        np.testing.assert_array_equal(decode(data, at_least=at_least), np.asarray(pillow.convert("RGB")))


@pytest.mark.parametrize(
    ("at_least", "size"),
    [((30, 40), (30, 40)), ((31, 40), (60, 80)), ((61, 80), (120, 160)), ((15, 20), (30, 40)), ((121, 10), (240, 320))],
)
def test_a_jpeg_is_decoded_at_the_smallest_fraction_that_is_enough(
    at_least: tuple[int, int], size: tuple[int, int]
) -> None:
    whole = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)).resize((320, 240))
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=95)
    reduced = decode(file.getvalue(), at_least=at_least)
    assert reduced.shape[:2] == size
    assert not reduced.flags.writeable
    expected = np.asarray(whole.resize(size[::-1], PIL.Image.Resampling.BOX), np.int16)
    assert np.abs(expected - reduced).mean() < 4


def test_a_reduced_jpeg_is_upright_and_other_formats_are_whole() -> None:
    image = PIL.Image.new("RGB", (320, 240))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), at_least=(80, 30)).shape == (80, 60, 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert decode(file.getvalue(), at_least=(30, 40)).shape == (240, 320, 3)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("v5-alpha0.bmp", "text-chunk-bad-crc.png"),
        ("xmp-1.2MB-itxt.png", "text-chunk-bad-crc.png"),
        ("display-p3.jpg", "srgb.jpg"),
        ("rgb16-planar.tif", "TIFF with 3 x 16-bit integers in separate planes is not supported"),
        ("float64.tif", "TIFF with 64-bit floating-point numbers is not supported"),
    ],
)
def test_inputs_from_the_field(shared_data: Path, name: str, like: str) -> None:
    data = (shared_data / "field" / name).read_bytes()
    if " " in like:
        with pytest.raises(UnsupportedImage, match=like):
            decode(data)
    else:
        expected = decode((shared_data / "field" / like).read_bytes())
        assert np.abs(decode(data).astype(int) - expected).mean() < 1.5
