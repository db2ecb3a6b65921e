from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from tiny_models import save_image_classifier

from classifiers.backends.openvino_model import import_openvino
from classifiers.errors import ModelNotFound, SetupError
from classifiers.text import ZeroShotClassifier

LABELS = ["car", "dog", "delivery van"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def noise(seed: int = 0, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 100, (*size, 3)) + generator.integers(0, 156, 3)).astype(np.uint8)


def reference(folder: Path, pixels: np.ndarray, prompts: list[str]) -> np.ndarray:
    """The logits that ``transformers`` itself computes for an image and prompts."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": 16} if hasattr(model, "logit_bias") else {"padding": True}
    inputs = AutoTokenizer.from_pretrained(folder)(prompts, return_tensors="pt", **padding)
    inputs |= AutoImageProcessor.from_pretrained(folder)(images=PilImage.fromarray(pixels), return_tensors="pt")
    with torch.inference_mode():
        return np.asarray(model(**inputs).logits_per_image[0])


def confidences(result: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["confidence"] for each in result["labels"]}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_same_answers_as_transformers_itself(encoders: Callable[[str], Path], kind: str) -> None:
    folder = encoders(kind)
    classifier = ZeroShotClassifier(str(folder), LABELS)
    images = [noise(seed) for seed in range(3)]

    for pixels, result in zip(images, classifier.process_batch(images, [{}] * 3), strict=True):
        logits = reference(folder, pixels, ["a photo of a car", "a photo of a dog", "a photo of a delivery van"])
        expected = np.exp(logits) / np.exp(logits).sum() if kind == "clip" else 1 / (1 + np.exp(-logits))
        assert confidences(result) == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=3e-4)
        assert result["label"] == LABELS[int(logits.argmax())]
    assert (classifier.input_size, classifier.name) == ((32, 32), "zero_shot")
    assert classifier.process_batch([], []) == []
    classifier.warm_up(2)


def test_a_crop_does_not_depend_on_its_batch(encoders: Callable[[str], Path]) -> None:
    classifier = ZeroShotClassifier(str(encoders("clip")), LABELS)
    images = [noise(1), noise(2, (50, 20)), noise(3, (1, 1))]

    alone = [classifier.process(pixels, {}) for pixels in images]
    together = classifier.process_batch(images[::-1], [{}] * 3)[::-1]

    for one, other in zip(alone, together, strict=True):
        assert confidences(one) == pytest.approx(confidences(other), abs=3e-4)


def test_prompts_of_a_label_count_with_their_mean(encoders: Callable[[str], Path]) -> None:
    folder = str(encoders("siglip"))

    def logit(prompts: list[str]) -> float:
        confidence = ZeroShotClassifier(folder, {"van": prompts}).process(noise(), {})["confidence"]
        return float(np.log(confidence / (1 - confidence))) - bias

    bias = -0.5
    first, second, both = logit(["a car"]), logit(["a dog photo"]), logit(["a car", "a dog photo"])
    twice = logit(["a car", "a car"])
    assert twice == pytest.approx(first, abs=1e-3)
    # the mean of two directions is shorter than they are, and is brought to a length of 1
    assert both / ((first + second) / 2) > 1
    assert both != pytest.approx(first, abs=1e-2)
    by_template = ZeroShotClassifier(folder, ["car"], templates=["a {}", "a {}"]).process(noise(), {})
    assert by_template["confidence"] == ZeroShotClassifier(folder, {"x": "a car"}).process(noise(), {})["confidence"]


def test_none_of_these(encoders: Callable[[str], Path]) -> None:
    classifier = ZeroShotClassifier(str(encoders("clip")), LABELS, threshold=1, top_k=2)

    result = classifier.process(noise(), {})

    assert result["label"] == "unknown"
    assert "below 1.0" in result["reason"]
    assert len(result["labels"]) == 2


def test_labels_change_in_place(encoders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(encoders("clip"))
    classifier = ZeroShotClassifier(folder, LABELS)
    other = ZeroShotClassifier(folder, {"cat": "a cat", "bird": ["a bird", "the bird"]})
    monkeypatch.setattr("classifiers.text.ImageTextModel", None)

    classifier.reconfigure(labels={"cat": "a cat", "bird": ["a bird", "the bird"]}, top_k=1)
    assert classifier.process(noise(), {})["label"] == other.process(noise(), {})["label"]
    classifier.reconfigure(top_k=5)
    assert classifier.process(noise(), {}) == other.process(noise(), {})
    monkeypatch.setattr(classifier._model, "vectors", None)  # the same labels are not encoded again
    classifier.reconfigure(threshold=1, labels={"cat": "a cat", "bird": ["a bird", "the bird"]})
    assert classifier.process(noise(), {})["label"] == "unknown"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "ZeroShotClassifier: labels: must not be empty"),
        ({"labels": {"car": []}}, "must not be empty"),
        ({"templates": ["a photo"]}, r"templates.0: must match"),
        ({"labels": {"car": "a " + "photo " * 20}}, "a prompt of 'car' has 2[0-9] tokens, and the model reads 16"),
        ({"labels": ["car", "car"]}, "labels: 'car' is listed twice"),
    ],
)
def test_labels_that_do_not_fit(encoders: Callable[[str], Path], arguments: dict[str, Any], message: str) -> None:
    folder = str(encoders("clip"))
    with pytest.raises(SetupError, match=message):
        ZeroShotClassifier(folder, **{"labels": LABELS} | arguments)
    classifier = ZeroShotClassifier(folder, LABELS)
    before = classifier.process(noise(), {})
    with pytest.raises(SetupError, match=message):
        classifier.reconfigure(**arguments)
    assert classifier.process(noise(), {}) == before


# exported image encoders ----------------------------------------------------------------------------------------------


def export(folder: Path, width: int = 24) -> None:
    """An image encoder whose vectors are the mean of each channel, again and again, and another output."""
    ov = import_openvino()
    ops = ov.opset13
    images = ops.parameter([-1, 3, 32, 32], np.float32, name="pixel_values")
    means = ops.reduce_mean(images, np.array([2, 3]), keep_dims=False)
    vectors = ops.tile(means, np.array([1, width // 3]))
    ov.save_model(ov.Model([ops.relu(images), vectors], [images], "encoder"), folder / "vision_model.xml")


@pytest.fixture
def copied(encoders: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for file in encoders("clip").iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.filterwarnings("ignore")  # tracing, which is how OpenVINO converts, is deprecated in torch
def test_an_exported_image_encoder_gives_what_torch_gives(copied: Path) -> None:
    import torch
    from transformers import CLIPVisionModelWithProjection

    in_torch = ZeroShotClassifier(str(copied), LABELS)
    ov = import_openvino()
    model = CLIPVisionModelWithProjection.from_pretrained(copied).eval()
    converted = ov.convert_model(model, example_input=torch.zeros(2, 3, 32, 32))
    ov.save_model(converted, copied / "vision_model.xml", compress_to_fp16=False)
    exported = ZeroShotClassifier(str(copied), LABELS)

    assert type(exported._network).__name__ == "OpenVinoModel"
    assert exported.weights_digest != in_torch.weights_digest
    first, second = (classifier.process(noise(), {}) for classifier in (in_torch, exported))
    assert confidences(first) == pytest.approx(confidences(second), abs=2e-3)
    exported.reconfigure(labels=["bird", "cat"])
    assert set(confidences(exported.process(noise(), {}))) == {"bird", "cat"}


def test_an_image_encoder_of_another_checkpoint(copied: Path) -> None:
    export(copied, width=12)

    with pytest.raises(SetupError, match=r"vision_model\.xml gives vectors of 12 numbers, .* gives 24; export"):
        ZeroShotClassifier(str(copied), LABELS)


def test_the_rest_of_an_exported_checkpoint_counts(copied: Path) -> None:
    export(copied)
    digest = ZeroShotClassifier(str(copied), LABELS).weights_digest
    tokenizer = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").unlink()
    (copied / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"comment": "another"}))

    assert ZeroShotClassifier(str(copied), LABELS).weights_digest != digest


def test_what_is_missing_is_named(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be loaded as an image and text encoder"):
        ZeroShotClassifier(str(save_image_classifier(tmp_path / "vit", ["a", "b"])), LABELS)
    (copied / "tokenizer.json").unlink()
    with pytest.raises(SetupError, match=r"the tokenizer of .*clip cannot be loaded by transformers 5\."):
        ZeroShotClassifier(str(copied), LABELS)
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"lacks .*model\.safetensors"):
        ZeroShotClassifier(str(copied), LABELS)
