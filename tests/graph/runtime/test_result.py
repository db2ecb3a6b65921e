from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from graph.runtime.result import BadResult, normalise


class Kind(enum.StrEnum):
    CAR = "car"


class Number(enum.IntEnum):
    TWO = 2


class Fickle(Mapping[str, Any]):
    """Raises when it is looked into."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no longer there")

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


def detection(**others: Any) -> dict[str, Any]:
    return {"bbox": [1.0, 2.0, 3.0, 4.0], "confidence": 0.5, "class_id": 2, "class_name": "car", **others}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> dict[str, Any]:
    inner: dict[str, Any] = {"list": []}
    inner["list"] += [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ({"label": "black", "confidence": 0.123456}, {"label": "black", "confidence": 0.1235}),
        ({"label": Kind.CAR}, {"label": "car"}),
        ({"label": "unknown", "reason": "too dark"}, {"label": "unknown", "reason": "too dark"}),
        (
            {"labels": [{"label": np.str_("a"), "confidence": np.float32(0.5), "more": [1]}]},
            {"labels": [{"label": "a", "confidence": 0.5, "more": [1]}]},
        ),
        ({"confidence": np.float32(1.00001)}, {"confidence": 1.0}),
        ({"confidence": 1}, {"confidence": 1.0}),
        ({"confidence": -1e-9}, {"confidence": 0.0}),
        ({"confidence": np.array(0.25)}, {"confidence": 0.25}),
        ({"vector": np.array([1.0, 2.5])}, {"vector": [1.0, 2.5]}),
        ({"empty": np.zeros((0, 4)), "single": np.array(3)}, {"empty": [], "single": 3}),
        ({"n": np.int64(3), "yes": np.bool_(True), "none": None}, {"n": 3, "yes": True, "none": None}),
        ({"n": Number.TWO, "half": np.float16(0.5), "wide": np.longdouble(0.5)}, {"n": 2, "half": 0.5, "wide": 0.5}),
        ({"tags": {"b", "a"}, "pair": (1, 2)}, {"tags": ["a", "b"], "pair": [1, 2]}),
        ({"x": 1 / 3, "big": 2**63}, {"x": 1 / 3, "big": 2**63}),
        ({"pose": {"confidence": 0.123456, "bbox": [1.234]}}, {"pose": {"confidence": 0.1235, "bbox": [1.23]}}),
        ({"detected_classes": ("person", "car", "car")}, {"detected_classes": ["car", "person"]}),
        (OrderedDict(ü="ß"), {"ü": "ß"}),
        ({"deep": nested(30)}, {"deep": nested(30)}),
        ({}, {}),
    ],
)
def test_becomes_plain_json(returned: dict[str, Any], shown: dict[str, Any]) -> None:
    plain = normalise(returned)
    assert plain == shown
    assert json.loads(json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()) == shown
    assert {type(value) for value in plain.values()} <= {dict, list, str, int, float, bool, type(None)}


def test_detections_are_rounded_and_their_classes_are_listed() -> None:
    result = normalise(
        {
            "detections": [
                detection(bbox=np.array([0.123456, 1, 2.005, 3.999]), confidence=0.99999, class_name="person"),
                detection(bbox=(0, 0, 1, 1), class_name="bus", bitmap=np.eye(2, dtype=bool)),
                detection(bbox=[0, 0, 1, 1], class_name="bus", class_id=np.uint64(2**40)),
                detection(bbox=[np.float32(0.5)] * 4, class_id=np.float32(7)),
            ]
        }
    )
    assert result["detections"][0] == detection(bbox=[0.12, 1.0, 2.0, 4.0], confidence=1.0, class_name="person")
    assert result["detections"][1]["bitmap"] == [[True, False], [False, True]]
    assert [found["class_id"] for found in result["detections"]] == [2, 2, 2**40, 7]
    assert {type(found["class_id"]) for found in result["detections"]} == {int}
    assert {type(side) for found in result["detections"] for side in found["bbox"]} == {float}
    assert result["detected_classes"] == ["bus", "car", "person"]


def test_shapes_of_detections() -> None:
    returned = detection(
        mask=[np.array([[0.123, 1], [2, 3], [4, 5]], np.float32), [(6, 7), (8, 9), (10, 11)]],
        keypoints=np.array([[1.234, 5, 0.98765]]),
        corners=((0, 0), (1, 0), (1, 1), (0, 1)),
    )

    [shown] = normalise({"detections": [returned, detection(keypoints=[[1, 2]], mask=[])]})["detections"][:1]

    assert shown["mask"] == [[[0.12, 1.0], [2.0, 3.0], [4.0, 5.0]], [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]]
    assert shown["keypoints"] == [[1.23, 5.0, 0.9877]]
    assert shown["corners"] == [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"mask": [[[1, 2], [3, 4]]]}, r"\['mask'\]\[0\] must be a polygon: three points \[x, y\] or more"),
        ({"mask": "rle"}, r"\['mask'\] must be a list of polygons"),
        ({"mask": [[[1, 2], [3, 4], [5, math.nan]]]}, r"\['mask'\]\[0\]\[2\] must be a polygon"),
        ({"keypoints": [[1, 2, 3]]}, r"\['keypoints'\]\[0\] must be a number from 0 to 1"),
        ({"keypoints": [[1]]}, r"\['keypoints'\]\[0\] must be a list of points \[x, y\] or \[x, y, confidence\]"),
        ({"corners": [[1, 2]] * 3}, r"\['corners'\] must be four points"),
    ],
)
def test_says_which_shape_is_wrong(shape: dict[str, Any], words: str) -> None:
    with pytest.raises(BadResult, match=r"result\['detections'\]\[0\]" + words):
        normalise({"detections": [detection(**shape)]})


def test_no_detections_have_no_classes() -> None:
    assert normalise({"detections": []}) == {"detections": [], "detected_classes": []}
    assert normalise({"detections": np.zeros((0, 4))}) == {"detections": [], "detected_classes": []}


def test_odd_boxes_and_repeats_are_kept() -> None:
    found = [detection(bbox=box) for box in ([9.0, 9.0, 1.0, 1.0], [-50.0, -50.0, 1e9, 1e9], [1.0, 1.0, 1.0, 1.0])]
    assert normalise({"detections": [*found, *found]})["detections"] == [*found, *found]


def test_shares_nothing_with_what_was_returned() -> None:
    returned = {"detections": [detection(tags=["a"])], "more": {"list": [1]}}
    before = json.dumps(returned)
    plain = normalise(returned)
    plain["detections"][0]["tags"].append("b")
    plain["detections"][0]["bbox"][0] = 7
    plain["more"]["list"].append(2)
    assert json.dumps(returned) == before


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1], r"result must be a dict, but is \[1\] \(list\)"),
        (None, r"result must be a dict, but is None \(NoneType\)"),
        ("car", "result must be a dict"),
        ({"a": {"b": object()}}, r"result\['a'\]\['b'\] must be .*, but is .* \(object\)"),
        ({"a": b"bytes"}, r"\(bytes\)"),
        ({"a": np.datetime64("2026-11-24")}, r"\(date\)"),
        ({"a": 1 + 2j}, r"\(complex\)"),
        ({"a": {1: 2}}, r"result\['a'\] must be a dict whose keys are strings, but is \{1: 2\}"),
        ({None: 2}, "result must be a dict whose keys are strings"),
        ({"a": [1.0, float("nan")]}, r"result\['a'\]\[1\] must be a finite number or None, but is nan"),
        ({"a": np.array([[0, np.inf]])}, r"result\['a'\]\[0\]\[1\] must be a finite number"),
        ({"a": 10**5000}, r"result\['a'\] must be an integer of at most 1023 bits"),
        ({"a": {1, "b"}}, "cannot be read: TypeError"),
        ({"a": "caf\udce9"}, r"result\['a'\] must be text without lone surrogates, but is 'caf\\udce9'"),
        ({"caf\udce9": 1}, "must be text without lone surrogates"),
        ({"a": nested(33)}, "nested at most 32 deep"),
        ({"a": nested(100_000)}, "nested at most 32 deep"),
        (cyclic(), r"result\['list'\]\[0\]\['list'\].* must be nested at most 32 deep, and not within itself"),
        (Fickle(), "the result cannot be read: RuntimeError: no longer there"),
        ({"objects": []}, r"result\['objects'\] must be under another key"),
        ({"label": 3}, r"result\['label'\] must be a string, but is 3 \(int\)"),
        ({"label": None}, r"result\['label'\] must be a string, but is None"),
        ({"confidence": "0.9"}, r"result\['confidence'\] must be a number from 0 to 1, but is '0.9' \(str\)"),
        ({"confidence": 87.5}, "must be a number from 0 to 1"),
        ({"confidence": -0.1}, "must be a number from 0 to 1"),
        ({"confidence": True}, "must be a number from 0 to 1"),
        ({"confidence": np.bool_(True)}, "must be a number from 0 to 1"),
        ({"confidence": None}, "must be a number from 0 to 1"),
        ({"confidence": float("nan")}, "must be a number from 0 to 1"),
        ({"confidence": 10**400}, "must be a number from 0 to 1"),
        ({"confidence": [0.5]}, "must be a number from 0 to 1"),
        ({"labels": ["black"]}, r"result\['labels'\]\[0\] must be a dict, but is 'black'"),
        ({"labels": {"black": 0.5}}, r"result\['labels'\] must be a list of dicts with 'confidence', 'label'"),
        ({"labels": [{"confidence": 0.5}]}, r"result\['labels'\]\[0\] must be a dict with 'label' too"),
        ({"labels": [{"label": "a", "confidence": 2}]}, r"result\['labels'\]\[0\]\['confidence'\] must be a number"),
        ({"detected_classes": "car"}, r"result\['detected_classes'\] must be a list of strings"),
        ({"detected_classes": [1]}, r"result\['detected_classes'\] must be a list of strings"),
        ({"detections": "none"}, r"result\['detections'\] must be a list of dicts"),
        ({"detections": {}}, r"result\['detections'\] must be a list of dicts"),
        ({"detections": ["car"]}, r"\['detections'\]\[0\] must be a dict"),
        ({"detections": [{"class_name": "car"}]}, r"\[0\] must be a dict with 'bbox', 'class_id', 'confidence' too"),
        ({"detections": [detection(bbox=[1, 2, 3])]}, "four finite numbers"),
        ({"detections": [detection(bbox="1234")]}, "four finite numbers"),
        ({"detections": [detection(bbox=np.zeros((1, 4)))]}, "four finite numbers"),
        ({"detections": [detection(bbox=[1, 2, 3, True])]}, "four finite numbers"),
        ({"detections": [detection(bbox=[1, 2, 3, "4"])]}, "four finite numbers"),
        ({"detections": [detection(bbox=[1, 2, 3, float("inf")])]}, "four finite numbers"),
        ({"detections": [detection(bbox=np.array([1, 2, 3, np.nan]))]}, "four finite numbers"),
        ({"detections": [detection(), detection(class_name=3)]}, r"\['detections'\]\[1\]\['class_name'\] .* a string"),
        ({"detections": [detection(class_name=None)]}, "must be a string"),
        ({"detections": [detection(class_id="3")]}, r"\['class_id'\] must be an integer .*, but is '3' \(str\)"),
        ({"detections": [detection(class_id=1.5)]}, "must be an integer"),
        ({"detections": [detection(class_id=True)]}, "must be an integer"),
        ({"detections": [detection(class_id=None)]}, "must be an integer"),
        ({"detections": [detection(class_id=2**63)]}, "must be an integer of at most 64 bits"),
        ({"detections": [detection(confidence="high")]}, "must be a number from 0 to 1"),
        ({"detections": [detection(bitmap={"a": float("nan")})]}, r"\[0\]\['bitmap'\]\['a'\] must be a finite number"),
    ],
)
def test_says_what_is_wrong_and_where(returned: Any, words: str) -> None:
    with pytest.raises(BadResult, match=words) as caught:
        normalise(returned, "night.Day")
    assert str(caught.value).startswith("night.Day: ")
    assert len(str(caught.value)) < 500
    assert str(caught.value).encode()
