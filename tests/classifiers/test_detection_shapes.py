"""Masks, keypoints and oriented boxes of ObjectClassifier, and its labels for models that classify."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from classifiers.backends.openvino_model import import_openvino
from classifiers.errors import SetupError
from classifiers.imaging.masks import polygons
from classifiers.objects import ObjectClassifier

NAMES = {0: "cat", 1: "dog"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ObjectClassifier]:
    """Makes a classifier whose model answers every image with the same outputs, each without its first axis."""

    def make(*outputs: Any, task: str, arguments: dict[str, Any] | None = None, **about: Any) -> ObjectClassifier:
        ov = import_openvino()
        ops = ov.opset13
        images = ops.parameter([-1, 3, 64, 64], np.float32, name="images")
        zero = ops.multiply(ops.reduce_mean(images, np.array([1, 2, 3]), keep_dims=False), np.float32(0))
        constants = []
        for output in (np.array(output, np.float32) for output in outputs):
            shaped = ops.reshape(zero, np.array([-1, *[1] * output.ndim]), False)
            constants.append(ops.add(shaped, output[None]))
        ov.save_model(ov.Model(constants, [images], "constant"), tmp_path / "m" / "m.xml", compress_to_fp16=False)
        about = {"names": NAMES, "task": task, "imgsz": [64, 64]} | about
        (tmp_path / "m" / "metadata.yaml").write_text(yaml.safe_dump(about))
        return ObjectClassifier(str(tmp_path / "m"), **arguments or {})

    return make


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def raster(mask: list[list[list[float]]], height: int, width: int) -> np.ndarray:
    """(H, W) bool."""
    filled = np.zeros((height, width), np.uint8)
    for polygon in mask:
        cv2.fillPoly(filled, [np.floor(polygon).astype(np.int32)], 1)
    return filled.astype(bool)


# masks ----------------------------------------------------------------------------------------------------------------

ROWS = np.array(
    [
        # centre x, centre y, width, height, a score for each class, a coefficient for each of two prototypes
        [32, 32, 40, 40, 0.9, 0, 1, 0],
        [32, 32, 40, 40, 0, 0.8, 0, 1],
    ]
).T
PROTOTYPES = -np.ones((2, 16, 16))
PROTOTYPES[0, 4:8, 4:8] = PROTOTYPES[0, 9:11, 4:8] = 1  # pixels 16..32, and 36..44 below
PROTOTYPES[1] = 1  # all that its box lets through


def test_masks_are_polygons_inside_their_box(export: Callable[..., ObjectClassifier]) -> None:
    classifier = export(ROWS, PROTOTYPES, task="segment")

    cat, dog = classifier.process_batch([black(64, 64)], [{}])[0]["detections"]

    assert cat["bbox"] == [12, 12, 52, 52]
    large, small = cat["mask"]
    assert np.min(large, axis=0) == pytest.approx([16, 16], abs=1)
    assert np.max(large, axis=0) == pytest.approx([32, 32], abs=1)
    assert (np.min(small, axis=0)[1], np.max(small, axis=0)[1]) == pytest.approx((36, 44), abs=1)
    [whole] = dog["mask"]
    assert sorted(whole) == [[12.5, 12.5], [12.5, 51.5], [51.5, 12.5], [51.5, 51.5]]


@pytest.mark.parametrize(("height", "width"), [(128, 128), (640, 1280), (48, 24)])
def test_masks_are_in_pixels_of_the_image(export: Callable[..., ObjectClassifier], height: int, width: int) -> None:
    [_, dog] = export(ROWS, PROTOTYPES, task="segment").process(black(height, width), {})["detections"]

    filled = raster(dog["mask"], height, width)
    left, top, right, bottom = dog["bbox"]
    assert filled.sum() == pytest.approx((right - left) * (bottom - top), rel=0.1)
    assert np.min(dog["mask"][0]) >= 0
    assert np.max(np.array(dog["mask"][0]) - [width, height]) <= 0


def test_each_image_of_a_batch_has_its_own_masks(export: Callable[..., ObjectClassifier]) -> None:
    classifier = export(ROWS, PROTOTYPES, task="segment")
    images = [black(64, 64), black(128, 64), black(32, 32)]

    assert classifier.process_batch(images, [{}] * 3) == [classifier.process(image, {}) for image in images]


def test_a_mask_may_be_empty(export: Callable[..., ObjectClassifier]) -> None:
    [cat, _] = export(ROWS, -np.ones((2, 16, 16)), task="segment").process(black(64, 64), {})["detections"]

    assert cat["mask"] == []


# keypoints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "shape", "expected"),
    [
        ([20, 24, 0.75, 70, 0, 0.12346], [2, 3], [[8, 48, 0.75], [64, 0, 0.1235]]),
        ([20, 24, 70, 0], [2, 2], [[8, 48], [64, 0]]),
    ],
)
def test_keypoints(
    export: Callable[..., ObjectClassifier], values: list[float], shape: list[int], expected: list[list[float]]
) -> None:
    rows = np.array([[32, 32, 20, 20, 0.9, 0, *values]]).T

    [found] = export(rows, task="pose", kpt_shape=shape).process(black(128, 64), {})["detections"]

    # of a 64x128 (WxH) image the canvas shows x from 16 to 48, at half its size
    assert found["keypoints"] == expected
    assert found["bbox"] == [12, 44, 52, 84]


def test_keypoints_of_an_end_to_end_model(export: Callable[..., ObjectClassifier]) -> None:
    rows = [[16, 16, 48, 48, 0.9, 1, 20, 24, 0.5], [0] * 9]

    [found] = export(rows, task="pose", kpt_shape=[1, 3], end2end=True).process(black(64, 64), {})["detections"]

    assert (found["class_name"], found["keypoints"]) == ("dog", [[20, 24, 0.5]])


def test_as_many_candidates_as_values_of_each(export: Callable[..., ObjectClassifier]) -> None:
    """With 4 + 2 columns the output could also be that of another kind of head."""
    rows = np.array([[32, 32, 20, 20, 0.9, 0, 20, 24]] + [[0] * 8] * 5).T

    [found] = export(rows, task="pose", kpt_shape=[1, 2]).process(black(64, 64), {})["detections"]

    assert found["keypoints"] == [[20, 24]]


# oriented boxes -------------------------------------------------------------------------------------------------------


def test_oriented_boxes(export: Callable[..., ObjectClassifier]) -> None:
    rows = np.array([[32, 32, 20, 10, 0.9, 0, math.pi / 2], [10, 60, 20, 20, 0, 0.8, math.pi / 4]]).T

    cat, dog = export(rows, task="obb").process(black(64, 64), {})["detections"]

    assert cat["bbox"] == [27, 22, 37, 42]
    assert cat["corners"] == [[27, 42], [37, 42], [37, 22], [27, 22]]
    half = 10 * math.sqrt(2)  # the box is clipped to the image, its corners are not
    assert dog["bbox"] == pytest.approx([0, 60 - half, 10 + half, 64], abs=0.01)
    assert np.array(dog["corners"]) == pytest.approx(
        np.array([[10, 60 + half], [10 + half, 60], [10, 60 - half], [10 - half, 60]]), abs=0.01
    )


@pytest.mark.parametrize(("iou", "expected"), [(0.3, [0.9, 0.7]), (0.9, [0.9, 0.8, 0.7])])
def test_of_oriented_boxes_that_overlap_the_best_stays(
    export: Callable[..., ObjectClassifier], iou: float, expected: list[float]
) -> None:
    rows = np.array(
        [
            [32, 32, 40, 4, 0.9, 0, 0.7],
            [32, 32, 40, 4, 0.8, 0, 0.75],
            [32, 32, 40, 4, 0.7, 0, 0.7 + math.pi / 2],  # its upright box is the same, and it crosses the others
        ]
    ).T

    found = export(rows, task="obb", arguments={"iou": iou}).process(black(64, 64), {})["detections"]

    assert [each["confidence"] for each in found] == expected


# labels ---------------------------------------------------------------------------------------------------------------


def test_a_model_that_classifies(export: Callable[..., ObjectClassifier]) -> None:
    classifier = export([0.3, 0.7], task="classify")

    labels = [{"label": "dog", "confidence": 0.7}, {"label": "cat", "confidence": 0.3}]
    assert classifier.process_batch([black(90, 40), black(64, 64)], [{}] * 2) == [{**labels[0], "labels": labels}] * 2
    assert (classifier.input_size, classifier.resize) == ((64, 64), "center_crop")
    classifier.warm_up(2)
    classifier.reconfigure(classes=["cat"])
    assert classifier.process(black(64, 64), {})["label"] == "cat"
    classifier.reconfigure(confidence=0.5)
    assert classifier.process(black(64, 64), {})["label"] == "unknown"
    with pytest.raises(SetupError, match=r"does not know 'cta' \(did you mean 'cat'\?\)"):
        classifier.reconfigure(classes=["cta"])


# ultralytics itself ---------------------------------------------------------------------------------------------------


def both(path: Path, pixels: np.ndarray, **arguments: Any) -> tuple[list[dict[str, Any]], Any]:
    """Our detections of an image, and what ultralytics says of it."""
    options = {"confidence": 0.3, "max_detections": 20, "image_size": 320, "device": "cpu"} | arguments
    ours = ObjectClassifier(str(path), **options).process(pixels, {})
    [reference] = (
        sys.modules["ultralytics"]
        .YOLO(path)
        .predict(pixels[..., ::-1].copy(), conf=0.3, iou=0.7, max_det=20, imgsz=320, rect=False, verbose=False)
    )
    return ours.get("detections", ours), reference


@pytest.fixture
def square(photos: list[np.ndarray]) -> np.ndarray:
    """A photo of the size of the canvas."""
    return np.ascontiguousarray(cv2.resize(photos[0], (320, 320)))


def nearest(detections: list[dict[str, Any]], box: Any) -> dict[str, Any]:
    return min(detections, key=lambda found: np.abs(np.array(found["bbox"]) - box).max())


def test_polygons_are_ultralytics_masks(yolos: Callable[[str], Path]) -> None:
    import torch
    from ultralytics.utils.ops import process_mask

    generator = np.random.default_rng(0)
    prototypes = np.stack([cv2.resize(generator.normal(size=(6, 6)), (80, 80), interpolation=2) for _ in range(8)])
    prototypes = prototypes.astype(np.float32)
    pixels = 0
    for _ in range(30):
        coefficients = generator.normal(size=8).astype(np.float32)
        x1, y1 = generator.uniform(0, 200, 2)
        box = np.array([x1, y1, x1 + generator.uniform(60, 119), y1 + generator.uniform(60, 119)], np.float32)
        tensors = (torch.from_numpy(each) for each in (prototypes, coefficients[None], box[None]))
        expected = np.asarray(process_mask(*tensors, (320, 320), upsample=True)[0])
        outlines, _ = cv2.findContours(expected, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(expected, outlines, -1, 1, cv2.FILLED)  # polygons have no holes
        filled = raster([each.tolist() for each in polygons(coefficients, prototypes, box, (320, 320))], 320, 320)
        around = np.ones((5, 5))
        assert not (filled & (cv2.dilate(expected, around) == 0)).any()
        assert not (~filled & (cv2.erode(expected, around) == 1)).any()
        pixels += expected.sum()
    assert pixels > 50_000


@pytest.mark.parametrize("architecture", ["yolo11n-seg", pytest.param("yolo26n-seg", marks=pytest.mark.slow)])
def test_same_masks_as_ultralytics_itself(yolos: Callable[[str], Path], square: np.ndarray, architecture: str) -> None:
    detections, reference = both(yolos(architecture), square)

    masks = [np.asarray(mask, bool) for mask in reference.masks.data]
    shared = union = 0
    for box, mask in zip(reference.boxes.xyxy.numpy(), masks, strict=True):
        found = nearest(detections, box)
        np.testing.assert_allclose(found["bbox"], box, atol=2)
        filled = raster(found["mask"], 320, 320)
        shared += (filled & mask).sum()
        union += (filled | mask).sum()
    assert len(masks) > 5
    assert shared / union > 0.6  # masks of random weights are full of specks and holes, which polygons leave out


@pytest.mark.parametrize("architecture", ["yolov8n-pose"])
def test_same_keypoints_as_ultralytics_itself(
    yolos: Callable[[str], Path], square: np.ndarray, architecture: str
) -> None:
    detections, reference = both(yolos(architecture), square)

    ours = np.array([found["keypoints"] for found in detections])
    assert ours.shape == tuple(reference.keypoints.data.shape)
    np.testing.assert_allclose(ours[..., :2].clip(0, 320), reference.keypoints.xy.clip(0, 320), atol=1)
    np.testing.assert_allclose(ours[..., 2], reference.keypoints.conf, atol=1e-3)


def test_same_corners_as_ultralytics_itself(yolos: Callable[[str], Path], square: np.ndarray) -> None:
    # Where boxes overlap, ultralytics also takes those into account that it has already dropped.
    detections, reference = both(yolos("yolo11n-obb"), square, iou=1.0, max_detections=10_000)

    assert len(reference.obb) > 5
    for corners, box in zip(reference.obb.xyxyxyxy.numpy(), reference.obb.xyxy.numpy(), strict=True):
        found = np.array(nearest(detections, box.clip(0, 320))["corners"])
        # the same rectangle may begin at another corner
        assert min(np.abs(np.roll(found, turn, axis=0) - corners).max() for turn in range(4)) < 1


def test_same_labels_as_ultralytics_itself(yolos: Callable[[str], Path], square: np.ndarray) -> None:
    ours, reference = both(yolos("yolo11n-cls"), square, confidence=0)

    assert [each["label"] for each in ours["labels"]] == [reference.names[index] for index in reference.probs.top5]
    expected = reference.probs.top5conf.tolist()
    assert [each["confidence"] for each in ours["labels"]] == pytest.approx(expected, abs=1e-3)
