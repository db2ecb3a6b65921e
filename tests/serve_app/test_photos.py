"""The demo's photos, with a pip that serves a small wheel from a folder instead of the package index."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import PIL.Image
import pytest
from toys import draw, encoded

from classifiers import SetupError
from serve_app import photos
from serve_app.photos import demo_photos, fetch_car_photos

JPEG = encoded(draw(("car", 2, 2, 20, 20)), "JPEG")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with a wheel of that name in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    project, _, version = photos.PACKAGE.partition("==")
    name = f"{project}-{version}"
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member in ("imagenet_06_609.jpg", "imagenet_07_609.jpg", "another.jpg"):
            archive.writestr(f"foolbox/data/{member}", JPEG)
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setattr(photos, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_the_packages_that_the_project_needs_bring_photos() -> None:
    assert {photo.name for photo in demo_photos()} == {"bus.jpg", "zidane.jpg"}


def test_photos_of_cars_are_fetched_once(index: Path, tmp_path: Path) -> None:
    found = fetch_car_photos()

    assert [photo.name for photo in found] == ["nissan-xterra.jpg", "range-rover.jpg"]
    assert {PIL.Image.open(photo).size for photo in found} == {(320, 240)}
    assert set((tmp_path / "cache" / "photos").iterdir()) == set(found)

    shutil.rmtree(index)
    assert fetch_car_photos() == found


def test_another_wheel_of_that_name_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "SHA256", "0" * 64)

    with pytest.raises(SetupError, match="could not download foolbox"):
        fetch_car_photos()
    assert list((tmp_path / "cache" / "photos").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")

    with pytest.raises(SetupError, match=r"cannot be written to .*\nfix: make room there, or name another folder"):
        fetch_car_photos()


def test_without_an_index_that_says_why(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there

    with pytest.raises(SetupError, match=r"could not download foolbox==3\.3\.4: .*Connection refused.*\nfix: "):
        fetch_car_photos()
