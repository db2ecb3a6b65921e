"""Build the demo's detector: the SSD MobileNetV2 that Google trained on Open Images V4, as int8 OpenVINO.

    pip install -e ".[models]"
    python models/build_ssd.py --data FOLDER --out classifiers/weights/ssd_mobilenet_v2_oiv4

The weights come from the npm package `@mediapipe/objectron` (Apache-2.0), of which no code is run. The output is laid
out like that of a YOLO that ultralytics exports, so that `ObjectClassifier` loads the result like any other model.

FOLDER is a data set in ultralytics' layout, `data.yaml` and `train/{images,labels}`: its photos set the int8 ranges,
and its labels what a confidence means; the network's own are lower for a person than for a car that is as surely there.
"""

from __future__ import annotations

import hashlib
import math
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
import yaml

from classifiers._letterbox import letterbox
from classifiers.base import Image
from classifiers.images import DEFAULT_LIMITS, decode
from classifiers.objects import ObjectClassifier

Floats = npt.NDArray[np.floating[Any]]

PACKAGE = "@mediapipe/objectron@0.4.1675468480"
PACKAGE_SHA256 = "fc3e37b326b05e8f596099c90b3e0931b05a56cd3160b9ac450b621794bac94c"
ASSETS = "package/objectron_solution_packed_assets.data"
# where the files lie inside ASSETS stands in objectron_solution_packed_assets_loader.js
LABELS_END = 184

SIDE = 300
# `SsdAnchorsCalculatorOptions` of MediaPipe's objectron graph
FEATURE_MAPS = (19, 10, 5, 3, 2, 1)
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
ASPECT_RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
INT8_PHOTOS = 300
CONFIDENCE_PHOTOS = 1000
LEAST_SHARE = 0.05
"""Confidences are fitted on objects that cover at least this share of their photo: what is cropped and classified."""
COMMON_THRESHOLD = 0.25
"""The default of `ObjectClassifier`."""
# `TensorsToDetectionsCalculatorOptions`: what the network's offsets were multiplied by in training
BOX_SCALES = (10.0, 10.0, 5.0, 5.0)

COCO_NAMES = {
    "Cattle": "cow",
    "Coffee cup": "cup",
    "Computer monitor": "tv",
    "Computer mouse": "mouse",
    "Mug": "cup",
    "Table": "dining table",
}
"""Open Images' names of what COCO has another name for; all others only lose their capital letter."""

NOTICE = f"""SSD MobileNetV2, trained by Google on Open Images V4. Copyright The MediaPipe Authors.
Licensed under the Apache License, Version 2.0: see LICENSE.

Taken from object_detection_ssd_mobilenetv2_oidv4_fp16.tflite in the npm package {PACKAGE}.
Changed by models/build_ssd.py: quantised to int8, boxes decoded inside the model, confidences shifted class by class,
labels renamed.
"""


@dataclass(frozen=True)
class Seen:
    """A detection, and whether it is right."""

    class_name: str
    confidence: float
    right: bool


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def build(
    data: Annotated[Path, typer.Option(help="Data set folder with data.yaml.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    licence: Annotated[
        Path, typer.Option(help="The text of the Apache License 2.0, copied beside the weights.")
    ] = Path("/usr/share/common-licenses/Apache-2.0"),
) -> None:
    labels, network = _fetch()
    # the first label is the background
    names = [COCO_NAMES.get(label, label.lower()) for label in labels[1:]]
    photos = sorted((data / "train" / "images").iterdir())
    random.Random(0).shuffle(photos)
    quantised = _quantise(network, photos[:INT8_PHOTOS])
    with tempfile.TemporaryDirectory() as folder:
        _save(quantised, names, np.zeros(len(names)), Path(folder))
        labelled_photos = photos[INT8_PHOTOS : INT8_PHOTOS + CONFIDENCE_PHOTOS]
        seen, objects = _compare(Path(folder), labelled_photos, _label_names(data))
    _save(quantised, names, _fit_offsets(seen, {name: n for name, n in objects.items() if name in names}, names), out)
    (out / "NOTICE").write_text(NOTICE)
    shutil.copyfile(licence, out / "LICENSE")
    typer.echo(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.2f} MB")


def _fetch() -> tuple[list[str], bytes]:
    """The labels, background first, and the bytes of the .tflite file."""
    npm = shutil.which("npm")
    if npm is None:
        raise typer.BadParameter("npm is not installed; it fetches the package that holds the weights")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True)  # noqa: S603
        (package,) = Path(folder).glob("*.tgz")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != PACKAGE_SHA256:
            raise typer.BadParameter(f"the SHA-256 of {PACKAGE} is {digest}, but should be {PACKAGE_SHA256}")
        with tarfile.open(package) as archive:
            member = archive.extractfile(ASSETS)
            assert member is not None, f"{ASSETS} is a file"  # noqa: S101 - the digest was checked
            assets = member.read()
    return assets[:LABELS_END].decode().strip().split("\n"), assets[LABELS_END:]


