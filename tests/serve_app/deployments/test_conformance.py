"""The same file gives the same result in process and on Serve: real models, every photo of the corpus."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bulk_runs import failures, make_job, rows

from classifiers import InputError
from graph import VisionPipeline
from serve_app.bulk.running import BulkRun, Settings

# Noise between two processes that is allowed: threads may add up floats in another order.
CONFIDENCE = 1e-3
PIXELS = 1.0
THRESHOLD = 0.25


def photos(shared_data: Path) -> list[Path]:
    with (shared_data / "corpus" / "manifest.csv").open() as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    found = sorted(p for p in (shared_data / "corpus").iterdir() if p.suffix != ".csv")
    assert listed <= {p.name for p in found}
    return found


def pipeline(shared_data: Path) -> dict[str, Any]:
    models = shared_data / "models"
    return {
        "name": "corpus",
        "pipeline": [
            {
                "name": "object_detection",
                "class": "classifiers.objects.ObjectClassifier",
                "params": {"model": str(models / "yolo11n_int8_openvino_model"), "confidence": THRESHOLD},
            },
            {
                "name": "car_make_classification",
                "class": "classifiers.makes.StanfordViT",
                "params": {"model": str(models / "vit_car_make20")},
                "depends_on": "object_detection",
                "condition": "'car' in context['object_detection']['detected_classes']",
            },
            {
                "name": "tshirt_color_classification",
                "class": "classifiers.attributes.TShirtColorClassifier",
                "depends_on": "object_detection",
                "condition": "'person' in context['object_detection']['detected_classes']",
            },
        ],
    }


def sure(detection: dict[str, Any]) -> bool:
    """Whether the noise cannot move the detection over the threshold."""
    return bool(detection["confidence"] > THRESHOLD + CONFIDENCE)


def same_detections(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    one, other = [d for d in one if sure(d)], [d for d in other if sure(d)]
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a["class_name"] == b["class_name"]
        assert abs(a["confidence"] - b["confidence"]) <= CONFIDENCE
        assert max(abs(p - q) for p, q in zip(a["bbox"], b["bbox"], strict=True)) <= PIXELS


def same_refusal(response: httpx.Response, error: InputError) -> None:
    assert response.status_code == 422
    assert response.json()["detail"] == str(error)


def same_objects(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert [a["detection"] for a in one] == [b["detection"] for b in other]
    for a, b in zip(one, other, strict=True):
        assert abs(a["confidence"] - b["confidence"]) <= CONFIDENCE
        confidences = [label["confidence"] for label in a["labels"]]  # none where the label is 'unknown'
        if len(confidences) < 2 or confidences[0] - confidences[1] > 2 * CONFIDENCE:
            assert a["label"] == b["label"]


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_every_photo_of_the_corpus(shared_data: Path, deploy: Callable[..., httpx.Client]) -> None:
    config = pipeline(shared_data)
    client = deploy(config, timeout_ms=60_000)
    refused = 0
    with VisionPipeline(config) as local:
        for photo in photos(shared_data):
            data = photo.read_bytes()
            response = client.post("/v1/images", content=data, headers={"Content-Type": "image/jpeg"}, timeout=60)
            try:
                expected = local.run(data)
            except InputError as error:
                refused += 1
                same_refusal(response, error)
                continue
            assert response.status_code == 200, f"{photo.name}: {response.text}"
            result = response.json()
            assert result["image"] == expected["image"]
            assert result["pipeline"] == expected["pipeline"]
            assert list(result["context"]) == list(expected["context"]), photo.name
            ends = [[(s["name"], s["status"], s.get("reason")) for s in r["steps"]] for r in (result, expected)]
            assert ends[0] == ends[1], photo.name
            for name, answer in result["context"].items():
                if "detections" in answer:
                    same_detections(answer["detections"], expected["context"][name]["detections"])
                else:
                    same_objects(answer["objects"], expected["context"][name]["objects"])
    assert refused == 2  # the truncated one, and the one that is no image


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_every_photo_of_the_corpus_in_bulk(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, sources = pipeline(shared_data), [str(shared_data / "corpus")]
    for _ in BulkRun(make_job(config, sources, tmp_path), sources, Settings(in_flight=2, chunk_size=10)).chunks():
        pass
    found, failed = rows(tmp_path), failures(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the actors, so that floats are added up in the same order
    with VisionPipeline(config) as local:
        for photo in photos(shared_data):
            uri = photo.as_uri()
            try:
                expected = local.run(photo.read_bytes())
            except InputError as error:
                assert failed.pop(uri)["detail"] == str(error)  # noqa: PT017
                continue
            row = found.pop(uri)
            assert json.loads(row["context"]) == expected["context"], photo.name
            assert row["fingerprint"] == expected["pipeline"]["fingerprint"]
            ends = [(s["name"], s["status"], s.get("reason")) for s in expected["steps"]]
            assert [(s["name"], s["status"], s["reason"]) for s in row["steps"]] == ends
    assert not found
    assert not failed
