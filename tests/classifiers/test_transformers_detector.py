from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from tiny_models import WORDS, save_image_classifier, save_word_tokenizer

from classifiers.backends.openvino_model import import_openvino
from classifiers.errors import SetupError
from classifiers.objects import TransformersDetector

NAMES = {0: "cat", 1: "dog", 2: "car"}
SIDE = 64


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of models wait for each other where tests run side by side."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def noise(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 100, (*size, 3)) + generator.integers(0, 156, 3)).astype(np.uint8)


def small_model(kind: str) -> tuple[Any, Any]:
    """An untrained model and its image processor."""
    import transformers as t

    layers = {"encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    if kind == "detr":
        backbone = t.ResNetConfig(**resnet, out_features=["stage4"])
        config = t.DetrConfig(backbone_config=backbone, num_queries=8, id2label=NAMES, **layers,
                              encoder_attention_heads=2, decoder_attention_heads=2)  # fmt: skip
        return t.DetrForObjectDetection(config), t.DetrImageProcessor(
            size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
        )
    if kind == "rt_detr":
        backbone = t.RTDetrResNetConfig(**resnet, out_features=["stage2", "stage3", "stage4"])
        config = t.RTDetrConfig(
            backbone_config=backbone, num_queries=8, id2label=NAMES, **layers, encoder_hidden_dim=32,
            encoder_in_channels=[16, 16, 16], decoder_in_channels=[32, 32, 32], encoder_attention_heads=2,
            decoder_attention_heads=2, num_denoising=0,
        )  # fmt: skip
        return t.RTDetrForObjectDetection(config), t.RTDetrImageProcessor(size={"height": SIDE, "width": SIDE})
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "owlvit":
        vision = {**small, "image_size": SIDE, "patch_size": 16}
        text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
        config = t.OwlViTConfig(vision_config=vision, text_config=text | {"pad_token_id": 0}, projection_dim=32)
        return t.OwlViTForObjectDetection(config), t.OwlViTImageProcessor(size={"height": SIDE, "width": SIDE})
    backbone = t.SwinConfig(image_size=SIDE, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=2,
                            out_features=["stage1", "stage2", "stage3"])  # fmt: skip
    config = t.GroundingDinoConfig(
        backbone_config=backbone, text_config=t.BertConfig(**small, vocab_size=len(WORDS)), num_queries=8, **layers,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    return t.GroundingDinoForObjectDetection(config), t.GroundingDinoImageProcessor(
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("detectors")

    def make(kind: str) -> Path:
        import torch

        folder = root / kind
        if not folder.exists():
            torch.manual_seed(0)
            model, processor = small_model(kind)
            for parameter in model.parameters():  # as initialized, all answers are nearly the same
                if parameter.ndim > 1:
                    parameter.data.normal_(0, 0.3)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            save_word_tokenizer(folder)
        return folder

    return make


def boxes(result: dict[str, Any]) -> list[list[float]]:
    return [found["bbox"] for found in result["detections"]]


# checkpoints with classes of their own -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_same_detections_as_transformers_itself(checkpoints: Callable[[str], Path], kind: str) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = checkpoints(kind)
    classifier = TransformersDetector(str(folder), confidence=0.3)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    images = [noise(seed) for seed in range(3)]

    for pixels, result in zip(images, classifier.process_batch(images, [{}] * 3), strict=True):
        with torch.inference_mode():
            output = model(**processor(images=PilImage.fromarray(pixels), return_tensors="pt"))
        [expected] = processor.post_process_object_detection(output, 0.3, target_sizes=[(SIDE, SIDE)])
        # of several classes of one box we take the best
        by_box: dict[tuple[float, ...], tuple[float, str]] = {}
        found = (expected[key].tolist() for key in ("boxes", "scores", "labels"))
        for box, score, label in zip(*found, strict=True):
            key = tuple(np.clip(box, 0, SIDE).round(2))
            by_box[key] = max(by_box.get(key, (0, "")), (score, NAMES[label]))
        assert len(by_box) > 0
        assert len(result["detections"]) == len(by_box)
        for detection, (score, _) in zip(result["detections"], sorted(by_box.values())[::-1], strict=True):
            assert detection["confidence"] == pytest.approx(score, abs=1e-3)
            near = min(by_box, key=lambda box: np.abs(np.array(box) - detection["bbox"]).max())
            np.testing.assert_allclose(detection["bbox"], near, atol=0.1)
            assert by_box[near][1] == detection["class_name"]
    assert classifier.process_batch([], []) == []
    classifier.warm_up(2)


def test_an_image_keeps_its_shape_where_the_processor_keeps_it(checkpoints: Callable[[str], Path]) -> None:
    wide = np.ascontiguousarray(np.repeat(np.repeat(noise(1, (16, 32)), 4, axis=0), 4, axis=1))  # 64 x 128
    classifier = TransformersDetector(str(checkpoints("detr")), confidence=0)
    # on a canvas of 64 x 64 it has 32 rows, with grey above and below
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    canvas[16:48] = wide.reshape(32, 2, 64, 2, 3).mean((1, 3)).round()

    found, on_canvas = (boxes(classifier.process(each, {})) for each in (wide, canvas))

    mapped = [np.clip((np.array(box) - [0, 16, 0, 16]) * 2, 0, [128, 64, 128, 64]) for box in on_canvas]
    mapped = [box for box in mapped if (box[2:] > box[:2]).all()]
    np.testing.assert_allclose(found, mapped, atol=0.5)


@pytest.mark.filterwarnings("ignore")  # tracing, which is how OpenVINO converts, is deprecated in torch
@pytest.mark.parametrize("kind", ["detr", pytest.param("rt_detr", marks=pytest.mark.slow)])
def test_an_export_gives_what_torch_gives(checkpoints: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    import torch
    from transformers import AutoModelForObjectDetection

    for file in checkpoints(kind).iterdir():
        (tmp_path / file.name).symlink_to(file)
    in_torch = TransformersDetector(str(tmp_path), confidence=0.1)

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForObjectDetection.from_pretrained(tmp_path).eval()

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.model(pixel_values=pixel_values)
            return output.logits, output.pred_boxes

    ov = import_openvino()
    converted = ov.convert_model(Exported(), example_input=torch.zeros(1, 3, SIDE, SIDE), input=[1, 3, SIDE, SIDE])
    for output, name in zip(converted.outputs, ("logits", "pred_boxes"), strict=True):
        output.get_tensor().set_names({name})
    ov.save_model(converted, tmp_path / "openvino_model.xml", compress_to_fp16=False)
    exported = TransformersDetector(str(tmp_path), confidence=0.1)

    assert exported.weights_digest != in_torch.weights_digest
    first, second = (classifier.process(noise(), {})["detections"] for classifier in (in_torch, exported))
    assert len(first) > 0
    assert [found["class_name"] for found in first] == [found["class_name"] for found in second]
    assert [found["confidence"] for found in first] == pytest.approx([f["confidence"] for f in second], abs=2e-3)
    np.testing.assert_allclose([f["bbox"] for f in first], [f["bbox"] for f in second], atol=0.5)


def test_tunables_change_in_place(checkpoints: Callable[[str], Path]) -> None:
    classifier = TransformersDetector(str(checkpoints("rt_detr")), confidence=0)
    every = classifier.process(noise(), {})
    name = every["detected_classes"][0]

    classifier.reconfigure(classes=[name], max_detections=2)
    found = classifier.process(noise(), {})
    assert found["detected_classes"] == [name]
    assert len(found["detections"]) <= 2
    with pytest.raises(SetupError, match="classes: the model does not know 'bird'"):
        classifier.reconfigure(classes=["bird"])
    assert classifier.process(noise(), {}) == found
    classifier.reconfigure(classes=None, max_detections=300)
    assert classifier.process(noise(), {}) == every


# text -----------------------------------------------------------------------------------------------------------------


def test_owl_vit_looks_for_labels(checkpoints: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, OwlViTForObjectDetection

    folder = checkpoints("owlvit")
    classifier = TransformersDetector(str(folder), {"Katze": "a photo of a cat", "car": "a car"}, confidence=0, iou=1)
    model = OwlViTForObjectDetection.from_pretrained(folder).eval()
    prompts = AutoTokenizer.from_pretrained(folder)(
        ["a photo of a cat", "a car"], padding="max_length", max_length=16, return_tensors="pt"
    )
    prompts.pop("token_type_ids", None)
    image = AutoImageProcessor.from_pretrained(folder)(images=PilImage.fromarray(noise()), return_tensors="pt")
    with torch.inference_mode():
        scores = model(**prompts, **image).logits.sigmoid()[0]

    found = classifier.process(noise(), {})

    assert found["detected_classes"] == sorted({["Katze", "car"][best] for best in scores.argmax(-1).tolist()})
    expected = sorted(scores.amax(-1).tolist(), reverse=True)[: len(found["detections"])]
    assert [each["confidence"] for each in found["detections"]] == pytest.approx(expected, abs=1e-3)
    together = classifier.process_batch([noise(1), noise()], [{}] * 2)[1]
    assert [e["confidence"] for e in together["detections"]] == pytest.approx(expected, abs=1e-3)


def test_grounding_dino_looks_for_labels(checkpoints: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, GroundingDinoForObjectDetection

    folder = checkpoints("grounding")
    classifier = TransformersDetector(str(folder), ["a cat", "delivery van"], confidence=0, iou=1)
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    text = AutoTokenizer.from_pretrained(folder)("a cat. delivery van.", return_tensors="pt")
    image = AutoImageProcessor.from_pretrained(folder)(images=PilImage.fromarray(noise()), return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=text["input_ids"], pixel_values=image["pixel_values"]).logits.sigmoid()[0]
    # <s> a cat . delivery van . </s>
    scores = torch.stack([logits[:, 1:3].amax(-1), logits[:, 4:6].amax(-1)], -1)

    found = classifier.process(noise(), {})

    expected = scores.amax(-1).tolist()  # of all boxes, also of those without an area
    assert len(found["detections"]) > 3
    for detection in found["detections"]:
        best = min(expected, key=lambda score: abs(score - detection["confidence"]))
        assert detection["confidence"] == pytest.approx(best, abs=1e-3)
        assert detection["class_name"] == ["a cat", "delivery van"][int(scores[expected.index(best)].argmax())]


def test_labels_change_in_place(checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(checkpoints("owlvit"))
    classifier = TransformersDetector(folder, ["cat", "dog"], confidence=0)
    other = TransformersDetector(folder, ["bird"], confidence=0)
    monkeypatch.setattr("classifiers.backends.transformers_detectors.load_model", None)  # it is not loaded again

    classifier.reconfigure(labels=["bird"])

    assert classifier.process(noise(), {}) == other.process(noise(), {})


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("owlvit", None, "looks for labels that are given as text; give `labels`"),
        ("detr", ["cat"], "has fixed classes and takes no `labels`; choose among them with `classes`"),
        ("owlvit", ["a " * 20], r"a prompt of .* has 22 tokens, and the model reads 16"),
        ("grounding", ["a " * 300], r"together they have 30\d tokens, the model reads 256"),
        ("owlvit", [], "labels.*must not be empty"),
    ],
)
def test_labels_that_do_not_fit(
    checkpoints: Callable[[str], Path], kind: str, labels: list[str] | None, message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        TransformersDetector(str(checkpoints(kind)), labels)


def test_what_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be loaded as an object detector"):
        TransformersDetector(str(save_image_classifier(tmp_path / "vit", ["a", "b"])))