def _quantise(network: bytes, photos: Sequence[Path]) -> Any:
    import nncf
    import openvino

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        tflite, single = Path(folder) / "model.tflite", Path(folder) / "model.xml"
        tflite.write_bytes(network)
        # through a file: read from .tflite, the float16 weights are hidden behind conversions that nncf keeps
        openvino.save_model(_with_one_output(core.read_model(tflite)), single)
        model = core.read_model(single)
    images = np.empty((len(photos), 1, SIDE, SIDE, 3), np.uint8)
    for photo, image in zip(photos, images, strict=True):
        letterbox([_read(photo)], image)
    inputs = [image.astype(np.float32).transpose(0, 3, 1, 2) / 255 for image in images]
    preset = nncf.QuantizationPreset.MIXED
    return nncf.quantize(model, nncf.Dataset(inputs), preset=preset, fast_bias_correction=False)


def _with_one_output(model: Any) -> Any:
    """(1, 3, 300, 300) RGB, 0..1, in; offsets and logits side by side (1, 1917, 28) out."""
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, 3, SIDE, SIDE], np.float32, "image")
    from_minus_one = ops.subtract(ops.multiply(image, np.float32(2)), np.float32(1))
    channels_last = ops.transpose(from_minus_one, np.array([0, 2, 3, 1]))
    for target in model.inputs[0].get_target_inputs():
        target.replace_source_output(channels_last.output(0))
    outputs = ("raw_outputs/box_encodings", "raw_outputs/class_predictions")
    parts = [model.output(name).get_node().input_value(0) for name in outputs]
    return openvino.Model([ops.concat(parts, 2)], [image], "ssd_mobilenet_v2_oiv4")


def _save(model: Any, names: Sequence[str], offsets: Floats, folder: Path) -> None:
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(_in_yolo_layout(model, offsets), folder / "model.xml", compress_to_fp16=True)
    about = {"task": "detect", "imgsz": [SIDE, SIDE], "batch": 1, "names": dict(enumerate(names))}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


def _in_yolo_layout(model: Any, offsets: Floats) -> Any:
    """The output as (1, 4 + classes, 1917): centre, width and height in pixels, then a score for each class."""
    import openvino
    from openvino import opset13 as ops

    raw = model.outputs[0].get_node().input_value(0)
    y, x, height, width, _background, logits = ops.variadic_split(raw, 2, [1, 1, 1, 1, 1, len(offsets)]).outputs()
    anchors = _anchors()[None]
    anchor_y, anchor_x, anchor_height, anchor_width = (anchors[..., i : i + 1] for i in range(4))
    scale_y, scale_x, scale_height, scale_width = (np.float32(scale) for scale in BOX_SCALES)
    box = [
        ops.add(ops.multiply(x, anchor_width / scale_x), anchor_x),
        ops.add(ops.multiply(y, anchor_height / scale_y), anchor_y),
        ops.multiply(ops.exp(ops.divide(width, scale_width)), anchor_width),
        ops.multiply(ops.exp(ops.divide(height, scale_height)), anchor_height),
    ]
    pixels = ops.multiply(ops.concat(box, 2), np.float32(SIDE))
    scores = ops.sigmoid(ops.add(logits, offsets.astype(np.float32)))
    rows = ops.concat([pixels, scores], 2)
    return openvino.Model([ops.transpose(rows, np.array([0, 2, 1]))], model.get_parameters(), "ssd_mobilenet_v2_oiv4")


