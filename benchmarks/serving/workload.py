"""What is served: a set of models, and a mix of photos."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

from benchmarks.serving.settings import DETECTOR, Settings
from benchmarks.serving.straight import Detector, Found, load
from classifiers import SetupError
from classifiers.imaging.decoding import decode, probe
from graph import load as load_pipeline

__all__ = ["MIXES", "Workload", "make_workloads"]

MIXES = ("few", "many", "none", "no-op")

_DEMO = Path("configs/demo.yaml")
_MAKES = "car_make_classification"
_PHOTOS = 10  # in a mix
_MANY = 10  # crops in a photo
_LARGEST_PIXELS = 1_500_000
_BODY_BYTES = 137_000


@dataclass(frozen=True)
class Workload:
    """One mix with its models.

    Attributes:
        environment: by which a process finds the settings.
        note: what is in the mix.
    """

    name: str
    settings: Settings
    environment: dict[str, str]
    photos: list[Path]
    note: str


def make_workloads(
    names: Sequence[str], models: Path | None, photos: Path, folder: Path, workers: int
) -> tuple[list[Workload], list[str]]:
    """Choose the photos by running the detector once, and write them to ``folder``.

    Args:
        models: a folder with a YOLO and a ViT; ``None``: what the demo uses.

    Returns:
        The workloads, and why others could not be made.
    """
    workloads, problems = [], []
    real = [name for name in names if name != "no-op"]
    if real:
        settings = _real_models(models, workers)
        environment = settings.write(folder / "models.json")
        chosen = _choose(Detector(settings), photos, folder)
        for name in real:
            if paths := chosen[name]:
                workloads.append(Workload(name, settings, environment, [path for path, _ in paths], _note(paths)))
            else:
                problems.append(f"no photo in {photos} is right for the mix '{name}'; name another folder: --photos")
    if "no-op" in names:
        nothing = {DETECTOR: {"class": "benchmarks.serving.noop.NoOpDetector", "params": {}}}
        settings = Settings(nothing, {}, workers)
        path = _padded(folder / "padded.jpg")
        note = f"64 x 48 pixels in {path.stat().st_size} bytes, and a detector that does nothing"
        workloads.append(Workload("no-op", settings, settings.write(folder / "no-op.json"), [path], note))
    return workloads, problems


def _real_models(models: Path | None, workers: int) -> Settings:
    steps = {s.name: {"class": s.class_path, "params": dict(s.params)} for s in load_pipeline(_DEMO).pipeline}
    if models is not None:
        folder = models.resolve()
        steps[DETECTOR]["params"] = {"model": str(folder / "yolo11n_int8_openvino_model")}
        steps[_MAKES]["params"] = {"model": str(folder / "vit_car_make20")}
    crops = {}
    for name in list(steps)[1:]:
        model = load(Settings(steps, {}, workers), name)
        crops[name] = {"size": model.input_size, "resize": model.resize, "padding": model.crop_padding}
    return Settings(steps, crops, workers)


Photo = tuple[Path, Found]


def _choose(detector: Detector, source: Path, folder: Path) -> dict[str, list[Photo]]:
    seen = [(path, detector([path.read_bytes()])[0]) for path in _usable(source)]
    with_car = sorted((photo for photo in seen if _cars(photo)), key=_crops)
    quiet = sorted((photo for photo in seen if not _cars(photo)), key=_crops)
    many = [photo for photo in seen if _crops(photo) >= _MANY]
    if len(many) < 3:
        many += _tiled(detector, sorted(seen, key=_crops, reverse=True), folder)
    few: list[Photo] = []
    if with_car and quiet:
        cars, others = itertools.cycle(with_car[: _PHOTOS // 5]), itertools.cycle(quiet[: 4 * _PHOTOS // 5])
        few = [next(cars) if turn % 5 == 0 else next(others) for turn in range(_PHOTOS)]
    nothing = [photo for photo in quiet if _crops(photo) == 0]
    return {"few": few, "many": many[:_PHOTOS], "none": nothing[:_PHOTOS]}


def _usable(source: Path) -> list[Path]:
    """Whole JPEGs of common size."""
    usable = []
    for path in sorted(source.glob("*.jpg")):
        try:
            header = probe(path.read_bytes())
            decode(path.read_bytes())
        except Exception as error:
            print(f"{path.name} is left out: {error}")
            continue
        if header.format == "JPEG" and 256 * 256 <= header.width * header.height <= _LARGEST_PIXELS:
            usable.append(path)
    if not usable:
        raise SetupError(f"{source.resolve()} has no JPEG of up to {_LARGEST_PIXELS} pixels; name a folder: --photos")
    return usable


def _tiled(detector: Detector, busiest: Sequence[Photo], folder: Path) -> list[Photo]:
    """Photos with many objects, four in one, where no single photo has enough."""
    made = []
    for index in range(min(4, len(busiest))):
        four = [decode(busiest[(index + step) % len(busiest)][0].read_bytes()) for step in range(4)]
        small = [cv2.resize(image, (640, 480), interpolation=cv2.INTER_AREA) for image in four]
        tiles = np.vstack([np.hstack(small[:2]), np.hstack(small[2:])])
        path = folder / f"many{index}.jpg"
        PillowImage.fromarray(tiles).save(path, quality=90)
        photo = (path, detector([path.read_bytes()])[0])
        if _crops(photo) >= _MANY:
            made.append(photo)
    return made


def _padded(path: Path) -> Path:
    """A JPEG of common length and hardly any pixels, so that moving it counts and decoding it does not."""
    output = io.BytesIO()
    PillowImage.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(output, "JPEG")
    encoded = output.getvalue()
    comments = b""
    while len(encoded) + len(comments) < _BODY_BYTES:
        length = min(65_533, max(1, _BODY_BYTES - len(encoded) - len(comments) - 4))
        comments += b"\xff\xfe" + (length + 2).to_bytes(2) + os.urandom(length).replace(b"\xff", b"\xfe")
    path.write_bytes(encoded[:2] + comments + encoded[2:])
    return path


def _crops(photo: Photo) -> int:
    return sum(map(len, photo[1].crops.values()))


def _cars(photo: Photo) -> int:
    return len(photo[1].crops[_MAKES])


def _note(photos: Sequence[Photo]) -> str:
    cars, kilobytes = sum(map(_cars, photos)), sum(path.stat().st_size for path, _ in photos) / len(photos) / 1000
    with_car = sum(1 for photo in photos if _cars(photo))
    return (
        f"{len(photos)} photos of {kilobytes:.0f} KB on average: {with_car} with a car, "
        f"{cars} crops of cars and {sum(map(_crops, photos)) - cars} of persons"
    )
