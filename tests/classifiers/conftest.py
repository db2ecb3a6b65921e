"""Photos and models that several tests of classifiers use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from tiny_models import save_image_text_model

from classifiers.backends import ultralytics_networks as _ultralytics
from classifiers.imaging.letterboxing import letterbox


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Ultralytics' own example photos, of different shapes."""
    assets = Path(_ultralytics._import("ultralytics.utils.checks").__file__).parents[1] / "assets"
    arrays = [np.asarray(PilImage.open(assets / name).convert("RGB")) for name in ("bus.jpg", "zidane.jpg")]
    for array in arrays:
        array.setflags(write=False)
    return arrays


@pytest.fixture(scope="session")
def yolos(photos: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes untrained checkpoints of ultralytics' architectures that nevertheless find things on the photos."""
    import torch

    folder = tmp_path_factory.mktemp("yolos")
    canvases = np.empty((len(photos), 320, 320, 3), np.uint8)
    letterbox(photos, canvases)

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.pt"
        if path.exists():
            return path
        _ultralytics._import("ultralytics.nn.autobackend")
        torch.manual_seed(0)
        model = sys.modules["ultralytics"].YOLO(f"{architecture}.yaml", verbose=False)
        for module in model.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        # the norms learn the photos: without that, deep features of random weights fade to nothing
        with torch.no_grad():
            model.model.train()(torch.from_numpy(canvases).permute(0, 3, 1, 2) / 255)
        for branch in getattr(model.model.model[-1], "cv3", ()):
            branch[-1].weight.data.normal_(0, 0.5)
            branch[-1].bias.data.fill_(-10)
        model.model.eval()
        model.save(path)
        return path

    return make


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Untrained models with an image and a text encoder; not to be changed."""
    root = tmp_path_factory.mktemp("encoders")

    def make(kind: str) -> Path:
        folder = root / kind
        return folder if folder.exists() else save_image_text_model(folder, kind)

    return make
