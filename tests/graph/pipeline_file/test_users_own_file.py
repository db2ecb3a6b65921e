"""The file that this project was asked for, word for word: no params, no crops; the classes' own defaults count."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph import VisionPipeline, load_plan

FILE = """
pipeline:
  - name: object_detection
    class: classifiers.objects.ObjectClassifier

  - name: car_make_classification
    class: classifiers.makes.StanfordViT
    depends_on: object_detection
    condition: "'car' in context['object_detection']['detected_classes']"

  - name: tshirt_color_classification
    class: classifiers.attributes.TShirtColorClassifier
    depends_on: object_detection
    condition: "'person' in context['object_detection']['detected_classes']"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vision.yaml"
    path.write_text(FILE)
    return path


def test_makes_are_asked_of_cars_and_trucks_and_colours_of_persons(file: Path) -> None:
    plan = load_plan(file)
    detection, make, colour = plan
    assert detection.crops is None
    assert make.crops is not None
    assert make.crops.source == "detection['class_name'] in ('car', 'truck')"
    assert colour.crops is not None
    assert colour.crops.source == "detection['class_name'] == 'person'"
    assert detection.cuts == ("car_make_classification", "tshirt_color_classification")


def test_on_photos_with_cars_and_people(
    file: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under the names of the default models, since no hub can be reached here.
    models = tmp_path / "models"
    (models / "therealcyberlord").mkdir(parents=True)
    (models / "yolo11n.pt").symlink_to(shared_data / "models" / "yolo11n_int8_openvino_model")
    (models / "therealcyberlord" / "stanford-car-vit-patch16").symlink_to(shared_data / "models" / "vit_car_make20")
    monkeypatch.setenv("VISIONGRAPH_MODELS", str(models))
    with VisionPipeline(file) as pipeline:
        bus, street, portrait = pipeline.run_batch(
            [shared_data / "corpus" / name for name in ("bus.jpg", "000000000247.jpg", "zidane.jpg")]
        )

    def ends(result: dict[str, object]) -> list[str]:
        return [step["status"] for step in result["steps"]]  # type: ignore[attr-defined, index]

    # a bus with persons before it: nobody asks for makes
    assert ends(bus) == ["ok", "skipped", "ok"]
    persons = [i for i, d in enumerate(bus["context"]["object_detection"]["detections"]) if d["class_name"] == "person"]
    assert [o["detection"] for o in bus["context"]["tshirt_color_classification"]["objects"]] == persons
    assert len(persons) >= 3
    # cars and nobody
    assert ends(street) == ["ok", "ok", "skipped"]
    detections = street["context"]["object_detection"]["detections"]
    cars = [i for i, d in enumerate(detections) if d["class_name"] in ("car", "truck")]
    makes = street["context"]["car_make_classification"]["objects"]
    assert [o["detection"] for o in makes] == cars
    assert all(len(o["labels"]) == 5 and 0 < o["confidence"] <= 1 for o in makes)
    assert ends(portrait) == ["ok", "skipped", "ok"]
