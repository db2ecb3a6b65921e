from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from classifiers.backends import preprocessing as _preprocessing
from classifiers.backends.openvino_model import import_openvino
from classifiers.backends.preprocessing import read_preprocessing
from classifiers.errors import ModelNotFound, SetupError
from classifiers.makes import StanfordViT
from classifiers.weights import checkpoints as _checkpoint

LABELS = {0: "Audi", 1: "BMW", 2: "Ford", 3: "Volvo"}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
SETTINGS: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": MEAN,
    "image_std": STD,
}
Checkpoints = Callable[[str], Path]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def image(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Noise with a colour of its own, so that images differ in more than noise."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 100, (height, width, 3)) + generator.integers(0, 156, 3)
    pixels = pixels.astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


# checkpoints ---------------------------------------------------------------------------------------------------------


def tiny_model(kind: str) -> Any:
    import transformers as t

    labels = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**small, "image_size": 32, "patch_size": 8}
    if kind == "vit":
        return t.ViTForImageClassification(t.ViTConfig(**vision, **labels))
    if kind == "siglip":
        text = {**small, "vocab_size": 8}
        return t.SiglipForImageClassification(t.SiglipConfig(vision_config=vision, text_config=text, **labels))
    if kind == "swin":
        sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
        return t.SwinForImageClassification(t.SwinConfig(image_size=32, **sizes, **labels))
    if kind == "backbone":
        return t.ViTModel(t.ViTConfig(**vision))
    raise ValueError(kind)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Folders with tiny untrained models, complete; not to be changed."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        import torch

        folder = root / kind
        if not folder.exists():
            torch.manual_seed(1)
            model = tiny_model(kind)
            for parameter in model.parameters():  # as initialised, all logits are nearly the same
                parameter.data.normal_(0, 0.2)
            model.save_pretrained(folder)
            processor = "SiglipImageProcessor" if kind == "siglip" else "ViTImageProcessor"
            (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS | {"image_processor_type": processor}))
        return folder

    return make


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """A folder with an OpenVINO model whose logits are the mean of each channel and their sum."""

    def make(name: str = "model.xml", config: Any = None, **settings: Any) -> Path:
        ov = import_openvino()
        ops = ov.opset13
        images = ops.parameter([-1, 3, -1, -1], np.float32, name="pixel_values")
        means = ops.reduce_mean(images, np.array([2, 3]), keep_dims=False)
        weights = np.concatenate([np.eye(3), np.ones((1, 3))]).astype(np.float32)
        logits = ops.matmul(means, weights, False, True)
        folder = tmp_path / "export"
        ov.save_model(ov.Model([logits], [images], "means"), folder / name, compress_to_fp16=False)
        config = {"id2label": {str(index): label for index, label in LABELS.items()}} if config is None else config
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS | settings))
        return folder

    return make


