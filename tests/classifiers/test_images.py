"""What StanfordViT shares with this class is tested in test_makes.py."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from tiny_models import save_image_classifier

from classifiers.errors import SetupError
from classifiers.images import ImageClassifier
from classifiers.makes import StanfordViT


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save_image_classifier(tmp_path / "vit", ["cat", "dog", "bird"])


def noise(seed: int = 0, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_a_checkpoint_without_code_of_ours(vit: Path) -> None:
    classifier = ImageClassifier(str(vit))

    result = classifier.process(noise(), {})

    assert result["label"] in ("cat", "dog", "bird")
    assert sum(each["confidence"] for each in result["labels"]) == pytest.approx(1, abs=1e-3)
    assert (classifier.name, classifier.default_crops) == ("image", None)


def test_below_the_threshold_nothing_is_said(vit: Path) -> None:
    classifier = ImageClassifier(str(vit), threshold=1.0)
    sure = ImageClassifier(str(vit)).process(noise(), {})
    best = sure["confidence"]

    result = classifier.process(noise(), {})

    assert best < 1
    assert result == {
        "label": "unknown",
        "confidence": 0.0,
        "reason": f"the best label, {sure['label']!r}, has a confidence of {best}, below 1.0",
        "labels": sure["labels"],
    }
    classifier.reconfigure(threshold=best)
    assert classifier.process(noise(), {}) == sure


def test_car_makes_have_the_same_arguments() -> None:
    of_makes, of_images = (
        {name: (argument.annotation, argument.default) for name, argument in inspect.signature(cls).parameters.items()}
        for cls in (StanfordViT, ImageClassifier)
    )
    assert of_makes.pop("model")[0] == of_images.pop("model")[0]
    assert of_makes == of_images
    assert list(inspect.signature(StanfordViT).parameters) == list(inspect.signature(ImageClassifier).parameters)


# timm ---------------------------------------------------------------------------------------------------------------

# What timm saves beside its weights at the hub.
TIMM: dict[str, Any] = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "label_names": ["cat", "dog", "bird"],
    "pretrained_cfg": {
        "input_size": [3, 40, 40],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "num_classes": 3,
    },
}


def timm_checkpoint(folder: Path, **pretrained_cfg: Any) -> Path:
    timm = pytest.importorskip("timm")
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(TIMM["architecture"], num_classes=3)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("crop_mode", "resize"), [("center", "center_crop"), ("squash", "stretch")])
def test_same_answers_as_timm_itself(tmp_path: Path, crop_mode: str, resize: str) -> None:
    folder = timm_checkpoint(tmp_path / "timm", crop_mode=crop_mode)
    import timm
    import torch
    from safetensors.torch import load_file

    classifier = ImageClassifier(str(folder))
    assert (classifier.input_size, classifier.resize) == ((44, 44), resize)
    model = timm.create_model(TIMM["architecture"], num_classes=3).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    settings = {key: value for key, value in TIMM["pretrained_cfg"].items() if key != "num_classes"}
    transform = timm.data.create_transform(**settings | {"crop_mode": crop_mode}, is_training=False)
    for seed in range(2):
        pixels = noise(seed, (44, 44))
        with torch.inference_mode():
            shares = model(transform(PilImage.fromarray(pixels))[None]).softmax(-1)[0].tolist()
        labels = {each["label"]: each["confidence"] for each in classifier.process(pixels, {})["labels"]}
        assert labels == pytest.approx(dict(zip(TIMM["label_names"], shares, strict=True)), abs=2e-4)


def test_timms_padding_is_refused(tmp_path: Path) -> None:
    folder = timm_checkpoint(tmp_path / "timm", crop_mode="border")

    with pytest.raises(SetupError, match="crop_mode 'border' is not supported; it must be one of"):
        ImageClassifier(str(folder))


# code of the checkpoint, and what the installed library does not know ------------------------------------------------


def test_code_of_a_checkpoint_runs_only_where_the_step_allows_it(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = json.loads((vit / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {
        "AutoConfig": "mine.MyConfig", "AutoModelForImageClassification": "mine.MyModel",
    }}  # fmt: skip
    (vit / "config.json").write_text(json.dumps(config))
    (vit / "mine.py").write_text(
        "from transformers import ViTConfig, ViTForImageClassification\n"
        "class MyConfig(ViTConfig):\n    model_type = 'mine'\n"
        "class MyModel(ViTForImageClassification):\n    config_class = MyConfig\n"
    )

    with pytest.raises(SetupError, match="trust_remote_code"):
        ImageClassifier(str(vit))
    trusting = ImageClassifier(str(vit), trust_remote_code=True)
    assert trusting.process(noise(), {})["label"] in ("cat", "dog", "bird")
    (vit / "mine.py").write_text((vit / "mine.py").read_text() + "# changed\n")
    assert ImageClassifier(str(vit), trust_remote_code=True).weights_digest != trusting.weights_digest


def test_a_model_that_the_installed_transformers_does_not_know(vit: Path) -> None:
    config = json.loads((vit / "config.json").read_text()) | {"model_type": "vit9000"}
    (vit / "config.json").write_text(json.dumps(config))

    with pytest.raises(SetupError, match=r"by transformers 5\.[\s\S]*`vit9000`[\s\S]*[Uu]p(date|grade)"):
        ImageClassifier(str(vit))
