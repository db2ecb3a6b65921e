"""The demo's own models, which ship with the package, on photos."""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifiers import Image
from classifiers.imaging.decoding import DEFAULT_LIMITS, decode
from classifiers.makes import StanfordViT
from classifiers.objects import ObjectClassifier
from classifiers.weights.catalogue import CATALOGUE
from classifiers.weights.finding import find_model
from graph.plan.plan import load_plan
from models import train_car_make

DETECTOR, CAR_MAKE = "centernet_mobilenetv3_coco", "vit_s14_car_make49"
DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"

# drawn by hand: x1, y1, x2, y2
BUS_PERSONS = [(222, 406, 344, 860), (48, 398, 246, 903), (669, 392, 810, 877), (0, 550, 63, 873)]
BUS = (20, 228, 800, 750)
ZIDANE_PERSONS = [(744, 40, 1150, 720), (120, 195, 1120, 720)]


@pytest.fixture(scope="module")
def detector() -> ObjectClassifier:
    return ObjectClassifier(**load_plan(DEMO)["object_detection"].params)


def _photo(file: Path) -> Image:
    return decode(file.read_bytes(), DEFAULT_LIMITS)


def _asset(name: str) -> Image:
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    return _photo(Path(spec.origin).parent / "assets" / name)


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _boxes(found: dict[str, Any], name: str) -> list[list[float]]:
    return [detection["bbox"] for detection in found["detections"] if detection["class_name"] == name]


def test_the_detector_finds_the_four_persons_and_the_bus(detector: ObjectClassifier) -> None:
    found = detector.process(_asset("bus.jpg"), {})
    persons = _boxes(found, "person")

    assert all(any(_iou(box, person) > 0.5 for box in persons) for person in BUS_PERSONS)
    assert [_iou(box, BUS) > 0.8 for box in _boxes(found, "bus")] == [True]
    assert found["detected_classes"] == ["bus", "person"]


def test_the_detector_finds_both_persons_where_neither_is_whole(detector: ObjectClassifier) -> None:
    found = detector.process(_asset("zidane.jpg"), {})
    persons = _boxes(found, "person")

    assert [max(_iou(box, person) for box in persons) > 0.5 for person in ZIDANE_PERSONS] == [True, True]
    assert len(found["detections"]) == 2


def test_the_detector_agrees_with_a_larger_one_on_large_objects(detector: ObjectClassifier, shared_data: Path) -> None:
    labelled, found_objects, hits, right = Counter(), Counter(), Counter(), Counter()
    for file in sorted((shared_data / "detect" / "val" / "images").iterdir())[:100]:
        image = _photo(file)
        height, width = image.shape[:2]
        lines = (file.parent.parent / "labels" / f"{file.stem}.txt").read_text().splitlines()
        labels = [[float(value) for value in line.split()] for line in lines]
        result = detector.process(image, {})
        for class_id, name in ((0, "person"), (2, "car"), (4, "bus")):
            truth = [
                [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
                for label, x, y, w, h in labels
                if label == class_id
            ]
            large = [box for box in truth if _area(box) >= 0.05 * width * height]
            boxes = [box for box in _boxes(result, name) if _area(box) >= 0.05 * width * height]
            labelled[name] += len(large)
            found_objects[name] += len(boxes)
            hits[name] += sum(any(_iou(box, one) >= 0.5 for one in _boxes(result, name)) for box in large)
            right[name] += sum(any(_iou(box, one) >= 0.5 for one in truth) for box in boxes)

    assert labelled["person"] > 50
    assert hits["person"] / labelled["person"] >= 0.75
    assert right["person"] / found_objects["person"] >= 0.85
    assert hits.total() / labelled.total() >= 0.7
    assert right.total() / found_objects.total() >= 0.8


def test_the_detector_uses_cocos_names(detector: ObjectClassifier) -> None:
    ObjectClassifier(DETECTOR, classes=["person", "traffic light", "dog", "cat", "cup", "tv", "dining table"])

    assert detector.process(_asset("zidane.jpg"), {})["detected_classes"] == ["person"]


@pytest.mark.parametrize(
    ("model", "megabytes", "words"),
    [(DETECTOR, 6, "Changed by"), (CAR_MAKE, 25, "for research and demonstration only")],
)
def test_what_is_committed_is_small_and_says_where_it_comes_from(model: str, megabytes: int, words: str) -> None:
    folder = find_model(model)
    assert folder is not None

    assert sum(file.stat().st_size for file in folder.rglob("*")) < megabytes * 1e6
    assert words in (folder / "NOTICE").read_text()


def test_the_detector_has_its_licence() -> None:
    folder = find_model(DETECTOR)
    assert folder is not None

    assert "MIT License" in (folder / "LICENSE").read_text()


def test_the_car_make_model_names_crops_that_it_was_not_trained_on(shared_data: Path) -> None:
    with (shared_data / "cars" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[place] for place in train_car_make._held_out(rows)[::8]]
    crops = [_photo(shared_data / "cars" / row["file"]) for row in chosen]

    answers = StanfordViT(CAR_MAKE).process_batch(crops, [{}] * len(crops))

    right = [answer["label"] == row["make"] for answer, row in zip(answers, chosen, strict=True)]
    named = [
        row["make"] in {entry["label"] for entry in answer["labels"]}
        for answer, row in zip(answers, chosen, strict=True)
    ]
    assert len(chosen) > 80
    assert np.mean(right) >= 0.9  # measured on all 731 that are held out: 0.938
    assert np.mean(named) >= 0.97  # 0.990


def test_every_known_model_says_what_it_may_be_used_for() -> None:
    for ref, known in CATALOGUE.items():
        assert known.licence, ref
        assert known.note, ref
    assert "demonstration" in CATALOGUE[CAR_MAKE].licence
