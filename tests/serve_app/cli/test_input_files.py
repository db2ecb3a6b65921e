"""Finding images for the command line; reading them is tested with ``visiongraph run``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from classifiers.imaging import DEFAULT_LIMITS
from serve_app.cli.input_files import Found, SourceError, expand, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    return folder


def names(found: list[Found], folder: Path) -> list[str]:
    return [str(Path(entry).relative_to(folder)) if isinstance(entry, str) else f"! {entry}" for entry in found]


def test_every_name_of_an_image_is_taken(folder: Path) -> None:
    suffixes = ["JPG", "apng", "bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"]
    for suffix in suffixes:
        (folder / f"a.{suffix}").touch()
    for other in ("._a.jpg", "notes.txt", "Thumbs.db", "jpg"):
        (folder / other).touch()
    assert names(expand([str(folder)]), folder) == [f"a.{suffix}" for suffix in suffixes]


def test_linked_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (folder / "a.jpg", folder / "more" / "b.jpg", elsewhere / "c.jpg"):
        path.touch()
    (folder / "0-linked").symlink_to(elsewhere)
    (folder / "0-more").symlink_to(folder / "more")  # is there already, under its own name
    (folder / "linked-again").symlink_to(elsewhere)
    (folder / "more" / "up").symlink_to(folder)
    (elsewhere / "itself").symlink_to(elsewhere)
    found = names(expand([str(folder)]), folder)
    assert len(found) == 3
    assert {Path(name).name for name in found} == {"a.jpg", "b.jpg", "c.jpg"}
    assert "more/b.jpg" in found


def test_what_cannot_be_read_stands_in_its_place(folder: Path) -> None:
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "z.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")
    dangling, itself, pipe, last = expand([str(folder)])
    assert (dangling, itself) == (str(folder / "dangling.jpg"), str(folder / "itself.jpg"))  # `read` says why
    assert isinstance(pipe, SourceError)
    assert "not a regular file" in str(pipe)
    assert pipe.fields["uri"] == str(folder / "pipe.jpg")
    assert last == str(folder / "z.jpg")


def test_what_a_pattern_matches_and_is_no_file_stands_in_its_place(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "z.jpg").touch()
    for pattern in ("*.jpg", "**/*.jpg"):
        pipe, last = expand([f"{folder}/{pattern}"])
        assert isinstance(pipe, SourceError)
        assert "not a regular file" in str(pipe)
        assert last == str(folder / "z.jpg")
    assert expand([str(folder / "pipe.jpg")]) == [str(folder / "pipe.jpg")]


def test_a_pattern_that_goes_through_a_loop_gives_the_short_names(folder: Path) -> None:
    (folder / "z.jpg").touch()
    (folder / "loop").symlink_to(folder)
    assert expand([f"{folder}/**/*.jpg"]) == [str(folder / "z.jpg")]


@pytest.mark.parametrize("uri", ["s3://", "s3:///k.jpg"])
def test_an_address_without_a_bucket(uri: str) -> None:
    assert expand([uri]) == [uri]
    with pytest.raises(SourceError, match="names no bucket"):
        read(uri, DEFAULT_LIMITS)


def test_a_locked_folder_is_reported_and_the_others_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (folder / "a.jpg", folder / "more" / "b.jpg"):
        path.touch()
    iterdir = Path.iterdir

    def locked(path: Path) -> object:
        if path.name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", locked)
    assert names(expand([str(folder)]), folder) == ["a.jpg", f"! cannot read {folder / 'more'}: Permission denied"]
    [error] = expand([str(folder / "more")])
    assert isinstance(error, SourceError)


def test_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (folder / "a.jpg", folder / "b[1].jpg", folder / "more" / "c.jpg", folder / "-"):
        path.touch()
    (folder / "more" / "up").symlink_to(folder)
    assert names(expand([str(folder / "*.jpg")]), folder) == ["a.jpg", "b[1].jpg"]
    assert names(expand([str(folder / "b[1].jpg")]), folder) == ["b[1].jpg"]
    assert names(expand([str(folder / "m*")]), folder) == ["more/c.jpg", "more/up/a.jpg", "more/up/b[1].jpg"]
    assert names(expand([str(folder / "**" / "*.jpg")]), folder) == ["a.jpg", "b[1].jpg", "more/c.jpg"]
    monkeypatch.chdir(folder)
    assert expand(["?"]) == ["./-"]  # not stdin
    assert expand([".", "-"]) == ["a.jpg", "b[1].jpg", "more/c.jpg", "-"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "an empty argument"),
        ("x" * 5000, "File name too long"),
        ("nothing/*.jpg", "nothing matches nothing/"),
        ("half a pair \ud83d.jpg", "surrogates not allowed"),
    ],
)
def test_what_is_no_image_is_an_error_with_its_words(argument: str, words: str) -> None:
    found, error = expand(["a.jpg", argument])
    assert found == "a.jpg"
    assert isinstance(error, SourceError)
    assert words in str(error)
    assert error.fields["uri"] == argument


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("/a/caf\udce9.jpg", "file:///a/caf%E9.jpg"),
        ("file:///a%20b/caf\udce9.jpg", "file:///a%20b/caf%E9.jpg"),
        ("http://cam/caf\udce9.jpg?a=1&b=%20", "http://cam/caf%E9.jpg?a=1&b=%20"),
    ],
)
def test_addresses_become_valid_unicode(argument: str, text: str) -> None:
    assert expand([argument]) == [text]
