"""Addresses of images: their kinds and parts.

Not parsed by ``urllib``: like the name of a file, the key of an object may contain ``?`` and ``#``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import httpx

from graph import Malformed
from serve_app.refusals import Forbidden

__all__ = [
    "CONTROL_CHARACTERS",
    "IMAGE_SUFFIXES",
    "checked_uri",
    "is_listed",
    "local_path",
    "path_of_file_uri",
    "scheme_of",
    "split_bucket_uri",
    "web_address",
]

CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Not allowed in keys of objects. All other characters are in use: macOS puts U+202F into names of screenshots."""

IMAGE_SUFFIXES = frozenset(
    {".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""What is taken of folders and prefixes."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(file):/", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """The scheme in lower case; empty for a path. ``cam1:0001.jpg`` and ``C:\\\\a.jpg`` are names of files."""
    match = _SCHEME.match(uri)
    return "" if match is None else (match[1] or match[2]).lower()


def split_bucket_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key`` or ``gs://bucket/key``; the key is everything after the bucket."""
    bucket, _, key = uri.partition(":")[2].removeprefix("//").partition("/")
    return bucket, key


def path_of_file_uri(uri: str) -> Path | None:
    """The path behind ``file:///path``, also one that is not UTF-8; ``None``: it names no file of this machine."""
    rest = uri.partition(":")[2]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            return None
        rest = slash + rest
    path = os.fsdecode(unquote_to_bytes(os.fsencode(rest)))
    return Path(path) if path.startswith("/") and "\0" not in path else None


def local_path(uri: str) -> Path | None:
    """The path that a person gave, as such or as ``file:///path``; ``None``: it names no file of this machine."""
    return path_of_file_uri(uri) if scheme_of(uri) == "file" else Path(uri)


def web_address(uri: str) -> httpx.URL:
    """Parse the address of an image on the web, encoded as browsers do, but without control characters and
    backslashes, which could make it look like another address.

    Raises:
        Forbidden: it cannot be understood, or has a password in it.
    """
    if "\\" in uri.partition("?")[0]:
        raise Forbidden("the address has a backslash; write /, or encode it as %5C")
    try:
        url = httpx.URL(uri.rstrip(" \t\r\n"))
        host, _ = url.raw_host.decode("ascii"), url.port
    except (httpx.InvalidURL, ValueError, TypeError, UnicodeError) as error:
        raise Forbidden(f"the address is invalid: {error}") from error
    if url.userinfo or "@" in url.netloc.decode():
        raise Forbidden("the address has a user name or password; send one without")
    if not _HOST.fullmatch(host):
        raise Forbidden("the address has no valid host")
    return url


def is_listed(host: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern is the host, or ``*.`` and a domain above it; upper and lower case are the same."""
    host = host.lower()
    return any(host.endswith(each[1:]) if each.startswith("*.") else host == each for each in map(str.lower, patterns))


# A name or an address, after international names were converted to ASCII; no % of any kind.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def checked_uri(uri: object) -> str:
    """Return an address that can be stored.

    Raises:
        Malformed: it is not a string, empty, or has a lone surrogate.
    """
    if not isinstance(uri, str) or not uri:
        raise Malformed("'uri' must say where the image is: s3://bucket/key, gs://bucket/key or https://...")
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"'uri' is not valid Unicode, it has half of a surrogate pair: {ascii(uri)[:200]}") from error
    return uri