def _compare(model: Path, photos: Sequence[Path], label_names: Mapping[int, str]) -> tuple[list[Seen], Counter[str]]:
    """The large objects that the detector sees, and how many the labels have of each class."""
    detector = ObjectClassifier(model=str(model), confidence=0.1, iou=0.5)
    seen: list[Seen] = []
    objects: Counter[str] = Counter()
    for photo in photos:
        image = _read(photo)
        height, width = image.shape[:2]
        labels = [
            (
                label_names[int(class_id)],
                [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height],
            )
            for class_id, x, y, w, h in _read_labels(photo)
        ]
        least = LEAST_SHARE * width * height
        objects.update(name for name, box in labels if _area(box) >= least)
        for found in detector.process(image, {})["detections"]:
            if _area(found["bbox"]) < least:
                continue
            same = (
                label for label in labels if label[0] == found["class_name"] and _iou(found["bbox"], label[1]) >= 0.5
            )
            match = next(same, None)
            if match is not None:
                labels.remove(match)
            seen.append(Seen(found["class_name"], found["confidence"], match is not None))
    return seen, objects


def _fit_offsets(seen: Sequence[Seen], labelled: Mapping[str, int], names: Sequence[str]) -> Floats:
    """What to add to each class's logits, so that ``COMMON_THRESHOLD`` is the one with the best F1 for all of them.

    Classes that have no labels get what fits all labelled ones together.

    Args:
        seen: the detections.
        labelled: how many objects there are of each class.
        names: the network's classes.
    """
    thresholds = {
        name: _best_threshold([one for one in seen if one.class_name == name], labelled[name]) for name in labelled
    }
    others = _best_threshold([one for one in seen if one.class_name in labelled], sum(labelled.values()))
    for name, threshold in [*thresholds.items(), ("others", others)]:
        typer.echo(f"best threshold for {name}: {threshold:.2f}")
    thresholds["vehicle"] = thresholds["car"]  # both are proposed for one box: the higher must go on winning
    return np.array([_logit(COMMON_THRESHOLD) - _logit(thresholds.get(name, others)) for name in names])


def _best_threshold(seen: Sequence[Seen], objects: int) -> float:
    ordered = sorted(seen, key=lambda one: -one.confidence)
    right = np.cumsum([one.right for one in ordered])
    f1 = 2 * right / (np.arange(len(ordered)) + 1 + objects)
    return ordered[int(f1.argmax())].confidence


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _anchors() -> npt.NDArray[np.float32]:
    """(1917, 4) as centre y, centre x, height, width, in shares of the image: MediaPipe's `SsdAnchorsCalculator`."""
    rows = []
    for layer, cells in enumerate(FEATURE_MAPS):
        scale = SCALES[layer]
        if layer == 0:
            shapes = [(1.0, 0.1), (2.0, scale), (0.5, scale)]  # `reduce_boxes_in_lowest_layer`
        else:
            shapes = [(ratio, scale) for ratio in ASPECT_RATIOS]
            shapes.append((1.0, math.sqrt(scale * SCALES[layer + 1])))
        rows += [
            ((row + 0.5) / cells, (column + 0.5) / cells, size / math.sqrt(ratio), size * math.sqrt(ratio))
            for row in range(cells)
            for column in range(cells)
            for ratio, size in shapes
        ]
    return np.array(rows, np.float32)


def _read(photo: Path) -> Image:
    return decode(photo.read_bytes(), DEFAULT_LIMITS)


def _label_names(data: Path) -> dict[int, str]:
    names: dict[int, str] = yaml.safe_load((data / "data.yaml").read_text())["names"]
    return names


def _read_labels(photo: Path) -> list[list[float]]:
    """Class id and centre, width and height in shares of the photo, for each object."""
    file = photo.parent.parent / "labels" / f"{photo.stem}.txt"
    return [[float(value) for value in line.split()] for line in file.read_text().splitlines()]


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    corners = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    shared = _area(corners)
    return shared / (_area(one) + _area(other) - shared)


if __name__ == "__main__":
    app()