def reference(folder: Path, pixels: np.ndarray) -> dict[str, float]:
    """What ``transformers`` itself says of an image that has the size of the model's input."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    inputs = AutoImageProcessor.from_pretrained(folder)(images=PilImage.fromarray(pixels), return_tensors="pt")
    with torch.inference_mode():
        shares = model(**inputs).logits.softmax(-1)[0].tolist()
    return {model.config.id2label[index]: share for index, share in enumerate(shares)}


# results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "siglip", "swin"])
def test_same_answers_as_transformers_itself(checkpoints: Checkpoints, kind: str) -> None:
    folder = checkpoints(kind)
    classifier = StanfordViT(str(folder))
    images = [image(seed=seed) for seed in range(3)]

    for pixels, result in zip(images, classifier.process_batch(images, [{}] * 3), strict=True):
        shares = reference(folder, pixels)
        assert {found["label"]: found["confidence"] for found in result["labels"]} == pytest.approx(shares, abs=2e-4)
        assert (result["label"], result["confidence"]) == (
            max(shares, key=lambda label: shares[label]),
            pytest.approx(max(shares.values()), abs=2e-4),
        )
    assert (classifier.input_size, classifier.resize) == ((32, 32), "stretch")
    assert classifier.name == "make"
    assert len(classifier.weights_digest) == 64


def test_result_has_the_shape_of_the_contract(export: Callable[..., Path]) -> None:
    classifier = StanfordViT(str(export()), top_k=2)

    result = classifier.process(np.full((32, 32, 3), (178, 0, 255), np.uint8), {})

    channels = (np.array([178 / 255, 0, 1]) - MEAN) / STD
    powers = np.exp([*channels, channels.sum()])
    shares = (powers / powers.sum()).tolist()
    assert result == {
        "label": "Ford",
        "confidence": pytest.approx(shares[2], abs=1e-4),
        "labels": [
            {"label": "Ford", "confidence": pytest.approx(shares[2], abs=1e-4)},
            {"label": "Audi", "confidence": pytest.approx(shares[0], abs=1e-4)},
        ],
    }
    assert all(found["confidence"] == round(found["confidence"], 4) for found in result["labels"])


@pytest.mark.parametrize("kind", ["vit", "export"])
def test_a_crop_does_not_depend_on_its_batch(checkpoints: Checkpoints, export: Callable[..., Path], kind: str) -> None:
    classifier = StanfordViT(str(export() if kind == "export" else checkpoints(kind)))
    images = [image(seed=1), image(50, 20, seed=2), image(1, 1, seed=3), image(seed=4)]

    alone = [classifier.process(pixels, {}) for pixels in images]
    together = classifier.process_batch(images[::-1], [{}] * 4)[::-1]

    assert [result["label"] for result in together] == [result["label"] for result in alone]
    for first, second in zip(alone, together, strict=True):
        assert first["confidence"] == pytest.approx(second["confidence"], abs=2e-4)
    assert classifier.process_batch([], []) == []
    classifier.warm_up(3)


@pytest.mark.filterwarnings("ignore")  # tracing, which is how OpenVINO converts, is deprecated in torch
def test_an_export_gives_what_torch_gives(checkpoints: Checkpoints, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageClassification

    folder = tmp_path / "both"
    shutil.copytree(checkpoints("vit"), folder)
    with_torch = StanfordViT(str(folder))
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    ov = import_openvino()
    ov.save_model(ov.convert_model(model, example_input=torch.zeros(2, 3, 32, 32)), folder / "model.xml")
    exported = StanfordViT(str(folder))

    assert type(exported._network).__name__ == "OpenVinoModel"
    assert exported.weights_digest != with_torch.weights_digest
    assert StanfordViT(str(folder), runtime="torch").weights_digest == with_torch.weights_digest
    for pixels in (image(), image(40, 60)):
        first, second = (classifier.process(pixels, {})["labels"] for classifier in (with_torch, exported))
        assert [found["label"] for found in first] == [found["label"] for found in second]
        assert [found["confidence"] for found in first] == pytest.approx([f["confidence"] for f in second], abs=1e-3)


def test_crops_of_another_size_are_resized(export: Callable[..., Path]) -> None:
    classifier = StanfordViT(str(export()))

    plain = classifier.process(np.full((7, 90, 3), (10, 200, 30), np.uint8), {})

    assert plain == classifier.process(np.full((32, 32, 3), (10, 200, 30), np.uint8), {})


def test_top_k(export: Callable[..., Path]) -> None:
    classifier = StanfordViT(str(export()), top_k=1)
    assert len(classifier.process(image(), {})["labels"]) == 1

    classifier.reconfigure(top_k=3)
    assert len(classifier.process(image(), {})["labels"]) == 3
    classifier.reconfigure()
    assert len(classifier.process(image(), {})["labels"]) == 3
    classifier.reconfigure(top_k=1000)
    assert len(classifier.process(image(), {})["labels"]) == 4
    with pytest.raises(SetupError, match=r"StanfordViT: top_k: must be at least 1; got 0; top: unknown key"):
        classifier.reconfigure(top_k=0, top=1)
    assert classifier.tunables == {"top_k", "threshold"}


def test_cars_and_trucks_by_default() -> None:
    assert StanfordViT.default_crops == "detection['class_name'] in ('car', 'truck')"


# preprocessing --------------------------------------------------------------------------------------------------------

CROPPING = {"do_center_crop": True, "crop_size": {"height": 28, "width": 24}}


@pytest.mark.parametrize(
    ("settings", "input_size", "resize", "seen"),
    [
        pytest.param({}, (32, 32), "stretch", (32, 32), id="ViT"),
        pytest.param({"size": {"height": 24, "width": 40}}, (24, 40), "stretch", (24, 40), id="not square"),
        pytest.param({"image_processor_type": "ViTImageProcessorFast"}, (32, 32), "stretch", (32, 32), id="fast"),
        pytest.param({"size": 24}, (24, 24), "stretch", (24, 24), id="old, one number"),
        pytest.param(
            {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor", "size": 24},
            (24, 24),
            "stretch",
            (24, 24),
            id="older, another name",
        ),
        pytest.param({"do_normalize": False}, (32, 32), "stretch", (32, 32), id="no normalising"),
        pytest.param({"rescale_factor": 1 / 127.5}, (32, 32), "stretch", (32, 32), id="another factor"),
        pytest.param({"image_processor_type": "SiglipImageProcessor"}, (32, 32), "stretch", (32, 32), id="SigLIP"),
        pytest.param(
            {"image_processor_type": "DeiTImageProcessor"} | CROPPING,
            (32, 32),
            "stretch",
            (28, 24),
            id="stretch and cut",
        ),
        pytest.param(
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}} | CROPPING,
            (32, 32),
            "center_crop",
            (28, 24),
            id="shorter side and cut",
        ),
        pytest.param(
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
            | {"do_center_crop": True, "crop_size": {"height": 27, "width": 27}},
            (32, 32),
            "center_crop",
            (27, 27),
            id="odd margin",
        ),
        pytest.param(
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875},
            (32, 32),
            "center_crop",
            (28, 28),
            id="ConvNeXt, small",
        ),
        pytest.param(
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
            (384, 384),
            "stretch",
            (384, 384),
            id="ConvNeXt, large",
        ),
        pytest.param({"do_resize": False}, (16, 16), "stretch", (16, 16), id="no resizing"),
    ],
)
def test_preprocessing_is_the_image_processors(
    tmp_path: Path, settings: dict[str, Any], input_size: tuple[int, int], resize: str, seen: tuple[int, int]
) -> None:
    from transformers import AutoImageProcessor

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    written = {key: value for key, value in (SETTINGS | settings).items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))

    preprocessing = read_preprocessing(tmp_path, {"image_size": 16})

    assert (preprocessing.input_size, preprocessing.resize, preprocessing.model_size) == (input_size, resize, seen)
    pixels = image(*input_size)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(images=PilImage.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    [batch] = preprocessing.batch([pixels], np.empty((1, *seen, 3), np.uint8))
    assert batch.dtype == np.uint8
    np.testing.assert_allclose(
        ((batch - np.array(preprocessing.mean)) / preprocessing.scale).transpose(2, 0, 1), expected, atol=1e-3
    )


def test_both_ways_to_read_it_agree(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))

    written = _preprocessing._as_written(tmp_path / "preprocessor_config.json")
    measured = _preprocessing._as_measured(tmp_path, {})

    assert written is not None
    assert (written.input_size, written.resize, written.window) == (
        measured.input_size,
        measured.resize,
        measured.window,
    )
    assert written.mean == pytest.approx(measured.mean, abs=1e-3)
    assert written.scale == pytest.approx(measured.scale, abs=1e-3)


@pytest.mark.parametrize("config", [{"image_size": [16, 24]}, {"image_size": 16}])
def test_size_of_the_model_where_nothing_is_resized(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS | {"do_resize": False}))

    assert read_preprocessing(tmp_path, config).input_size == ((16, 24) if "24" in str(config) else (16, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 32}} | CROPPING,
            "MobileViTImageProcessor of .* does more than resize, crop and normalise",
        ),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 32}} | CROPPING, "does more than"),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 64}},
            "images of different sizes .* do not make a batch",
        ),
        ({"do_resize": False}, "does not resize, and config.json has no image_size"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "the image processor of .* cannot be loaded"),
    ],
)
def test_image_processors_that_cannot_be_followed(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS | settings))

    with pytest.raises(SetupError, match=message):
        read_preprocessing(tmp_path, {})


# what a folder holds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "runtime", "on_gpu", "expected"),
    [
        (["model.safetensors"], "auto", False, None),
        (["pytorch_model.bin"], "auto", True, None),
        (["model.xml", "model.safetensors"], "auto", False, "model.xml"),
        (["model.xml", "model.safetensors"], "auto", True, None),
        (["model.xml", "model.onnx"], "auto", True, "model.xml"),
        (["model.xml", "model.onnx"], "onnx", False, "model.onnx"),
        (["onnx/model.onnx", "model.safetensors"], "auto", False, "onnx/model.onnx"),
        (["model.xml", "model.safetensors"], "torch", False, None),
        (["model.xml", "model.safetensors"], "openvino", True, "model.xml"),
    ],
)
def test_what_runs_a_checkpoint(
    tmp_path: Path, files: list[str], runtime: _checkpoint.Runtime, on_gpu: bool, expected: str | None
) -> None:
    for name in (*files, "config.json", "preprocessor_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    found = _checkpoint.find_checkpoint(str(tmp_path), None, runtime, lambda: on_gpu)

    assert found.folder == tmp_path
    assert found.file == (tmp_path / expected if expected else None)


@pytest.mark.parametrize(
    ("files", "runtime", "missing"),
    [
        (["preprocessor_config.json", "model.safetensors"], "auto", r"config\.json"),
        (["config.json", "model.safetensors"], "auto", r"preprocessor_config\.json"),
        (
            ["config.json", "processor_config.json"],
            "auto",
            r"an OpenVINO model \(\.xml and \.bin\) or an \.onnx model or model\.safetensors",
        ),
        (["config.json", "preprocessor_config.json", "model.onnx"], "torch", r"model\.safetensors"),
        (
            ["model.safetensors"],
            "openvino",
            r"config\.json and preprocessor_config\.json and an OpenVINO model \(\.xml and \.bin\)",
        ),
    ],
)
def test_what_a_folder_lacks_is_named(
    tmp_path: Path, files: list[str], runtime: _checkpoint.Runtime, missing: str
) -> None:
    for name in files:
        (tmp_path / name).touch()

    with pytest.raises(ModelNotFound, match=rf"lacks {missing}\nfix: copy what is missing"):
        StanfordViT(str(tmp_path), runtime=runtime)


def test_a_file_of_a_folder(export: Callable[..., Path]) -> None:
    folder = export()

    assert StanfordViT(str(folder / "model.xml")).weights_digest == StanfordViT(str(folder)).weights_digest
    with pytest.raises(SetupError, match=r"model\.xml cannot be run with runtime: onnx; name a folder, or a file"):
        StanfordViT(str(folder / "model.xml"), runtime="onnx")
    with pytest.raises(SetupError, match=r"model\.bin cannot be run; name a folder"):
        StanfordViT(str(folder / "model.bin"))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"lacks preprocessor_config\.json"):
        StanfordViT(str(folder / "model.xml"))


def test_a_file_of_torch(checkpoints: Checkpoints) -> None:
    folder = checkpoints("vit")

    found = _checkpoint.find_checkpoint(str(folder / "model.safetensors"), None, "auto", lambda: False)

    assert found == _checkpoint.find_checkpoint(str(folder), None, "auto", lambda: False)


def test_several_models_in_a_folder(export: Callable[..., Path]) -> None:
    folder = export()
    shutil.copy(folder / "model.xml", folder / "other.xml")

    with pytest.raises(SetupError, match=r"several models \(model.xml, other.xml\); give the path of the one to run"):
        StanfordViT(str(folder))


def test_the_digest_covers_what_counts_and_no_more(export: Callable[..., Path]) -> None:
    folder = export()
    digest = StanfordViT(str(folder)).weights_digest

    (folder / "README.md").write_text("read me")
    assert StanfordViT(str(folder)).weights_digest == digest
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS | {"image_mean": [0.1, 0.1, 0.1]}))
    assert StanfordViT(str(folder)).weights_digest != digest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "Audi"}}, "answers with 4 labels, but id2label in config.json has 1"),
        (["labels"], "must hold a JSON object, but holds a list"),
    ],
)
def test_labels_that_do_not_fit(export: Callable[..., Path], config: Any, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        StanfordViT(str(export(config=config)))


def test_labels_without_names(export: Callable[..., Path]) -> None:
    result = StanfordViT(str(export(config={"model_type": "vit"}))).process(image(), {})

    assert sorted(found["label"] for found in result["labels"]) == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]


def test_config_that_is_damaged(export: Callable[..., Path]) -> None:
    folder = export()
    (folder / "config.json").write_text("{")

    with pytest.raises(SetupError, match=r"config\.json is not JSON: .*; copy it again"):
        StanfordViT(str(folder))


def test_a_model_that_does_not_classify(export: Callable[..., Path]) -> None:
    folder = export()
    ov = import_openvino()
    images = ov.opset13.parameter([-1, 3, 32, 32], np.float32)
    ov.save_model(ov.Model([ov.opset13.relu(images)], [images], "relu"), folder / "model.xml")

    with pytest.raises(SetupError, match=r"must answer with \(N, labels\), but answers with \(1, 3, 32, 32\)"):
        StanfordViT(str(folder))


def test_an_export_is_for_the_cpu(export: Callable[..., Path]) -> None:
    with pytest.raises(SetupError, match="runs in OpenVINO on the CPU, not on 'cuda'; use device: auto"):
        StanfordViT(str(export()), device="cuda")


def test_an_export_is_not_compiled_again(export: Callable[..., Path]) -> None:
    with pytest.raises(SetupError, match="runs in OpenVINO; use runtime: torch, or torch_compile: false"):
        StanfordViT(str(export()), torch_compile=True)


def test_half_precision_needs_a_gpu(checkpoints: Checkpoints) -> None:
    with pytest.raises(SetupError, match="half: true needs a GPU"):
        StanfordViT(str(checkpoints("vit")), device="cpu", half=True)


def test_a_checkpoint_without_a_trained_head(checkpoints: Checkpoints) -> None:
    with pytest.raises(SetupError, match=r"not a complete image classifier: it lacks weights for classifier\.bias"):
        StanfordViT(str(checkpoints("backbone")))


def test_damaged_weights(checkpoints: Checkpoints, tmp_path: Path) -> None:
    shutil.copytree(checkpoints("vit"), tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"nothing")

    with pytest.raises(SetupError, match="cannot be loaded as an image classifier"):
        StanfordViT(str(tmp_path / "damaged"))


# the hub --------------------------------------------------------------------------------------------------------------


class FakeHub:
    """Stands for a repository at the hub and the cache of it on this machine."""

    def __init__(self, cache: Path, repository: Path | None = None, complaint: Exception | None = None) -> None:
        self.cache, self.repository, self.complaint = cache, repository, complaint
        self.online = 0
        self.revisions: set[str | None] = set()

    def snapshot_download(
        self, repo_id: str, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.revisions.add(revision)
        if local_files_only and not self.cache.exists():
            raise LocalEntryNotFoundError("not cached")
        if not local_files_only:
            self.online += 1
            if self.complaint or not self.repository:
                raise self.complaint or LocalEntryNotFoundError("offline")
            self.cache.mkdir(exist_ok=True)
            for file in self.repository.iterdir():
                if any(file.match(pattern) for pattern in allow_patterns):
                    shutil.copy(file, self.cache)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeHub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "none"))

    def make(**arguments: Any) -> FakeHub:
        fake = FakeHub(tmp_path / "hub", **arguments)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
        return fake

    return make


def test_a_checkpoint_comes_from_the_hub_once(hub: Callable[..., FakeHub], checkpoints: Checkpoints) -> None:
    fake = hub(repository=checkpoints("vit"))

    first = StanfordViT("owner/name", revision="v1")
    second = StanfordViT("owner/name", revision="v1")

    assert (fake.online, fake.revisions) == (1, {"v1"})
    assert first.weights_digest == second.weights_digest == StanfordViT(str(checkpoints("vit"))).weights_digest


def test_an_export_from_the_hub(hub: Callable[..., FakeHub], export: Callable[..., Path]) -> None:
    fake = hub(repository=export("openvino_model.xml"))

    classifier = StanfordViT("owner/name", runtime="openvino")

    assert classifier.process(image(), {})["label"] in LABELS.values()
    assert fake.online == 1


@pytest.mark.slow
def test_pickled_weights_where_there_are_no_others(
    hub: Callable[..., FakeHub], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    repository = tmp_path / "repository"
    shutil.copytree(checkpoints("vit"), repository)
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").unlink()
    fake = hub(repository=repository)

    result = StanfordViT("owner/name").process(image(), {})

    assert result == StanfordViT(str(checkpoints("vit"))).process(image(), {})
    StanfordViT("owner/name")
    assert fake.online == 2


def test_offline_it_says_what_is_missing(hub: Callable[..., FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONGRAPH_MODELS", raising=False)
    hub()

    with pytest.raises(ModelNotFound) as raised:
        StanfordViT("owner/name", revision="v1")

    message = str(raised.value)
    files = "config.json and preprocessor_config.json and model.safetensors"
    assert message.startswith(f"{files} of model 'owner/name' was not found; looked at\n")
    assert "(VISIONGRAPH_MODELS is not set)" in message
    assert "hf download owner/name --revision v1 --local-dir FOLDER/owner/name" in message
    assert message.endswith("reason: LocalEntryNotFoundError: offline")


def test_offline_with_a_part_in_the_cache(hub: Callable[..., FakeHub], tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "hub" / name).touch()
    hub()

    with pytest.raises(ModelNotFound, match=r"^preprocessor_config\.json of model 'owner/name' was not found"):
        StanfordViT("owner/name")


def test_a_repository_without_what_is_needed(hub: Callable[..., FakeHub], checkpoints: Checkpoints) -> None:
    hub(repository=checkpoints("vit"))

    with pytest.raises(
        ModelNotFound, match=r"an OpenVINO model .* was not found[\s\S]*the repository does not have it"
    ):
        StanfordViT("owner/name", runtime="openvino")


def test_what_cannot_be_an_id(hub: Callable[..., FakeHub]) -> None:
    fake = hub()

    with pytest.raises(ModelNotFound, match=r"looked at\n  .*models/make/v1[\s\S]*fix: give the path of a folder"):
        StanfordViT("./models/make/v1")
    assert fake.online == 0


# what other people's packages may not do -----------------------------------------------------------------------------


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


def test_an_export_needs_neither_torch_nor_transformers(export: Callable[..., Path], tmp_path: Path) -> None:
    code = f"""
        import sys
        from classifiers.makes import StanfordViT
        StanfordViT({str(export())!r})
        print(sorted({{"torch", "transformers", "huggingface_hub", "openvino_telemetry"}} & set(sys.modules)))
    """
    (tmp_path / "home").mkdir()
    ran = run_python(code, tmp_path / "home")

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_transformers_is_silent_and_stays_as_it_was(checkpoints: Checkpoints, tmp_path: Path) -> None:
    code = f"""
        from transformers.utils import logging
        import torch
        before = logging.get_verbosity(), logging.is_progress_bar_enabled()
        from classifiers.makes import StanfordViT
        classifier = StanfordViT({str(checkpoints("swin"))!r})
        classifier.warm_up(2)
        assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())
        assert torch.get_num_threads() == 1
    """
    (tmp_path / "home").mkdir()
    ran = run_python(code, tmp_path / "home", OMP_NUM_THREADS="1")

    assert (ran.stdout, ran.stderr) == ("", "")
    assert list((tmp_path / "home").iterdir()) == []


# a real model ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_model_on_real_cars(shared_data: Path) -> None:
    with (shared_data / "cars" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    folder = shared_data / "models" / "vit_car_make20"
    makes = json.loads((folder / "config.json").read_text())["label2id"]
    rows = random.Random(0).sample([row for row in rows if row["make"] in makes], 40)
    crops = [np.asarray(PilImage.open(shared_data / "cars" / row["file"]).convert("RGB")) for row in rows]
    classifier = StanfordViT(str(folder))

    results = classifier.process_batch(crops, [{}] * len(crops))

    hits = sum(result["label"] == row["make"] for result, row in zip(results, rows, strict=True))
    assert hits >= 20  # of 20 makes: chance is 2
