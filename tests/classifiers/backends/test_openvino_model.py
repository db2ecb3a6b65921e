from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from classifiers.backends import openvino_model as _openvino
from classifiers.backends.openvino_model import OpenVinoModel, import_openvino, input_size, read_model
from classifiers.errors import SetupError


def averaging(shape: list[int], element: Any = np.float32) -> Any:
    """A model that answers with the mean of each channel."""
    ov = import_openvino()
    images = ov.opset13.parameter(shape, element)
    means = ov.opset13.reduce_mean(images, np.array([2, 3]), keep_dims=False)
    return ov.Model([means], [images], "averaging")


def colours(*pixels: tuple[int, int, int]) -> np.ndarray:
    """One image of 4 x 4 for each colour."""
    images = np.broadcast_to(np.array(pixels, np.uint8)[:, None, None], (len(pixels), 4, 4, 3))
    assert not images.flags.writeable
    return images


@pytest.mark.parametrize("element", [np.float32, np.float16])
@pytest.mark.parametrize("batch", [-1, 1, 2])
def test_images_are_normalised_in_the_graph(batch: int, element: Any) -> None:
    model = OpenVinoModel(averaging([batch, 3, 4, 4], element), (4, 4), mean=[0, 10, 100], scale=[1, 2, 4])

    answers = model(colours((200, 20, 100), (0, 10, 104), (1, 2, 4)))

    np.testing.assert_allclose(answers, [[200, 5, 0], [0, 0, 1], [1, -4, -24]], atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "expected"), [([1, 3, 4, 6], (4, 6)), ([-1, 3, 4, 6], (4, 6)), ([1, 3, -1, 6], None)]
)
def test_input_size(shape: list[int], expected: tuple[int, int] | None) -> None:
    assert input_size(averaging(shape)) == expected


def test_a_size_that_the_model_cannot_take() -> None:
    ov = import_openvino()
    images = ov.opset13.parameter([1, 3, 4, 4], np.float32)
    added = ov.opset13.add(images, np.zeros((1, 3, 4, 4), np.float32))

    with pytest.raises(SetupError, match=r"cannot take images of 8x6 \(HxW\)"):
        OpenVinoModel(ov.Model([added], [images], "fixed"), (8, 6), 0.0, 1.0)


def test_one_thread_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    compiled = OpenVinoModel(averaging([1, 3, 4, 4]), (4, 4), 0.0, 1.0)._compiled

    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == import_openvino().Type.f32


class FakeCore:
    def __init__(self, capabilities: list[str]) -> None:
        self.capabilities = capabilities
        self.config: dict[str, Any] = {}

    def get_property(self, device: str, name: str) -> list[str]:
        return self.capabilities

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> None:
        self.config = config


def test_half_precision_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    core = FakeCore(["FP32", "BF16"])
    monkeypatch.setattr(import_openvino(), "Core", lambda: core)

    OpenVinoModel(averaging([1, 3, 4, 4]), (4, 4), 0.0, 1.0, half=True)
    assert core.config["INFERENCE_PRECISION_HINT"] == "bf16"
    core.capabilities = ["FP32"]
    with pytest.raises(SetupError, match="half: true needs a CPU that computes in bfloat16"):
        OpenVinoModel(averaging([1, 3, 4, 4]), (4, 4), 0.0, 1.0, half=True)


@pytest.mark.parametrize("shape", [[1, 4, 4], [1, 1, 4, 4], [1, 4, 4, 3]])
def test_what_does_not_take_images(tmp_path: Path, shape: list[int]) -> None:
    ov = import_openvino()
    given = ov.opset13.parameter(shape, np.float32)
    ov.save_model(ov.Model([ov.opset13.relu(given)], [given], "other"), tmp_path / "other.xml")

    with pytest.raises(SetupError, match=r"one input of shape \(N, 3, H, W\), but has"):
        read_model(tmp_path / "other.xml")


def test_reason_of_an_error_without_words() -> None:
    assert _openvino._reason(RuntimeError(" \n")) == "no reason given"


def test_telemetry_that_is_imported_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, telemetry = ModuleType("openvino"), ModuleType("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", telemetry)
    monkeypatch.setitem(sys.modules, "openvino", fake)

    assert import_openvino() is fake
    assert sys.modules["openvino_telemetry"] is telemetry
