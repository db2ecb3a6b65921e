from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as PilImage

from classifiers.backends import ultralytics_networks as _ultralytics
from classifiers.backends import yolo as _yolo
from classifiers.backends.openvino_model import import_openvino
from classifiers.errors import ModelNotFound, SetupError
from classifiers.objects import ObjectClassifier
from classifiers.weights.finding import digest_weights

NAMES = {0: "cat", 1: "dog", 2: "car"}
Build = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def image(height: int, width: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels.setflags(write=False)
    return pixels


def anchors(*rows: tuple[float, ...]) -> np.ndarray:
    """A head's output from rows of x1, y1, x2, y2 and a score for each class, as columns of centre, size, scores."""
    boxes = np.array(rows, np.float32)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]
    return np.concatenate([centres, sizes, boxes[:, 4:]], axis=1).T


def constant_model(output: np.ndarray, size: tuple[int, int] | None = (64, 64), batch: int = -1) -> Any:
    """An OpenVINO model that answers every image with the same output (rows, columns)."""
    ov = import_openvino()
    ops = ov.opset13
    shape = [batch, 3, *(size or (-1, -1))]
    images = ops.parameter(shape, np.float32, name="images")
    zero = ops.multiply(ops.reduce_mean(images, np.array([1, 2, 3]), keep_dims=False), np.float32(0))
    for _ in output.shape:
        zero = ops.unsqueeze(zero, np.array(-1))
    return ov.Model([ops.add(zero, output[None].astype(np.float32))], [images], "constant")


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build(
        output: np.ndarray,
        size: tuple[int, int] | None = (64, 64),
        batch: int = -1,
        about: Mapping[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / "constant_openvino_model"
        import_openvino().save_model(constant_model(output, size, batch), folder / "model.xml", compress_to_fp16=False)
        about = {"names": NAMES, "task": "detect", "imgsz": [64, 64], "args": {"nms": False}} | dict(about or {})
        (folder / "metadata.yaml").write_text(yaml.safe_dump(about))
        return folder

    return build


def found(result: dict[str, Any]) -> list[tuple[str, list[float], float]]:
    return [(found["class_name"], found["bbox"], found["confidence"]) for found in result["detections"]]


# what is kept of the candidates -------------------------------------------------------------------------------------


def test_result_has_the_shape_of_the_contract(build: Build) -> None:
    folder = build(
        anchors((8, 16, 24, 32, 0, 0.61237, 0), (30, 30, 50, 60, 0.2, 0.1, 0.91), (0, 0, 9, 9, 0.2, 0.2, 0.2))
    )
    classifier = ObjectClassifier(str(folder))

    assert classifier.name == "objects"
    assert classifier.process(image(128, 128), {}) == {
        "detections": [
            {"bbox": [60.0, 60.0, 100.0, 120.0], "confidence": 0.91, "class_id": 2, "class_name": "car"},
            {"bbox": [16.0, 32.0, 48.0, 64.0], "confidence": 0.6124, "class_id": 1, "class_name": "dog"},
        ],
        "detected_classes": ["car", "dog"],
    }


def test_nothing_found(build: Build) -> None:
    classifier = ObjectClassifier(str(build(anchors((0, 0, 9, 9, 0.2, 0.1, 0.1)))))

    assert classifier.process(image(64, 64), {}) == {"detections": [], "detected_classes": []}
    assert classifier.process_batch([], []) == []


OVERLAPPING = anchors(
    (0, 0, 20, 20, 0.5, 0, 0),  # overlaps the next by 0.9
    (0, 0, 20, 18, 0.9, 0, 0),
    (0, 10, 20, 30, 0.6, 0, 0),  # overlaps by a third
    (0, 0, 20, 20, 0, 0.7, 0),  # another class
    (40, 40, 40, 60, 0.3, 0, 0),  # no area
)


@pytest.mark.parametrize(
    ("tunables", "expected"),
    [
        ({}, [("cat", 0.9), ("dog", 0.7), ("cat", 0.6)]),
        ({"iou": 0.95}, [("cat", 0.9), ("dog", 0.7), ("cat", 0.6), ("cat", 0.5)]),
        ({"iou": 0.2}, [("cat", 0.9), ("dog", 0.7)]),
        ({"confidence": 0.65}, [("cat", 0.9), ("dog", 0.7)]),
        ({"confidence": 0.95}, []),
        ({"max_detections": 1}, [("cat", 0.9)]),
        ({"classes": ["dog"]}, [("dog", 0.7)]),
        ({"classes": ["dog"], "max_detections": 1}, [("dog", 0.7)]),
        ({"classes": ["car", "cat"], "iou": 0.2}, [("cat", 0.9)]),
    ],
)
def test_tunables(build: Build, tunables: dict[str, Any], expected: list[tuple[str, float]]) -> None:
    folder = str(build(OVERLAPPING))
    made = ObjectClassifier(folder, **tunables)
    changed = ObjectClassifier(folder)
    changed.reconfigure(**tunables)

    for classifier in (made, changed):
        result = classifier.process(image(64, 64), {})
        assert [(name, confidence) for name, _, confidence in found(result)] == expected
        assert result["detected_classes"] == sorted({name for name, _ in expected})


def test_reconfigure_keeps_the_model_and_what_it_does_not_name(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = ObjectClassifier(str(build(OVERLAPPING)), confidence=0.65, classes=["cat"])
    monkeypatch.setattr("classifiers.objects.load_detector", None)

    classifier.reconfigure(iou=0.95)
    assert [confidence for *_, confidence in found(classifier.process(image(64, 64), {}))] == [0.9]
    classifier.reconfigure(confidence=0.25, classes=None)
    assert [confidence for *_, confidence in found(classifier.process(image(64, 64), {}))] == [0.9, 0.7, 0.6, 0.5]


@pytest.mark.parametrize(
    ("tunables", "message"),
    [
        ({"classes": ["cta", "zebra"]}, r"does not know 'cta' \(did you mean 'cat'\?\), 'zebra'$"),
        ({"classes": ["CAR "]}, r"'CAR ' \(did you mean 'car'\?\)"),
        ({"classes": []}, "classes: must not be empty"),
        ({"confidence": 1.5, "iou": -1}, "confidence: must be at most 1; got 1.5; iou: must be at least 0; got -1"),
        ({"max_detections": 0}, "max_detections: must be at least 1; got 0"),
        ({"confidense": 0.5}, r"confidense: unknown key; did you mean 'confidence'\?"),
    ],
)
def test_wrong_tunables_change_nothing(build: Build, tunables: dict[str, Any], message: str) -> None:
    folder = str(build(OVERLAPPING))
    classifier = ObjectClassifier(folder, confidence=0.65)

    with pytest.raises(SetupError, match=message):
        classifier.reconfigure(**{"classes": ["dog"]} | tunables)
    assert [confidence for *_, confidence in found(classifier.process(image(64, 64), {}))] == [0.9, 0.7]
    if "confidense" not in tunables:
        with pytest.raises(SetupError, match=message):
            ObjectClassifier(folder, **tunables)


# where boxes lie ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, [16, 16, 48, 48]),
        (128, 64, [0, 32, 64, 96]),  # half as wide: the canvas shows it from x 16 to 48
        (640, 1280, [320, 0, 960, 640]),
        (1, 1, [0.25, 0.25, 0.75, 0.75]),
        (3000, 4800, [1200, 300, 3600, 2700]),  # 14 megapixels
        (1, 40_000, [10_000, 0, 30_000, 1]),
    ],
)
def test_boxes_are_pixels_of_the_image(build: Build, height: int, width: int, expected: list[float]) -> None:
    classifier = ObjectClassifier(str(build(anchors((16, 16, 48, 48, 0.9, 0, 0)))))

    [(_, bbox, _)] = found(classifier.process(image(height, width), {}))

    assert bbox == pytest.approx(expected, abs=0.01)


def test_boxes_are_clipped_and_what_lay_beside_the_image_is_dropped(build: Build) -> None:
    # of a 64x32 canvas the image has x from 16 to 48
    output = anchors((-9, -9, 24, 99, 0.9, 0, 0), (0, 0, 16, 64, 0, 0.8, 0), (48.001, 10, 60, 20, 0, 0, 0.7))
    classifier = ObjectClassifier(str(build(output)))

    assert found(classifier.process(image(64, 32), {})) == [("cat", [0.0, 0.0, 8.0, 64.0], 0.9)]


@pytest.mark.parametrize("size", [None, (32, 96)])
def test_canvas_of_the_export(build: Build, size: tuple[int, int] | None) -> None:
    folder = build(anchors((0, 0, 32, 32, 0.9, 0, 0)), size=size, about={"imgsz": [32, 96]})

    [(_, bbox, _)] = found(ObjectClassifier(str(folder)).process(image(32, 96), {}))

    assert bbox == [0, 0, 32, 32]


def test_canvas_as_asked_for(build: Build) -> None:
    folder = build(anchors((0, 0, 32, 32, 0.9, 0, 0)), size=None)

    [(_, bbox, _)] = found(ObjectClassifier(str(folder), image_size=96).process(image(48, 48), {}))

    assert bbox == [0, 0, 16, 16]


# heads ---------------------------------------------------------------------------------------------------------------

PADDING = [[0.0] * 6] * 5


@pytest.mark.parametrize(
    ("output", "about", "bbox"),
    [
        pytest.param([[16, 16, 48, 48, 0.9, 2], *PADDING], {"end2end": True}, [0, 32, 64, 96], id="end to end"),
        pytest.param([[16, 16, 48, 48, 0.9, 2], *PADDING], {"args": {"nms": True}}, [0, 32, 64, 96], id="nms inside"),
        pytest.param([[16, 16, 48, 48, 0.9, 2], *PADDING], {}, [0, 32, 64, 96], id="end to end, not said"),
        pytest.param(
            [[0.5, 0.5, 0.5, 0.25, 0.9, 2], *PADDING], {"head": "RTDETRDecoder"}, [16, 48, 48, 80], id="RT-DETR"
        ),
        pytest.param(
            [[0.5, 0.5, 0.5, 0.25, 0, 0.1, 0.9], [0.0] * 7], {}, [16, 48, 48, 80], id="RT-DETR, a score for each class"
        ),
        pytest.param(
            [[16, 16, 48, 48, 0.9, 2], *PADDING], {"end2end": True, "stretch": 1}, [16, 32, 48, 96], id="stretched"
        ),
        pytest.param(
            np.concatenate([anchors((16, 16, 48, 48, 0, 0, 0.9)), np.ones((32, 1))]), {}, [0, 32, 64, 96], id="masks"
        ),
    ],
)
def test_each_head_is_read_its_own_way(build: Build, output: Any, about: dict[str, Any], bbox: list[float]) -> None:
    classifier = ObjectClassifier(str(build(np.array(output, np.float32), about=about)))

    assert found(classifier.process(image(128, 64), {})) == [("car", bbox, 0.9)]


def test_boxes_of_a_head_without_overlaps_are_all_kept_best_first(build: Build) -> None:
    output = np.array([[0, 0, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.8, 0], [0, 0, 9, 9, 0.6, 0]], np.float32)
    classifier = ObjectClassifier(str(build(output, about={"end2end": True})), max_detections=2)

    assert [confidence for *_, confidence in found(classifier.process(image(64, 64), {}))] == [0.8, 0.6]


@pytest.mark.parametrize(
    ("output", "about", "message"),
    [
        ((5, 9), {}, r"shape \(1, 5, 9\) is not that of a detector with 3 classes"),
        ((3,), {}, r"shape \(1, 3\) is not that of a detector"),
        ((7, 9), {"task": "classify"}, r"shape \(1, 7, 9\) is not that of a classifier with 3 classes"),
        ((7, 9), {"task": "depth"}, "is a model for 'depth'; use one for detect, segment, pose, obb or classify"),
        ((7, 9), {"task": "segment"}, "must have 2 outputs, but has"),
        ((11, 9), {"task": "pose", "kpt_shape": [17, 3]}, r"has 4 values for the keypoints .* are \(17, 3\); export"),
        ((7, 9), {"names": {}}, "does not name its classes; export it with ultralytics"),
    ],
)
def test_what_is_not_a_detector_is_refused(
    build: Build, output: tuple[int, ...], about: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        ObjectClassifier(str(build(np.zeros(output), about=about)))


# batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [-1, 1, 3])
def test_as_many_results_as_images(build: Build, batch: int) -> None:
    classifier = ObjectClassifier(str(build(anchors((16, 16, 48, 48, 0.9, 0, 0)), batch=batch)))
    images = [image(64, 64), image(128, 64), image(64, 64), image(32, 32)]

    results = classifier.process_batch(images, [{}] * 4)

    assert [found(result)[0][1] for result in results] == [
        [16, 16, 48, 48],
        [0, 32, 64, 96],
        [16, 16, 48, 48],
        [8, 8, 24, 24],
    ]
    classifier.warm_up(2)


# files ---------------------------------------------------------------------------------------------------------------


def test_digest_is_that_of_the_weights(build: Build) -> None:
    folder = build(OVERLAPPING)

    classifier = ObjectClassifier(str(folder))
    assert classifier.weights_digest == digest_weights(folder)
    assert ObjectClassifier(str(folder / "model.xml")).weights_digest == digest_weights(folder / "model.xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda"}, "runs in OpenVINO on the CPU, not on 'cuda'"),
        ({"image_size": 96}, r"exported for 64x64 \(HxW\).*imgsz=96"),
    ],
)
def test_what_an_export_cannot_do(build: Build, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        ObjectClassifier(str(build(OVERLAPPING)), **arguments)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("metadata.yaml", "has the class names"), ("model.bin", "model.bin to where model.xml is")],
)
def test_incomplete_folder(build: Build, missing: str, message: str) -> None:
    folder = build(OVERLAPPING)
    (folder / missing).unlink()

    with pytest.raises(ModelNotFound, match=message):
        ObjectClassifier(str(folder))


