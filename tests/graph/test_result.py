from __future__ import annotations

import numpy as np
import pytest

from graph.result import normalise


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ({"label": "black", "confidence": 0.123456}, {"label": "black", "confidence": 0.1235}),
        ({"labels": [{"confidence": np.float32(0.5)}]}, {"labels": [{"confidence": 0.5}]}),
        ({"vector": np.array([1.0, 2.5])}, {"vector": [1.0, 2.5]}),
        ({"n": np.int64(3), "yes": np.bool_(True), "none": None}, {"n": 3, "yes": True, "none": None}),
        ({"tags": {"b", "a"}, "pair": (1, 2)}, {"tags": ["a", "b"], "pair": [1, 2]}),
        ({"x": 1 / 3}, {"x": 1 / 3}),
        ({}, {}),
    ],
)
def test_becomes_plain_json(returned: dict[str, object], shown: dict[str, object]) -> None:
    assert normalise(returned) == shown


def test_detections_are_rounded_and_their_classes_are_listed() -> None:
    result = normalise(
        {
            "detections": [
                {"bbox": np.array([0.123456, 1, 2.005, 3.999]), "confidence": 0.99999, "class_name": "person"},
                {"bbox": [0, 0, 1, 1], "confidence": 0.5, "class_name": "bus"},
                {"bbox": [0, 0, 1, 1], "confidence": 0.5, "class_name": "bus"},
            ]
        }
    )
    assert result["detections"][0] == {"bbox": [0.12, 1.0, 2.0, 4.0], "confidence": 1.0, "class_name": "person"}
    assert result["detected_classes"] == ["bus", "person"]


def test_no_detections_have_no_classes() -> None:
    assert normalise({"detections": []}) == {"detections": [], "detected_classes": []}


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        ([1], TypeError, "must return a dict for each image, but returned list"),
        ({"a": {"b": object()}}, TypeError, r"result\['a'\]\['b'\] is a object"),
        ({"a": {1: 2}}, TypeError, "keys must be strings"),
        ({"a": [1.0, float("nan")]}, ValueError, r"result\['a'\]\[1\] is nan"),
        ({"a": float("inf")}, ValueError, "inf"),
        ({"detections": "none"}, TypeError, "must be a list"),
        ({"detections": ["car"]}, TypeError, r"\['detections'\]\[0\] must be a dict"),
        ({"detections": [{"class_name": "car"}]}, ValueError, "four numbers"),
        ({"detections": [{"class_name": "car", "bbox": [1, 2, 3]}]}, ValueError, "four numbers"),
        ({"detections": [{"class_name": "car", "bbox": [1, 2, 3, True]}]}, ValueError, "four numbers"),
        ({"detections": [{"bbox": [1, 2, 3, 4]}]}, TypeError, "'class_name'"),
    ],
)
def test_says_where_the_fault_is(returned: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        normalise(returned)  # type: ignore[arg-type]
