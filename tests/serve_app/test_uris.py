from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from graph import Malformed
from serve_app.uris import CONTROL_CHARACTERS, checked_uri, path_of_file_uri, scheme_of, split_bucket_uri


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("s3://b/k", "s3"),
        ("HTTPS://h/a", "https"),
        ("file:///a", "file"),
        ("file:/a", "file"),
        ("git+ssh://h/a", "git+ssh"),
        ("cam1:0001.jpg", ""),
        ("C:\\photos\\a.jpg", ""),
        ("C:/photos/a.jpg", ""),
        ("http:a.jpg", ""),
        ("12:30:05.jpg", ""),
        ("photos/https://a.jpg", ""),
        ("://a", ""),
        ("", ""),
    ],
)
def test_what_kind_of_address_it_is(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


@pytest.mark.parametrize(
    "key", ["a.jpg", "a b#1?.jpg", "/a", "a//b", "a%20b+c", "x:y@z", "Foto 3.14.15\u202fPM.png", ";a;b=c", "", "f/"]
)
def test_a_key_is_everything_after_the_bucket(key: str) -> None:
    assert split_bucket_uri(f"s3://photos/{key}") == ("photos", key)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b%20c.jpg", "/a/b c.jpg"),
        ("file:/a.jpg", "/a.jpg"),
        ("FILE://localhost/a.jpg", "/a.jpg"),
        ("file:///a#1?.jpg", "/a#1?.jpg"),
        ("file:///100%.jpg", "/100%.jpg"),
        ("file:///caf%C3%A9.jpg", "/café.jpg"),
        ("file:///caf%E9.jpg", os.fsdecode(b"/caf\xe9.jpg")),
        ("file://host/a.jpg", None),
        ("file:a.jpg", None),
        ("file:///a%00.jpg", None),
        ("file://", None),
    ],
)
def test_the_path_of_a_file_uri(uri: str, path: str | None) -> None:
    assert path_of_file_uri(uri) == (None if path is None else Path(path))
    if path is not None:
        assert path_of_file_uri(Path(path).as_uri()) == Path(path)


@pytest.mark.parametrize("uri", ["", None, 1, ["s3://b/k"], "s3://b/\ud800", "https://h/caf\udce9"])
def test_addresses_that_cannot_be_stored(uri: Any) -> None:
    with pytest.raises(Malformed, match="'uri'"):
        checked_uri(uri)


@pytest.mark.parametrize("key", ["\x00", "a\nb", "a\x7f", "a\x85b"])
def test_control_characters(key: str) -> None:
    assert CONTROL_CHARACTERS.search(key)


@pytest.mark.parametrize(
    "key", ["Bildschirmfoto 9.41.00\u202fAM.png", "a\u00a0b", "👩‍🚀", "\u2028", "\ue000", "~|^`{}<>\"'\\"]
)
def test_everything_else_is_a_key(key: str) -> None:
    assert not CONTROL_CHARACTERS.search(key)