def test_two_models_in_one_folder(build: Build) -> None:
    folder = build(OVERLAPPING)
    (folder / "other.xml").touch()

    with pytest.raises(SetupError, match=r"has 2 OpenVINO models; name one of its \.xml files"):
        ObjectClassifier(str(folder))


@pytest.mark.parametrize("name", ["damaged.xml", "damaged.onnx", "damaged.pt", "damaged.engine", "damaged.txt"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a model")
    (tmp_path / "damaged.bin").touch()

    with pytest.raises(SetupError, match=rf"{name} cannot be (read|loaded)[\s\S]*fix: "):
        ObjectClassifier(str(tmp_path / name))


def onnx_message(*fields: tuple[int, bytes | int]) -> bytes:
    """A protobuf message (all that an ONNX file is) from numbered fields of less than 2**14 bytes."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])

    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def constant_onnx(output: np.ndarray, about: Mapping[str, str]) -> bytes:
    """What :func:`constant_model` is, as an ONNX file with metadata."""
    message = onnx_message

    def value_info(name: bytes, shape: tuple[int | str, ...]) -> bytes:
        dims = [(1, message((1, dim) if isinstance(dim, int) else (2, dim.encode()))) for dim in shape]
        return message((1, name), (2, message((1, message((1, 1), (2, message(*dims)))))))

    def tensor(name: bytes, values: np.ndarray) -> bytes:
        dims = [(1, dim) for dim in values.shape]
        return message(*dims, (2, 1), (8, name), (9, values.astype("<f4").tobytes()))

    def reduce_mean(source: bytes, target: bytes, axes: list[int], keep: int) -> bytes:
        axes_attribute = message((1, b"axes"), *[(8, axis) for axis in axes], (20, 7))
        keep_attribute = message((1, b"keepdims"), (3, keep), (20, 2))
        return message((1, source), (2, target), (4, b"ReduceMean"), (5, axes_attribute), (5, keep_attribute))

    graph = message(
        (1, reduce_mean(b"images", b"rows", [3], 0)),
        (1, reduce_mean(b"rows", b"mean", [1, 2], 1)),
        (1, message((1, b"mean"), (1, b"zero"), (2, b"nothing"), (4, b"Mul"))),
        (1, message((1, b"nothing"), (1, b"answer"), (2, b"output0"), (4, b"Add"))),
        (2, b"constant"),
        (5, tensor(b"zero", np.zeros((1, 1, 1)))),
        (5, tensor(b"answer", output[None])),
        (11, value_info(b"images", ("batch", 3, 64, 64))),
        (12, value_info(b"output0", ("batch", *output.shape))),
    )
    properties = [(14, message((1, key.encode()), (2, value.encode()))) for key, value in about.items()]
    return message((1, 8), (8, message((2, 13))), (7, graph), *properties)


def test_onnx_on_the_cpu(tmp_path: Path) -> None:
    about = {"names": str(NAMES), "task": "detect", "imgsz": "[64, 64]", "stride": "32", "args": "{'nms': False}"}
    (tmp_path / "model.onnx").write_bytes(constant_onnx(anchors((16, 16, 48, 48, 0, 0.9, 0)), about))

    classifier = ObjectClassifier(str(tmp_path / "model.onnx"), device="cpu")

    assert found(classifier.process(image(128, 64), {})) == [("dog", [0, 32, 64, 96], 0.9)]


def test_onnx_without_metadata(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(constant_onnx(OVERLAPPING, {}))

    with pytest.raises(SetupError, match="does not name its classes"):
        ObjectClassifier(str(tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("device", "providers", "cuda", "expected"),
    [
        ("cpu", ["CUDAExecutionProvider"], True, False),
        ("cuda:1", None, True, True),
        ("auto", None, True, False),
        ("auto", ["CPUExecutionProvider"], True, False),
        ("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"], False, False),
        ("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"], True, True),
    ],
)
def test_onnx_runs_on_a_gpu_where_onnx_runtime_can(
    monkeypatch: pytest.MonkeyPatch, device: str, providers: list[str] | None, cuda: bool, expected: bool
) -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: providers and runtime)
    monkeypatch.setattr("importlib.import_module", lambda _: runtime)
    monkeypatch.setattr(_yolo, "choose_device", lambda _: SimpleNamespace(type="cuda" if cuda else "cpu"))

    assert _yolo._onnx_on_gpu(device) is expected


# ultralytics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["yolo11n", "yolov8n-pose"])
def test_same_detections_as_ultralytics_itself(
    yolos: Callable[[str], Path], photos: list[np.ndarray], architecture: str
) -> None:
    path = yolos(architecture)
    classifier = ObjectClassifier(str(path), confidence=0.3, max_detections=50, image_size=320, device="cpu")
    ultralytics = sys.modules["ultralytics"]

    for photo in photos[: 1 if architecture == "yolov8n-pose" else 2]:
        [reference] = ultralytics.YOLO(path).predict(
            photo[..., ::-1].copy(), conf=0.3, iou=0.7, max_det=50, imgsz=320, rect=False, verbose=False
        )
        boxes = reference.boxes[(reference.boxes.xywh[:, 2:] > 0.01).all(1)]  # we keep none without an area
        detections = classifier.process(photo, {})["detections"]
        assert len(detections) > 5
        assert [found["class_id"] for found in detections] == boxes.cls.tolist()
        np.testing.assert_allclose([found["bbox"] for found in detections], boxes.xyxy, atol=2)
        np.testing.assert_allclose([found["confidence"] for found in detections], boxes.conf, atol=1e-3)


def test_a_photo_does_not_depend_on_its_batch(yolos: Callable[[str], Path], photos: list[np.ndarray]) -> None:
    classifier = ObjectClassifier(str(yolos("yolo11n")), confidence=0.3, image_size=320, device="cpu")

    alone = [classifier.process(photo, {}) for photo in photos]
    together = classifier.process_batch([photos[1], photos[0], image(1, 1)], [{}] * 3)[:2]

    for one, other in zip(alone, reversed(together), strict=True):
        assert [found["class_id"] for found in one["detections"]] == [
            found["class_id"] for found in other["detections"]
        ]
        for first, second in zip(one["detections"], other["detections"], strict=True):
            assert first["confidence"] == pytest.approx(second["confidence"], abs=2e-4)
            assert first["bbox"] == pytest.approx(second["bbox"], abs=0.05)


def test_checkpoint_has_the_size_it_was_trained_at(yolos: Callable[[str], Path]) -> None:
    classifier = ObjectClassifier(str(yolos("yolo11n")), device="cpu")

    assert classifier._detector.size == (640, 640)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:Converting a tensor")
@pytest.mark.slow
def test_an_export_that_ultralytics_runs(yolos: Callable[[str], Path], photos: list[np.ndarray]) -> None:
    path = yolos("yolo11n")
    exported = sys.modules["ultralytics"].YOLO(path).export(format="torchscript", imgsz=320, verbose=False)
    native = ObjectClassifier(str(path), confidence=0.3, max_detections=20, image_size=320, device="cpu")
    script = ObjectClassifier(exported, confidence=0.3, max_detections=20, device="cpu")

    first, second = (classifier.process(photos[0], {})["detections"] for classifier in (native, script))

    assert [found["class_id"] for found in first] == [found["class_id"] for found in second]
    np.testing.assert_allclose([found["bbox"] for found in first], [found["bbox"] for found in second], atol=0.5)
    with pytest.raises(SetupError, match="exported for 320x320"):
        ObjectClassifier(exported, image_size=640, device="cpu")


class Payload:
    """What a malicious checkpoint would hold: unpickling it runs a function."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    import torch

    torch.save({"model": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")

    with pytest.raises(SetupError, match=r"evil\.pt cannot be loaded[\s\S]*ULTRALYTICS_SAFE_LOAD=false"):
        ObjectClassifier(str(tmp_path / "evil.pt"), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_cannot_run_code_where_something_else_imported_ultralytics_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ultralytics.utils", "ultralytics.nn.tasks"):
        monkeypatch.setattr(importlib.import_module(module), "SAFE_LOAD", False)
    test_a_checkpoint_cannot_run_code(tmp_path)


def test_size_that_the_network_cannot_take(yolos: Callable[[str], Path]) -> None:
    with pytest.raises(SetupError, match="image_size must be a multiple of 32"):
        ObjectClassifier(str(yolos("yolo11n")), image_size=100, device="cpu")


class FakeDownloads:
    GITHUB_ASSETS_NAMES = frozenset({"yolo11n.pt"})

    def __init__(self, outcome: Exception | bytes | None) -> None:
        self.outcome = outcome

    def attempt_download_asset(self, file: Path, **_: Any) -> None:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is not None:
            file.parent.mkdir(parents=True)
            file.write_bytes(self.outcome)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model is found on this machine; the folder is the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VISIONGRAPH_MODELS", raising=False)
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("model", "outcome", "message"),
    [
        ("yolo11n.pt", ConnectionError("offline"), r"downloading it from ultralytics failed \(offline\)"),
        ("yolo11n.pt", None, "downloading it from ultralytics failed$"),
        ("mine.pt", None, "it is none of the models that ultralytics publishes"),
    ],
)
def test_a_model_that_is_nowhere(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, model: str, outcome: Exception | None, message: str
) -> None:
    monkeypatch.setattr(_ultralytics, "_import", lambda _: FakeDownloads(outcome))

    with pytest.raises(ModelNotFound, match=message) as raised:
        ObjectClassifier(model)
    assert str(nowhere / "models" / model) in str(raised.value)
    assert "VISIONGRAPH_MODELS" in str(raised.value)


def test_a_model_is_fetched_into_the_cache(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ultralytics, "_import", lambda _: FakeDownloads(b"weights"))

    assert _ultralytics.download("yolo11n.pt") == nowhere / "models" / "yolo11n.pt"


# what other people's packages may not do ------------------------------------------------------------------------------


def run_python(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PATH": "/usr/bin:/bin",
    } | environment
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
        import sys
        import classifiers.makes, classifiers.objects, classifiers.weights
        print(sorted({"torch", "ultralytics", "transformers", "openvino", "huggingface_hub"} & set(sys.modules)))
    """
    assert run_python(code, tmp_path).stdout == "[]\n"


def test_openvino_comes_without_torch_and_ultralytics(build: Build, tmp_path: Path) -> None:
    code = f"""
        import sys
        from classifiers.objects import ObjectClassifier
        ObjectClassifier({str(build(OVERLAPPING))!r})
        print(sorted({{"torch", "ultralytics", "openvino_telemetry"}} & set(sys.modules)))
    """
    (tmp_path / "home").mkdir()
    ran = run_python(code, tmp_path / "home")

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_ultralytics_leaves_the_process_and_the_home_folder_alone(yolos: Callable[[str], Path], tmp_path: Path) -> None:
    code = f"""
        import os, socket, cv2, numpy, torch, PIL.Image
        asked = []
        socket.getaddrinfo = lambda *arguments: asked.append(arguments)
        before = dict(os.environ), PIL.Image.open, torch.save, cv2.imread, numpy.get_printoptions()
        from classifiers.objects import ObjectClassifier
        classifier = ObjectClassifier({str(yolos("yolo11n"))!r}, image_size=64, device="cpu")
        classifier.warm_up(2)
        assert before == (dict(os.environ), PIL.Image.open, torch.save, cv2.imread, numpy.get_printoptions())
        assert torch.get_num_threads() == cv2.getNumThreads() == 1
        import ultralytics.utils, ultralytics.utils.checks
        assert not ultralytics.utils.checks.AUTOINSTALL and not asked
        ultralytics.utils.LOGGER.info("chatter")
        ultralytics.utils.LOGGER.error("trouble")
    """
    cache = tmp_path / "cache"
    (tmp_path / "home").mkdir()
    ran = run_python(code, tmp_path / "home", VISIONGRAPH_CACHE=str(cache), OMP_NUM_THREADS="1")

    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1].endswith("trouble")
    assert len(ran.stderr.splitlines()) == 1
    assert list((tmp_path / "home").iterdir()) == []
    assert [path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()] == [
        "Ultralytics/settings.json"
    ]


# real models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["yolo11n_int8_openvino_model", "yolov8n_int8.onnx"])
def test_real_models_on_a_real_photo(shared_data: Path, model: str) -> None:
    photo = np.asarray(PilImage.open(shared_data / "corpus" / "bus.jpg").convert("RGB"))
    classifier = ObjectClassifier(str(shared_data / "models" / model))

    result = classifier.process_batch([photo[:200], photo], [{}, {}])[1]

    assert result == classifier.process(photo, {})
    assert result["detected_classes"] == ["bus", "person"]
    assert sum(found["class_name"] == "person" for found in result["detections"]) == 4
    [bus] = [found for found in result["detections"] if found["class_name"] == "bus"]
    assert bus["bbox"] == pytest.approx([20, 230, 803, 750], abs=25)
    confidences = [found["confidence"] for found in result["detections"]]
    assert confidences == sorted(confidences, reverse=True)
