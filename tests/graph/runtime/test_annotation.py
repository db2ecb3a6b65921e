from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from graph import Frame, annotate
from graph.runtime import annotation

GREY = Frame.from_array(np.full((240, 320, 3), 128, np.uint8))


def detection(x1: float, y1: float, x2: float, y2: float, name: str = "person") -> dict[str, Any]:
    return {"bbox": [x1, y1, x2, y2], "confidence": 0.9, "class_id": 0, "class_name": name}


def drawn(context: dict[str, Any], frame: Frame = GREY) -> np.ndarray:
    """Where the picture is no longer grey: (H, W) bool."""
    picture = PIL.Image.open(io.BytesIO(annotate(frame, {"context": context})))
    assert (picture.format, picture.size) == ("JPEG", (frame.width, frame.height))
    return np.abs(np.asarray(picture.convert("RGB")).astype(int) - 128).max(axis=2) > 40


def test_a_box_is_drawn_where_the_detection_is() -> None:
    changed = drawn({"d": {"detections": [detection(100, 100, 200, 200)]}})
    assert changed[150, 98:103].any()
    assert changed[150, 198:203].any()
    assert changed[198:203, 150].any()
    assert not changed[120:190, 120:190].any()


def test_what_the_steps_said_stands_at_the_box() -> None:
    plain = drawn({"d": {"detections": [detection(20, 100, 60, 200)]}})
    spoken = drawn(
        {
            "d": {"detections": [detection(20, 100, 60, 200)]},
            "c": {"objects": [{"detection": 0, "label": "purple", "confidence": 0.5}]},
        }
    )
    assert spoken.sum() > plain.sum() + 200


def test_objects_without_a_label_show_their_values() -> None:
    plain = drawn({"d": {"detections": [detection(20, 100, 60, 200)]}})
    spoken = drawn(
        {"d": {"detections": [detection(20, 100, 60, 200)]}, "s": {"objects": [{"detection": 0, "height": 100}]}}
    )
    assert spoken.sum() > plain.sum()


def test_an_answer_that_names_nothing_has_no_confidence() -> None:
    def picture(answer: dict[str, Any]) -> np.ndarray:
        return drawn(
            {"d": {"detections": [detection(20, 100, 60, 200)]}, "c": {"objects": [{"detection": 0, **answer}]}}
        )

    unknown = picture({"label": "unknown", "confidence": 0.0, "labels": [], "reason": "too small"})
    assert (unknown == picture({"label": "unknown"})).all()


def test_a_label_of_the_whole_image_stands_in_the_corner() -> None:
    assert drawn({"scene": {"label": "street", "confidence": 0.7}})[:60, :150].any()
    assert not drawn({})[:60, :150].any()


def test_several_detectors_do_not_mix_up_their_captions() -> None:
    context = {
        "d": {"detections": [detection(20, 100, 60, 200)]},
        "e": {"detections": []},
        "c": {"objects": [{"detection": 0, "label": "purple"}]},
    }
    assert drawn(context).any()


@pytest.mark.parametrize("box", [(-50, -50, 900, 900), (319, 239, 319, 239), (50, 50, 10, 10), (0, 0, 0.4, 0.4)])
def test_any_box_can_be_drawn(box: tuple[float, float, float, float]) -> None:
    drawn({"d": {"detections": [detection(*box)]}})


def test_a_tiny_image_can_be_drawn() -> None:
    tiny = Frame.from_array(np.full((1, 1, 3), 128, np.uint8))
    drawn({"d": {"detections": [detection(0, 0, 1, 1)]}}, tiny)


def test_the_same_class_has_the_same_colour() -> None:
    one = annotate(GREY, {"context": {"d": {"detections": [detection(100, 100, 200, 200)]}}})
    again = annotate(GREY, {"context": {"d": {"detections": [detection(100, 100, 200, 200)]}}})
    other = annotate(GREY, {"context": {"d": {"detections": [detection(100, 100, 200, 200, "zebra")]}}})
    assert one == again
    assert one != other


@pytest.mark.parametrize("words", ["x" * 2_000_000, "two\nlines", "\x00", "", "😀"])
def test_any_words_can_be_drawn(words: str) -> None:
    drawn(
        {
            "d": {"detections": [detection(10, 10, 60, 90, words)]},
            "c": {"objects": [{"detection": 0, "label": words}]},
            "s": {"label": words},
        }
    )


def test_shapes_are_drawn() -> None:
    square = [[100.0, 100.0], [200.0, 100.0], [200.0, 200.0], [100.0, 200.0]]
    triangle = [[110.0, 190.0], [150.0, 120.0], [190.0, 190.0]]
    box = detection(100, 100, 200, 200)
    plain = drawn({"d": {"detections": [box]}})

    mask = drawn({"d": {"detections": [box | {"mask": [triangle]}]}})
    assert mask[188:193, 150].any()
    assert not plain[188:193, 150].any()
    keypoints = drawn({"d": {"detections": [box | {"keypoints": [[150.0, 150.0, 0.9], [170.0, 150.0, 0.1]]}]}})
    assert keypoints[150, 150]
    assert not keypoints[150, 165:175].any()
    turned = drawn(
        {"d": {"detections": [box | {"corners": [[150.0, 90.0], *square[2:3], [150.0, 210.0], [90.0, 150.0]]}]}}
    )
    assert not turned[195:205, 105:125].any()
    assert plain[195:205, 105:125].any()
    beyond = drawn(
        {"d": {"detections": [box | {"corners": [[-50.0, 90.0], [900.0, 90.0], [900.0, 999.0], [-50.0, 999.0]]}]}}
    )
    assert beyond.any()


@pytest.mark.parametrize("size", [(320, 240), (1600, 1200)])
def test_labels_do_not_cover_each_other(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[float, ...]] = []
    label = annotation._label

    def recording(*args: Any) -> Any:
        places.append(label(*args))
        return places[-1]

    monkeypatch.setattr(annotation, "_label", recording)
    crowd = [detection(100 + 4 * index, 100, 140 + 4 * index, 180) for index in range(8)]
    frame = Frame.from_array(np.full((*size[::-1], 3), 128, np.uint8))
    annotate(frame, {"context": {"d": {"detections": crowd}, "scene": {"label": "street"}}})
    assert len(places) == 9
    for index, (left, top, right, bottom) in enumerate(places):
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        for other in places[:index]:
            assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top


def test_text_is_black_on_light_colours() -> None:
    assert annotation._text_colour((230, 230, 40)) == "black"
    assert annotation._text_colour((20, 30, 160)) == "white"


def test_lines_are_wider_in_larger_images() -> None:
    def width(side: int) -> int:
        frame = Frame.from_array(np.full((side, side, 3), 128, np.uint8))
        box = detection(side * 0.2, side * 0.2, side * 0.8, side * 0.8)
        return int(drawn({"d": {"detections": [box]}}, frame)[side // 2, : side // 2].sum())

    assert 1 <= width(200) < width(2000)
