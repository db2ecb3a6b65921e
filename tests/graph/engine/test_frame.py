from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms
from toys import draw, encoded

from classifiers import BadImage, TooManyPixels
from classifiers.imaging.decoding import ImageLimits, OpenedImage
from graph import Frame

PHOTO = draw(("car", 10, 20, 60, 70), size=(100, 200))


def test_from_bytes_reads_the_header_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []
    monkeypatch.setattr("classifiers.imaging.decoding.OpenedImage.decode", lambda *arguments: decoded.append(arguments))
    frame = Frame.from_bytes(encoded(PHOTO, "JPEG", quality=95), uri="here.jpg")
    assert (frame.width, frame.height, frame.uri) == (200, 100, "here.jpg")
    assert decoded == []


def test_pixels_are_decoded_once_and_read_only() -> None:
    frame = Frame.from_bytes(encoded(PHOTO, "JPEG", quality=95))
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: frame.pixels(), range(16)))
    assert all(array is arrays[0] for array in arrays)
    assert arrays[0].shape == (100, 200, 3)
    assert np.abs(arrays[0].astype(int) - PHOTO).mean() < 3
    with pytest.raises(ValueError, match="read-only"):
        arrays[0][0, 0] = 0


def test_the_header_is_read_once_and_an_image_decoded_at_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    init = OpenedImage.__init__
    monkeypatch.setattr(OpenedImage, "__init__", lambda self, *a: (opened.append(self), init(self, *a))[1])
    frame = Frame.from_bytes(encoded(PHOTO, "JPEG"))
    assert frame.pixels().shape == (100, 200, 3)
    assert len(opened) == 1
    assert frame.reduced_pixels((50, 50))[0].shape == (50, 100, 3)
    assert pickle.loads(pickle.dumps(Frame.from_bytes(encoded(PHOTO, "JPEG")))).pixels().shape == (100, 200, 3)


def test_exif_orientation_turns_size_and_pixels() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    frame = Frame.from_bytes(encoded(PHOTO, "JPEG", exif=exif))
    assert (frame.width, frame.height) == (100, 200)
    assert frame.pixels().shape == (200, 100, 3)


def test_sha256_is_of_the_bytes_as_they_came() -> None:
    data = encoded(PHOTO, "JPEG", quality=95)
    assert Frame.from_bytes(data).sha256 == hashlib.sha256(data).hexdigest()


def test_arrays_are_told_apart_by_pixels_and_shape() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    hashes = {Frame.from_array(a).sha256 for a in (flat, flat.reshape(6, 4, 3), flat + 1)}
    assert len(hashes) == 3
    assert Frame.from_array(flat).sha256 == Frame.from_array(flat.copy()).sha256


def test_an_array_is_copied() -> None:
    array = PHOTO.copy()
    frame = Frame.from_array(array)
    array[:] = 0
    assert np.array_equal(frame.pixels(), PHOTO)
    assert not frame.pixels().flags.writeable


def test_a_pickle_carries_the_encoded_bytes_only() -> None:
    frame = Frame.from_bytes(encoded(PHOTO, "JPEG", quality=95), uri="here.jpg")
    before = len(pickle.dumps(frame))
    pixels = frame.pixels()
    data = pickle.dumps(frame)
    assert len(data) == before
    again = pickle.loads(data)
    assert (again.width, again.height, again.uri, again.sha256) == (200, 100, "here.jpg", frame.sha256)
    assert np.array_equal(again.pixels(), pixels)


def test_a_pickled_array_stays_read_only() -> None:
    again = pickle.loads(pickle.dumps(Frame.from_array(PHOTO)))
    assert np.array_equal(again.pixels(), PHOTO)
    assert not again.pixels().flags.writeable


def test_from_pil_turns_upright_and_converts() -> None:
    picture = PIL.Image.fromarray(PHOTO).convert("L")
    exif = picture.getexif()
    exif[0x0112] = 8
    assert Frame.from_pil(picture).pixels().shape == (200, 100, 3)


def test_from_pil_gives_the_pixels_that_the_file_gives() -> None:
    picture = PIL.Image.fromarray(PHOTO)
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swapped.replace(b"rXYZ", b"####", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"####", b"bXYZ", 1)
    with_alpha = picture.copy()
    with_alpha.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
    invisible = picture.copy()
    invisible.putalpha(0)
    for image, options in (
        (picture, {"icc_profile": swapped}),
        (picture.convert("P"), {"icc_profile": swapped}),
        (with_alpha, {}),
        (with_alpha, {"icc_profile": swapped}),
        (invisible, {}),
        (PIL.Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257), {}),
    ):
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        expected = Frame.from_bytes(file.getvalue()).pixels()
        np.testing.assert_array_equal(Frame.from_pil(PIL.Image.open(file)).pixels(), expected)
        if not options:
            np.testing.assert_array_equal(Frame.from_pil(image).pixels(), expected)


def test_from_pil_of_a_file_that_is_damaged_or_too_large() -> None:
    data = encoded(PHOTO, "JPEG", quality=95)
    with pytest.raises(BadImage, match="damaged or truncated"):
        Frame.from_pil(PIL.Image.open(io.BytesIO(data[: len(data) // 2])))
    with pytest.raises(TooManyPixels, match="the limit is 10"):
        Frame.from_pil(PIL.Image.open(io.BytesIO(data[: len(data) // 2])), ImageLimits(max_pixels=10))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: Frame.from_array(np.zeros((4, 4), np.uint8)),
            BadImage,
            r"\(H, W, 3\) RGB uint8.*but got uint8 \(4, 4\)",
        ),
        (lambda: Frame.from_array(np.zeros((4, 4, 3))), BadImage, "float64"),
        (lambda: Frame.from_array(np.zeros((0, 4, 3), np.uint8)), BadImage, "at least 1"),
        (lambda: Frame.from_array("photo"), BadImage, "but got str"),  # type: ignore[arg-type]
        (lambda: Frame.from_array(PHOTO, ImageLimits(max_pixels=10)), TooManyPixels, "20,000 pixels, the limit is 10"),
        (lambda: Frame.from_bytes(encoded(PHOTO, "JPEG", quality=95), ImageLimits(max_pixels=10)), TooManyPixels, "10"),
        (lambda: Frame.from_bytes(b"no image"), BadImage, "."),
    ],
)
def test_refuses(make: Callable[[], Frame], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_reduced_pixels_do_not_depend_on_what_was_decoded_before() -> None:
    data = encoded(draw(("car", 20, 30, 60, 70), size=(241, 323)), "JPEG")
    fresh, used = Frame.from_bytes(data), Frame.from_bytes(data)
    used.pixels()
    for frame in (fresh, used):
        pixels, factor = frame.reduced_pixels((60, 80))
        assert (pixels.shape, factor) == ((61, 81, 3), 4)
    assert np.array_equal(fresh.reduced_pixels((60, 80))[0], used.reduced_pixels((60, 80))[0])
    assert fresh.pixels().shape == (241, 323, 3)


def test_what_is_small_enough_or_no_jpeg_stays_whole() -> None:
    image = draw(("car", 20, 30, 60, 70))
    for frame in (Frame.from_bytes(encoded(image, "JPEG")), Frame.from_array(image)):
        pixels, factor = frame.reduced_pixels((200, 200))
        assert (pixels.shape, factor) == ((240, 320, 3), 1)
    assert Frame.from_bytes(encoded(image)).reduced_pixels((60, 80))[1] == 1
