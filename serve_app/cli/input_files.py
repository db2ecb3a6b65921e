"""Finds and reads images for the command line: files, folders, globs, URLs and ``s3://`` objects, with the user's
own rights."""

from __future__ import annotations

import glob
import os
import stat
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import httpx

from classifiers import TooManyBytes, VisionError
from classifiers.imaging import ImageLimits
from graph import Frame
from serve_app.uris import IMAGE_SUFFIXES, path_of_file_uri, scheme_of, split_bucket_uri

__all__ = ["Found", "SourceError", "expand", "read"]

_TIMEOUT_S = 30.0


class SourceError(VisionError):
    """An image could not be fetched from its address (field ``uri``, from :func:`expand`)."""


Found: TypeAlias = str | SourceError
"""An image's address, or why there is none."""


def expand(arguments: Sequence[str]) -> list[Found]:
    """Turn what was typed into one entry an image, in that order: folders (recursively), globs and ``s3://``
    prefixes are opened. ``-`` is stdin.

    In the place of what cannot be opened stands the error: a folder or an ``s3://`` prefix without images, a pattern
    without matches, a folder that may not be read, an empty argument. Every address is valid Unicode: a path that is
    not becomes a ``file://`` URL.
    """
    found: list[Found] = []
    for argument in arguments:
        try:
            found += [_as_text(entry) if isinstance(entry, str) else entry for entry in _expand(argument)]
        except Exception as error:  # noqa: BLE001 - as in `read`
            found.append(SourceError(str(_as_source_error(argument, error)), uri=argument))
    return found


def _expand(argument: str) -> Sequence[Found]:
    if not argument:
        raise SourceError("an empty argument names no image; is a variable unset?")
    scheme = scheme_of(argument)
    if scheme in ("http", "https") or argument == "-":
        return [argument]
    if scheme == "s3":
        bucket, key = split_bucket_uri(argument)
        return [argument] if not bucket or (key and not key.endswith("/")) else _s3_objects(bucket, key)
    path = _path(argument)
    if path is not None and path.is_dir():
        return _images_of(path)
    if not scheme and glob.has_magic(argument) and not Path(argument).exists():
        return _matches(argument)
    return [argument]


def _path(uri: str) -> Path | None:
    return path_of_file_uri(uri) if scheme_of(uri) == "file" else Path(uri)


def _images_of(folder: Path) -> list[Found]:
    """The images of a folder and of those below it, sorted. Linked folders are followed, each folder is read once."""
    found: dict[str, Found] = {}
    seen: set[tuple[int, int]] = set()
    folders, linked = [folder], list[Path]()
    while folders or linked:
        current = (folders or linked).pop()  # linked ones last: what is reached twice is listed under its own name
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(current.iterdir())
        except OSError as error:
            found[str(current)] = SourceError(f"cannot read {current}: {error.strerror or error}", uri=str(current))
            continue
        for entry in entries:
            if entry.name.startswith("._"):  # macOS's, beside each file on a foreign disk
                continue
            try:
                mode = entry.stat().st_mode
            except OSError:  # a dangling link: whoever reads it says so
                mode = stat.S_IFREG
            if stat.S_ISDIR(mode):
                (linked if entry.is_symlink() else folders).append(entry)
            elif entry.suffix.lower() in IMAGE_SUFFIXES:
                found[str(entry)] = str(entry) if stat.S_ISREG(mode) else _not_regular(str(entry))
    if not found:
        raise SourceError(f"the folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [found[path] for path in sorted(found)]


def _matches(pattern: str) -> Sequence[Found]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        raise SourceError(f"nothing matches {pattern}")
    if "**" not in pattern:
        found: list[Found] = []
        for match in matches:
            found += [_not_regular(match)] if _waits(match) else expand(["./-" if match == "-" else match])
        return found
    # It goes into folders itself, and into linked ones again and again.
    files = [match for match in matches if not Path(match).is_dir()]
    first = {
        (os.path.realpath(Path(file).parent), Path(file).name): file for file in sorted(files, key=len, reverse=True)
    }
    return [_not_regular(file) if _waits(file) else file for file in sorted(first.values())]


def _waits(path: str) -> bool:
    """Whether reading it may wait for ever: a pipe, a device."""
    return Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()


def _not_regular(path: str) -> SourceError:
    return SourceError(f"{path} is not a regular file; name it itself to have it read", uri=path)


def _as_text(uri: str) -> str:
    """The same address in valid Unicode, where it has bytes that are not UTF-8."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        if not scheme_of(uri):
            return Path(uri).absolute().as_uri()
        return quote(os.fsencode(uri), safe=string.punctuation)
    return uri


def read(uri: str, limits: ImageLimits) -> Frame:
    """Fetch one image.

    Raises:
        SourceError: it cannot be fetched.
        InputError: it can, and is no image or over the limits.
    """
    try:
        data = _read(uri, limits.max_bytes)
    except VisionError:
        raise
    except Exception as error:  # clients raise errors of many kinds, most of all for addresses that are none
        raise _as_source_error(uri, error) from error
    return Frame.from_bytes(data, limits, uri)


def _read(uri: str, max_bytes: int) -> bytes:
    scheme = scheme_of(uri)
    if scheme in ("http", "https"):
        return _http(uri, max_bytes)
    if scheme == "s3":
        return _s3(uri, max_bytes)
    more = max_bytes + 1  # a byte over the limit is enough to be refused
    if uri == "-":
        return sys.stdin.buffer.read(more)
    path = _path(uri)
    if path is None:
        raise SourceError(f"{uri} names no file of this machine; file:///PATH does")
    if scheme not in ("", "file") and not path.exists():
        raise SourceError(f"cannot read {uri}: give a path, or an address with http://, https://, s3:// or file://")
    with path.open("rb") as file:
        return file.read(more)


def _as_source_error(uri: str, error: Exception) -> SourceError:
    if isinstance(error, SourceError):
        return error
    words = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return SourceError(f"cannot read {uri}: {words}")


def _http(uri: str, max_bytes: int) -> bytes:
    data = bytearray()
    with httpx.stream("GET", uri, follow_redirects=True, timeout=_TIMEOUT_S) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > max_bytes:
                raise TooManyBytes(f"{uri} has more than {max_bytes:,} bytes", limit=max_bytes)
    return bytes(data)


def _s3(uri: str, max_bytes: int) -> bytes:
    import boto3

    bucket, key = split_bucket_uri(uri)
    if not bucket:
        raise SourceError(f"{uri} names no bucket; s3://BUCKET/KEY does")
    data: bytes = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read(max_bytes + 1)
    return data


def _s3_objects(bucket: str, prefix: str) -> list[str]:
    import boto3

    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    found = [f"s3://{bucket}/{key}" for key in keys if Path(key).suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise SourceError(f"there are no images below s3://{bucket}/{prefix} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found
