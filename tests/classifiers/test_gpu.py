"""The models on a GPU, held to what they answer on the CPU. Elsewhere these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from classifiers.backends.detector import Detector
from classifiers.backends.devices import Half
from classifiers.backends.torch_runner import TorchRunner
from classifiers.backends.yolo import load_detector
from classifiers.imaging.letterboxing import letterbox
from classifiers.makes import StanfordViT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SIZES = [(224, 224), (480, 640), (300, 100), (64, 64)]


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def yolo(yolos: Callable[[str], Path]) -> Path:
    return yolos("yolo11n")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    small = ViTConfig(num_labels=5, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    model = ViTForImageClassification(small)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder


def canvases_of(photos: list[np.ndarray], count: int) -> np.ndarray:
    """Photos on canvases, each moved a little more."""
    canvases = np.empty((count, 320, 320, 3), np.uint8)
    letterbox([np.roll(photos[n % len(photos)], 20 * n, axis=1) for n in range(count)], canvases)
    return canvases


def all_candidates(detector: Detector, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = detector(canvases, confidence=0.0)
    return np.stack([each.boxes for each in found]), np.stack([each.scores for each in found])


@pytest.mark.parametrize(("half", "pixels", "score"), [(False, 1.0, 0.005), ("auto", 2.0, 0.02)])
def test_a_detector_finds_what_it_finds_on_the_cpu(
    yolo: Path, photos: list[np.ndarray], half: Half, pixels: float, score: float
) -> None:
    canvases = canvases_of(photos, 3)
    boxes, scores = all_candidates(load_detector(yolo, 320, "cuda", half), canvases)
    expected_boxes, expected_scores = all_candidates(load_detector(yolo, 320, "cpu", "auto"), canvases)

    assert boxes.shape == expected_boxes.shape == (3, 2100, 4)
    assert scores.std() > 0.01
    assert np.abs(boxes - expected_boxes).mean() < pixels
    assert np.abs(scores - expected_scores).mean() < score


def test_a_detector_answers_for_each_image_of_each_batch(yolo: Path, photos: list[np.ndarray]) -> None:
    """In batches of and between the recorded sizes, in any order, and whatever the last batch left in the memory."""
    detector = load_detector(yolo, 320, "cuda", False)
    assert detector.sizes_to_warm_up(16) == (16, 8, 4, 2, 1)  # they are recorded
    canvases = canvases_of(photos, 16)
    expected_boxes, expected_scores = all_candidates(detector, canvases)

    for count in (1, 3, 9, 16, 2, 5, 1, 9):
        start = 16 - count
        batch = detector.buffer(count)
        batch[:] = canvases[start:]
        boxes, scores = all_candidates(detector, batch)
        # other sizes have other kernels, which round differently, and these models exaggerate it
        assert np.abs(boxes - expected_boxes[start:]).mean() < 1.0
        assert np.abs(scores - expected_scores[start:]).mean() < 0.005

    middle = float(np.median(scores))
    found = detector(batch, middle)
    assert [len(each.scores) for each in found] == (scores >= np.float32(middle)).sum(1).tolist()
    for each, its in zip(found, scores, strict=True):
        np.testing.assert_allclose(each.scores, its[its >= np.float32(middle)], atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 2e-3), ("auto", 0.02)])
def test_a_classifier_says_what_it_says_on_the_cpu(vit: Path, half: Half, tolerance: float, compiled: bool) -> None:
    images, contexts = pictures(*SIZES), [{}] * len(SIZES)
    on_cpu = StanfordViT(str(vit), device="cpu", runtime="torch").process_batch(images, contexts)
    on_gpu = StanfordViT(str(vit), device="cuda", half=half, torch_compile=compiled).process_batch(images, contexts)

    for answer, expected in zip(on_gpu, on_cpu, strict=True):
        shares = {label["label"]: label["confidence"] for label in answer["labels"]}
        assert shares == pytest.approx({e["label"]: e["confidence"] for e in expected["labels"]}, abs=tolerance)


CUDA = torch.device("cuda")


def totals(images: torch.Tensor) -> torch.Tensor:
    return images.double().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("recordable", [True, False])
def test_images_arrive_as_they_are(recordable: bool) -> None:
    runner = TorchRunner(totals, CUDA, (256, 256), recordable)
    batches = [np.stack(pictures(*[(256, 256)] * count)) + np.uint8(count) for count in (32, 1, 5, 40, 32, 3)]
    for batch in batches:
        buffer = runner.buffer(len(batch))
        buffer[:] = batch
        answers = runner(buffer)

        assert answers.is_cuda
        assert answers.tolist() == batch.sum(axis=(1, 2, 3), dtype=np.int64).tolist()


def test_a_model_is_recorded_once_for_each_size() -> None:
    calls = []

    def count(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return totals(images)

    runner = TorchRunner(count, CUDA, (8, 8))
    assert runner.sizes_to_warm_up(18) == (24, 16, 8, 4, 2, 1)
    for size in (18, 24, 17, 3, 4):
        runner(runner.buffer(size))
    assert set(calls) == {24, 4}
    once = len(calls)
    for size in (18, 24, 17, 3, 4):
        runner(runner.buffer(size))
    assert len(calls) == once


def test_a_model_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def looks_at_values(images: torch.Tensor) -> torch.Tensor:
        return totals(images) * (1 if images.max().item() > 0 else 0)

    runner = TorchRunner(looks_at_values, CUDA, (8, 8))
    for _ in range(2):
        images = runner.buffer(3)
        images[:] = 2
        assert runner(images).tolist() == [2 * 8 * 8 * 3] * 3
    assert caplog.text.count("runs without CUDA graphs") == 1
