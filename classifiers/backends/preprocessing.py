"""What a checkpoint's image processor does to an image, in a form that runs in batches and inside the model's graph."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifiers.backends.transformers_loading import load_image_processor
from classifiers.base import Image, ResizeMode
from classifiers.errors import SetupError
from classifiers.imaging import crop

__all__ = ["Preprocessing", "read_preprocessing"]

_STRETCHING = {"BeitImageProcessor", "DeiTImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"}


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the model's input: resize, cut ``window`` out, ``(pixel - mean) / scale`` in each channel."""

    input_size: tuple[int, int]
    """(H, W) that an image is resized to."""
    resize: ResizeMode
    window: tuple[slice, slice]
    """Rows and columns that the model sees of that."""
    mean: tuple[float, ...]
    """Of each channel, in pixel values 0..255."""
    scale: tuple[float, ...]

    @property
    def model_size(self) -> tuple[int, int]:
        """(H, W) of what the model sees."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start

    def batch(self, images: Sequence[Image], out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """N images (H, W, 3) RGB uint8 of any size to ``out``, (N, H, W, 3) of the size that the model sees."""
        return np.stack([self._resized(image)[self.window] for image in images], out=out)

    def _resized(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if (height, width) == self.input_size:
            return image
        return crop(image, (0, 0, width, height), size=self.input_size, resize=self.resize)


def read_preprocessing(folder: Path, config: Mapping[str, Any], trust_remote_code: bool = False) -> Preprocessing:
    """Read a checkpoint's image processor.

    If its settings are complete, they are used. Otherwise ``transformers`` loads it, its settings tell how it resizes,
    and what it does to pixels is measured on test images. A processor that does more than that is detected, instead of
    giving wrong answers.

    Args:
        folder: the checkpoint.
        config: its config.json.
        trust_remote_code: run Python code that the checkpoint brings.

    Raises:
        SetupError: the processor cannot be loaded, or does something that cannot be done in batches.
    """
    return _as_written(folder / "preprocessor_config.json") or _as_measured(folder, config, trust_remote_code)


def _as_written(file: Path) -> Preprocessing | None:
    """The settings, if they are complete and those of a processor that only stretches and normalizes.

    That saves importing torch and ``transformers``, seconds and half a gigabyte, where OpenVINO runs the model.
    """
    try:
        settings = json.loads(file.read_text())
        rescale, mean, std = settings["rescale_factor"], settings["image_mean"], settings["image_std"]
        height, width = settings["size"]["height"], settings["size"]["width"]
        kind = settings["image_processor_type"].removesuffix("Fast")
        plain = kind in _STRETCHING and len(mean) == len(std) == 3
        if not plain or not all(settings[step] is True for step in ("do_resize", "do_rescale", "do_normalize")):
            return None
        if settings.get("do_center_crop"):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    pixels = [tuple(value / rescale for value in values) for values in (mean, std)]
    return Preprocessing((height, width), "stretch", (slice(0, height), slice(0, width)), *pixels)


def _as_measured(folder: Path, config: Mapping[str, Any], trust_remote_code: bool = False) -> Preprocessing:
    processor = load_image_processor(folder, trust_remote_code)
    timm = getattr(processor, "data_config", None)
    input_size, resize = _resizing_of_timm(timm) if timm else _resizing(processor, config)
    options = {"return_tensors": "pt"} if timm else {"return_tensors": "np", "input_data_format": "channels_last"}

    def process(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        batch = processor(images=image, **options)
        return np.asarray(batch["pixel_values"][0], np.float64).transpose(1, 2, 0)

    black, white = (process(np.full((*input_size, 3), value, np.uint8))[0, 0] for value in (0, 255))
    scale = 255 / (white - black)
    mean = -black * scale
    noise = np.random.default_rng(0).integers(0, 256, (*input_size, 3), np.uint8)
    expected = process(noise)
    for window in _windows(input_size, expected.shape[:2]):
        seen = noise[window]
        if seen.shape == expected.shape and np.allclose((seen - mean) / scale, expected, atol=1e-3):
            return Preprocessing(input_size, resize, window, tuple(mean.tolist()), tuple(scale.tolist()))
    raise SetupError(
        f"{type(processor).__name__} of {folder} does more than resize, crop and normalise each channel, which is not "
        "supported; use a checkpoint with another image processor"
    )


def _resizing(processor: Any, config: Mapping[str, Any]) -> tuple[tuple[int, int], ResizeMode]:
    """(H, W) to resize to, and how; the window for the model is cut out of that."""
    kind = type(processor).__name__
    if not processor.do_resize:
        size = config.get("image_size")
        if not size:
            raise SetupError(f"{kind} does not resize, and config.json has no image_size: the size of crops is unknown")
        height, width = (size, size) if isinstance(size, int) else size
        return (height, width), "stretch"
    size = processor.size
    height, width, shortest = (size.get(key) for key in ("height", "width", "shortest_edge"))
    if height and width:
        return (height, width), "stretch"
    if not shortest or size.get("longest_edge"):
        raise SetupError(f"{kind} gives images of different sizes ({size}), which do not make a batch")
    if crop_share := getattr(processor, "crop_pct", None):  # ConvNeXt: from 384 pixels on it stretches and cuts nothing
        if shortest >= 384:
            return (shortest, shortest), "stretch"
        shortest = int(shortest / crop_share)
    # the shorter side becomes that long, and a centred window cut out of the image is also one of its central square
    return (shortest, shortest), "center_crop"


def _resizing_of_timm(settings: Mapping[str, Any]) -> tuple[tuple[int, int], ResizeMode]:
    """As :func:`_resizing`, from what ``timm.data.resolve_data_config`` returns."""
    height, width = (int(side / settings["crop_pct"]) for side in settings["input_size"][1:])
    modes: Mapping[str, ResizeMode] = {"squash": "stretch", "center": "center_crop"}
    mode = modes.get(settings["crop_mode"])
    if mode is None:
        raise SetupError(
            f"timm's crop_mode {settings['crop_mode']!r} is not supported; it must be one of {list(modes)}"
        )
    return (height, width), mode


def _windows(outer: tuple[int, int], inner: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Centred windows; where the margin is odd, processors differ in the side that gets the odd pixel."""
    sides = []
    for available, taken in zip(outer, inner, strict=True):
        margin = available - taken
        sides.append([slice(start, start + taken) for start in sorted({margin // 2, (margin + 1) // 2})])
    return list(itertools.product(*sides))
