"""The classes for other people's models give the same results in process, on Serve and in bulk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bulk_runs import InProcess, failures, make_job, rows
from tiny_models import save_image_classifier, save_image_text_model, save_yolo
from toys import draw, encoded

from graph import VisionPipeline

PHOTO = encoded(draw(("car", 20, 20, 120, 100), ("person", 150, 60, 220, 220)))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a replica, so that floats are added up in the same order."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def pipeline(folder: Path) -> dict[str, Any]:
    detector = {"confidence": 0.0, "max_detections": 3, "image_size": 64, "device": "cpu"}
    encoders = save_image_text_model(folder / "clip", "clip")
    return {
        "name": "classes",
        "pipeline": [
            {
                "name": "masks",
                "class": "classifiers.objects.ObjectClassifier",
                "params": {"model": str(save_yolo(folder / "yolo11n-seg.pt")), **detector},
            },
            {
                "name": "poses",
                "class": "classifiers.objects.ObjectClassifier",
                "params": {"model": str(save_yolo(folder / "yolo11n-pose.pt")), **detector},
            },
            {
                "name": "kind",
                "class": "classifiers.text.ZeroShotClassifier",
                "depends_on": "poses",
                "crops": "len(detection['keypoints']) == 17 and detection['keypoints'][0][2] >= 0",
                "params": {"model": str(encoders), "labels": {"car": "a photo of a car", "dog": ["a dog", "the dog"]}},
            },
            {
                "name": "scene",
                "class": "classifiers.images.ImageClassifier",
                "params": {"model": str(save_image_classifier(folder / "vit", ["street", "beach"]))},
            },
        ],
    }


def rounded(value: Any) -> Any:
    """Without the noise between two processes."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 1))


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_masks_keypoints_labels_and_texts(tmp_path: Path, deploy: Callable[..., httpx.Client]) -> None:
    config = pipeline(tmp_path)
    with VisionPipeline(config) as local:
        expected = local.run(PHOTO)
    client = deploy(config, timeout_ms=60_000)

    result = client.post("/v1/images", content=PHOTO, headers={"Content-Type": "image/png"}, timeout=60).json()

    assert [step["status"] for step in result["steps"]] == ["ok"] * 4
    assert result["pipeline"] == expected["pipeline"]
    assert rounded(result["context"]) == rounded(expected["context"])
    context = result["context"]
    assert all(isinstance(found["mask"], list) for found in context["masks"]["detections"])
    assert [len(found["keypoints"]) for found in context["poses"]["detections"]] == [17] * 3
    assert {found["label"] for found in context["kind"]["objects"]} <= {"car", "dog"}
    picture = client.post("/v1/images?annotate=true", content=PHOTO, headers={"Content-Type": "image/png"}, timeout=60)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_masks_and_keypoints_in_bulk(tmp_path: Path) -> None:
    config = pipeline(tmp_path)
    with VisionPipeline(config) as local:
        expected = local.run(PHOTO)
    photo = tmp_path / "images" / "photo.png"
    photo.parent.mkdir()
    photo.write_bytes(PHOTO)

    InProcess(make_job(config, [str(photo.parent)], tmp_path / "out"), [str(photo.parent)]).all()

    assert failures(tmp_path / "out") == {}
    row = rows(tmp_path / "out")[photo.as_uri()]
    assert json.loads(row["context"]) == expected["context"]
    found = {name: [each for each in row["detections"] if each["step"] == name] for name in ("masks", "poses")}
    context = expected["context"]
    for name, key in (("masks", "mask"), ("poses", "keypoints")):
        assert [json.loads(json.dumps(each[key])) for each in found[name]] == [
            each[key] for each in context[name]["detections"]
        ]
