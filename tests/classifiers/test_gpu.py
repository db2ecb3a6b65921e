"""The models on a GPU, held to what they answer on the CPU. Elsewhere these tests are skipped."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from classifiers._devices import Half, to_device
from classifiers._yolo import Detector, load_detector
from classifiers.makes import StanfordViT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SIZES = [(224, 224), (480, 640), (300, 100), (64, 64)]


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ultralytics import YOLO

    path = tmp_path_factory.mktemp("yolo") / "yolo11n.pt"
    torch.manual_seed(0)
    YOLO("yolo11n.yaml").save(path)
    return path


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


def all_candidates(detector: Detector, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = detector(canvases, confidence=0.0)
    return np.stack([each.boxes for each in found]), np.stack([each.scores for each in found])


@pytest.mark.parametrize(("half", "pixels", "score"), [(False, 0.1, 1e-4), ("auto", 2.0, 0.01)])
def test_a_detector_finds_what_it_finds_on_the_cpu(yolo: Path, half: Half, pixels: float, score: float) -> None:
    canvases = np.stack(pictures((640, 640), (640, 640), (640, 640)))
    boxes, scores = all_candidates(load_detector(yolo, None, "cuda", half), canvases)
    expected_boxes, expected_scores = all_candidates(load_detector(yolo, None, "cpu", "auto"), canvases)

    assert boxes.shape == expected_boxes.shape == (3, 8400, 4)
    np.testing.assert_allclose(boxes, expected_boxes, atol=pixels)
    np.testing.assert_allclose(scores, expected_scores, atol=score)


def test_what_a_detector_finds_does_not_depend_on_the_batch(yolo: Path) -> None:
    detector = load_detector(yolo, None, "cuda", "auto")
    canvases = np.stack(pictures(*[(640, 640)] * 5))
    middle = float(np.median(detector(canvases[:1], 0.0)[0].scores))

    together = detector(canvases, middle)
    apart = [detector(canvas[np.newaxis], middle)[0] for canvas in canvases]

    counts = [len(found.scores) for found in together]
    assert 0 < min(counts) < 8400
    for one, other in zip(together, apart, strict=True):
        # at the threshold itself, rounding may let a few in or not
        assert abs(len(one.scores) - len(other.scores)) < 400
        np.testing.assert_allclose(np.sort(one.scores)[-100:], np.sort(other.scores)[-100:], atol=0.01)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 2e-3), ("auto", 0.02)])
def test_a_classifier_says_what_it_says_on_the_cpu(vit: Path, half: Half, tolerance: float, compiled: bool) -> None:
    images, contexts = pictures(*SIZES), [{}] * len(SIZES)
    on_cpu = StanfordViT(str(vit), device="cpu", runtime="torch").process_batch(images, contexts)
    on_gpu = StanfordViT(str(vit), device="cuda", half=half, torch_compile=compiled).process_batch(images, contexts)

    for answer, expected in zip(on_gpu, on_cpu, strict=True):
        shares = {label["label"]: label["confidence"] for label in answer["labels"]}
        assert shares == pytest.approx({e["label"]: e["confidence"] for e in expected["labels"]}, abs=tolerance)


def test_images_arrive_as_they_are() -> None:
    """Also where the next batch is written while the last one is still on its way."""
    batches = [np.stack(pictures(*[(256, 256)] * 32)) + np.uint8(n) for n in range(8)]
    arrived = [to_device(batch, torch.device("cuda")) for batch in batches]

    for batch, tensor in zip(batches, arrived, strict=True):
        assert tensor.is_cuda
        np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).cpu().numpy(), batch)


def test_a_replica_is_held_to_its_share_of_the_memory() -> None:
    program = """
        import torch
        from serve_app.hosting import _cap_gpu_memory

        _cap_gpu_memory(0.05)
        total = torch.cuda.get_device_properties(0).total_memory
        torch.empty(int(total * 0.03), dtype=torch.uint8, device="cuda")
        try:
            torch.empty(int(total * 0.08), dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            print("held")
    """
    # in a process of its own: the cap stays
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "held"
