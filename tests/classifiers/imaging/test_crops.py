from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.imaging.crops import LETTERBOX_GREY, crop

Image = npt.NDArray[np.uint8]


def numbered(height: int = 8, width: int = 10) -> Image:
    """Every pixel says where it is: (row, column, 7)."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)
    image.setflags(write=False)
    return image


def extent(image: Image) -> tuple[int, int, int, int]:
    """The box that a crop of ``numbered`` shows."""
    return int(image[0, 0, 1]), int(image[0, 0, 0]), int(image[-1, -1, 1]) + 1, int(image[-1, -1, 0]) + 1


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((2, 1, 5, 4), (2, 1, 5, 4)),
        ((2.4, 1.2, 4.1, 3.5), (2, 1, 5, 4)),
        ((2.0, 1.0, 5.0000000001, 3.9999999999), (2, 1, 5, 4)),
        ((1.9999999999, 0.9999999999, 5, 4), (2, 1, 5, 4)),
        ((0, 0, 10, 8), (0, 0, 10, 8)),
        ((-3, -2, 4, 3), (0, 0, 4, 3)),
        ((6, 5, 40, 30), (6, 5, 10, 8)),
        ((5, 4, 2, 1), (2, 1, 5, 4)),
        ((3, 3, 3, 3), (3, 3, 4, 4)),
        ((3.2, 3.2, 3.2, 3.2), (3, 3, 4, 4)),
        ((10, 8, 10, 8), (9, 7, 10, 8)),
        ((-9, -9, -5, -5), (0, 0, 1, 1)),
        ((50, 60, 55, 66), (9, 7, 10, 8)),
        ((4, -9, 6, -5), (4, 0, 6, 1)),
    ],
)
def test_box_is_rounded_outward_and_clipped(bbox: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert extent(crop(numbered(), bbox)) == expected


@pytest.mark.parametrize(
    ("padding", "expected"),
    [(0.0, (4, 2, 6, 6)), (0.5, (3, 0, 7, 8)), (0.25, (3, 1, 7, 7)), (5.0, (0, 0, 10, 8))],
)
def test_padding_is_a_share_of_the_box(padding: float, expected: tuple[int, ...]) -> None:
    assert extent(crop(numbered(), (4, 2, 6, 6), padding=padding)) == expected


def test_padding_does_not_add_a_row_for_floating_point_noise() -> None:
    # 0.1 * 3 is 0.30000000000000004.
    assert extent(crop(numbered(), (3.3, 3.3, 6.3, 6.3), padding=0.1)) == (3, 3, 7, 7)


@pytest.mark.parametrize("size", [None, (4, 4)])
def test_result_is_a_read_only_copy(size: tuple[int, int] | None) -> None:
    image = np.array(numbered())
    cut = crop(image, (0, 0, 10, 8), size)
    before = cut.copy()
    image[:] = 0
    assert (cut == before).all()
    assert cut.dtype == np.uint8
    assert cut.flags.c_contiguous
    assert not cut.flags.writeable


def test_box_of_the_size_asked_for_is_not_resampled() -> None:
    image = numbered()
    for resize in ("stretch", "letterbox", "center_crop"):
        assert (crop(image, (2, 1, 6, 7), (6, 4), resize) == image[1:7, 2:6]).all()


def test_shrinking_averages_over_areas() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::4] = 200
    assert (crop(stripes, (0, 0, 16, 16), (4, 4)) == 50).all()


def test_growing_interpolates_linearly() -> None:
    step = np.zeros((1, 2, 3), np.uint8)
    step[0, 1] = 200
    grown = crop(step, (0, 0, 2, 1), (1, 8))
    assert (grown == cv2.resize(step, (8, 1), interpolation=cv2.INTER_LINEAR)).all()
    assert len(np.unique(grown)) > 2


def test_each_axis_shrinks_or_grows_for_itself() -> None:
    stripes = np.zeros((2, 16, 3), np.uint8)
    stripes[:, ::4] = 200
    assert (crop(stripes, (0, 0, 16, 2), (8, 4)) == 50).all()


@pytest.mark.parametrize(
    ("box", "size", "inner"),
    [
        ((0, 0, 8, 4), (8, 8), (slice(2, 6), slice(0, 8))),
        ((0, 0, 4, 8), (8, 8), (slice(0, 8), slice(2, 6))),
        ((0, 0, 8, 4), (4, 4), (slice(1, 3), slice(0, 4))),
        ((0, 0, 8, 1), (4, 4), (slice(1, 2), slice(0, 4))),
        ((0, 0, 8, 4), (5, 8), (slice(0, 4), slice(0, 8))),
    ],
)
def test_letterbox(box: tuple[int, ...], size: tuple[int, int], inner: tuple[slice, slice]) -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    boxed = crop(white, box, size, "letterbox")
    expected = np.full((*size, 3), LETTERBOX_GREY, np.uint8)
    expected[inner] = 255
    assert (boxed == expected).all()


@pytest.mark.parametrize(
    ("bbox", "size", "expected"),
    [
        ((0, 0, 10, 4), (4, 4), (3, 0, 7, 4)),
        ((0, 0, 4, 8), (4, 4), (0, 2, 4, 6)),
        ((0, 0, 10, 8), (8, 4), (3, 0, 7, 8)),
        ((0, 0, 10, 8), (2, 10), (0, 3, 10, 5)),
    ],
)
def test_center_crop_cuts_both_ends_alike(
    bbox: tuple[int, ...], size: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert extent(crop(numbered(), bbox, size, "center_crop")) == expected


def test_center_crop_scales_the_short_side() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    cut = crop(image, (0, 0, 300, 100), (50, 50), "center_crop")
    assert cut.shape == (50, 50, 3)
    assert (cut == 255).all()


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
def test_slivers_cost_little_memory(resize: str) -> None:
    sliver = np.full((1, 60_000, 3), 200, np.uint8)
    cut = crop(sliver, (0, 0, 60_000, 1), (224, 224), resize)  # type: ignore[arg-type]
    assert cut.shape == (224, 224, 3)
    assert set(np.unique(cut)) <= {200, LETTERBOX_GREY}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    bbox=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
    size=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(["stretch", "letterbox", "center_crop"]),
    padding=st.floats(0, 10),
)
def test_any_box_gives_a_crop_inside_the_image(
    bbox: tuple[float, ...], size: tuple[int, int] | None, resize: str, padding: float
) -> None:
    cut = crop(numbered(), bbox, size, resize, padding)  # type: ignore[arg-type]
    assert cut.dtype == np.uint8
    if size is not None:
        assert cut.shape == (*size, 3)
    else:
        left, top, right, bottom = extent(cut)
        assert 0 <= left < right <= 10
        assert 0 <= top < bottom <= 8
        assert (cut == numbered()[top:bottom, left:right]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, r"image must be \(H, W, 3\) uint8 and not empty, got \(4, 4\) uint8"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, r"got \(4, 4, 4\) uint8"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, r"got \(4, 4, 3\) float32"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, r"got \(0, 4, 3\) uint8"),
        ({"bbox": (1, 2, 3)}, r"bbox must be 4 finite numbers \(x1, y1, x2, y2\), got \(1, 2, 3\)"),
        ({"bbox": (1, 2, 3, float("nan"))}, "nan"),
        ({"bbox": (1, 2, 3, float("inf"))}, "inf"),
        ({"size": (0, 4)}, r"size must be \(H, W\), both 1 or more, got \(0, 4\)"),
        ({"size": (4, 4, 3)}, r"got \(4, 4, 3\)"),
        ({"padding": -0.1}, "padding must be a share of the box, 0 or more, got -0.1"),
        ({"padding": float("nan")}, "got nan"),
        ({"size": (4, 4), "resize": "squash"}, "resize must be 'stretch', 'letterbox' or 'center_crop', got 'squash'"),
    ],
)
def test_wrong_arguments_say_what_came(arguments: dict[str, object], message: str) -> None:
    fine: dict[str, object] = {"image": numbered(), "bbox": (1, 1, 3, 3)}
    with pytest.raises(ValueError, match=message):
        crop(**(fine | arguments))  # type: ignore[arg-type]
