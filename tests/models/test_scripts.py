"""The scripts that make the models: what can be checked without training anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openvino
import pytest
import torch
from typer.testing import CliRunner

from classifiers.weights.finding import find_model
from models import build_centernet, train_car_make
from serve_app.photos import demo_photos


@pytest.mark.parametrize("script", [build_centernet, train_car_make], ids=lambda script: script.__name__)
def test_has_help(script: ModuleType) -> None:
    result = CliRunner().invoke(script.app, ["--help"])

    assert result.exit_code == 0
    assert "Usage" in result.output


def _arrays(values: Sequence[npt.NDArray[np.float32]]) -> tuple[list[dict[str, Any]], bytes]:
    """The manifest of constants named 0, 1 and so on, and their bytes: float16, as the package has them."""
    manifest = [
        {"name": str(number), "shape": list(value.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for number, value in enumerate(values)
    ]
    return manifest, b"".join(value.astype(np.float16).tobytes() for value in values)


def test_constants_are_read_one_after_the_other() -> None:
    manifest, weights = _arrays([np.float32([[1, 2, 3]]), np.array(0.5, np.float32)])
    manifest.append({"name": "axis", "shape": [], "dtype": "int32"})

    constants = build_centernet._constants(manifest, weights + np.int32(3).tobytes())

    np.testing.assert_array_equal(constants["0"], [[1, 2, 3]])
    assert constants["1"].shape == ()
    assert constants["1"].dtype == np.float32
    assert constants["axis"] == 3


@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions_are_split_into_convolution_bias_and_relu(depthwise: bool) -> None:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 2, 6, 6)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, 2, 1 if depthwise else 4)).astype(np.float32)  # height, width, in, out
    bias = generator.normal(size=2 if depthwise else 4).astype(np.float32)
    node = {
        "name": "convolution",
        "op": "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D",
        "input": ["image", "kernel", "bias"],
        "attr": {
            "fused_ops": {"list": {"s": [base64.b64encode(name).decode() for name in (b"BiasAdd", b"Relu")]}},
            "strides": {"list": {"i": ["1", "2", "2", "1"]}},
            "padding": {"s": base64.b64encode(b"SAME").decode()},
        },
    }
    parameter = openvino.opset13.parameter(image.shape, np.float32)

    translated = build_centernet._translate(node, {"image": parameter}.__getitem__, {"kernel": kernel, "bias": bias})

    weight = torch.from_numpy(kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1))
    padded = torch.nn.functional.pad(torch.from_numpy(image), (0, 1, 0, 1))  # TensorFlow pads right and bottom first
    expected = torch.nn.functional.conv2d(
        padded, weight.contiguous(), torch.from_numpy(bias), stride=2, groups=2 if depthwise else 1
    ).relu()
    compiled = openvino.compile_model(
        openvino.Model([translated], [parameter], "test"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )  # by default OpenVINO computes in bfloat16 where the processor has it
    np.testing.assert_allclose(compiled(image)[0], expected, atol=1e-2)


def test_candidates_are_the_peaks_with_their_boxes() -> None:
    side = build_centernet.SIDE // build_centernet.STRIDE
    logits = np.full((1, 80, side, side), -9, np.float32)
    logits[0, 2, 10, 20] = 2.0
    logits[0, 2, 10, 21] = 1.0  # beside a higher one
    logits[0, 5, 40, 50] = 0.0
    distances = np.zeros((1, 4, side, side), np.float32)
    distances[0, :, 10, 20] = 8, 4, 16, 12
    parameters = [openvino.opset13.parameter(array.shape, np.float32) for array in (logits, distances)]

    model = build_centernet._decoded(openvino.Model(parameters, parameters, "test"))
    first, second = openvino.compile_model(model, "CPU")([logits, distances])[0][0].T[:2]

    # the point (80, 40) in pixels, and what lies to the left, top, right and bottom of it
    np.testing.assert_allclose(first[:4], [84, 44, 24, 16])
    assert (first[4:].argmax(), second[4:].argmax()) == (2, 5)
    np.testing.assert_allclose([first[4:].max(), second[4:].max()], [0.8808, 0.5], atol=1e-4)


def test_an_operation_that_is_not_known_is_named() -> None:
    with pytest.raises(NotImplementedError, match="last: operation TopKV2"):
        build_centernet._translate({"name": "last", "op": "TopKV2"}, {}.__getitem__, {})


def _rows(*models: str) -> list[dict[str, str]]:
    return [
        {"file": f"{model}/{number}.jpg", "class_name": model, "make": model[0]}
        for model in models
        for number in range(20)
    ]


def test_a_tenth_of_each_model_is_held_out_whatever_else_there_is() -> None:
    chosen = train_car_make._held_out(_rows("A1", "A2"))

    assert [place // 20 for place in chosen] == [0, 0, 1, 1]
    assert train_car_make._held_out(_rows("A1", "A2", "B1"))[:4] == chosen


def test_what_equals_a_crop_that_is_held_out_is_not_trained_on() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    pixels[3] = np.clip(pixels[1] * 0.9 + 8, 0, 255)

    assert train_car_make._copies(pixels, [1]) == {3}


def test_the_probability_of_a_make_is_the_sum_over_its_models() -> None:
    labels = torch.zeros(0, dtype=torch.int64)
    crops = train_car_make.Crops(np.empty((0, 1, 1, 3), np.uint8), labels, ["A1", "A2", "B1"], ["A", "A", "B"], [], [])
    logits = openvino.opset13.parameter([1, 3], np.float32)
    identity = openvino.opset13.multiply(logits, np.float32(1))

    model = train_car_make._of_makes(openvino.Model([identity], [logits], "models"), crops)
    single = {"INFERENCE_PRECISION_HINT": "f32"}
    scores = openvino.compile_model(model, "CPU", single)(np.log([[0.2, 0.3, 0.5]], dtype=np.float32))[0]

    np.testing.assert_allclose(np.exp(scores), [[0.5, 0.5]], atol=1e-5)


def test_training_images_are_normalised_and_differ() -> None:
    grey = np.full((2, train_car_make.STORED_SIDE, train_car_make.STORED_SIDE, 3), 124, np.uint8)

    images = train_car_make._augmented(grey, 98, np.random.default_rng(0))

    assert images.shape == (2, 3, 98, 98)
    assert not torch.equal(images[0], images[1])
    assert train_car_make._normalised(grey).abs().max() < 0.5


def test_an_export_is_read_back() -> None:
    folder = find_model("vit_s14_car_make49")
    assert folder is not None
    exported = openvino.Core().read_model(folder / "model.xml")
    sums = next(node for node in exported.get_ops() if node.get_friendly_name().startswith("MatMul_")).input_value(1)
    side = exported.input(0).get_partial_shape()[2].get_length()
    photo = cv2.cvtColor(cv2.imread(str(demo_photos()[0])), cv2.COLOR_BGR2RGB)[225:745, 20:804]  # a bus
    images = [cv2.resize(image, (side, side)) for image in (photo, photo[:, ::-1])]
    pixels = train_car_make._normalised(np.stack(images))
    single = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = np.exp(openvino.compile_model(exported, "CPU", single)(pixels.numpy())[0])

    network = train_car_make._network(196).eval()
    train_car_make._load(network, folder / "model.xml")
    with torch.inference_mode():
        makes = network(pixels).logits.softmax(1).numpy() @ sums.get_node().data

    np.testing.assert_allclose(makes, expected, atol=0.1)


def test_positions_are_interpolated_for_other_sizes() -> None:
    positions = torch.cat([torch.full((1, 1, 2), 9.0), torch.arange(100.0).reshape(1, 100, 1).expand(-1, -1, 2)], 1)

    assert torch.equal(train_car_make._fitted(positions, 140), positions)
    larger = train_car_make._fitted(positions, 154)
    assert larger.shape == (1, 122, 2)
    assert larger[0, 0].tolist() == [9, 9]
    assert larger[0, 1:].mean() == pytest.approx(49.5, abs=0.1)
