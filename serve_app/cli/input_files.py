"""Finds and reads images for the command line, with the rights of the user: files, folders, globs, URLs and ``s3://``
objects."""

from __future__ import annotations

import glob
import os
import string
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx

from classifiers import VisionError
from classifiers.imaging import ImageLimits
from graph import Frame
from serve_app.uris import IMAGE_SUFFIXES, local_path, scheme_of, split_bucket_uri

__all__ = ["Found", "SourceError", "expand", "read"]

_TIMEOUT_S = 30.0


class SourceError(VisionError):
    """An image could not be fetched from its address (field ``uri``, from :func:`expand`)."""


Found: TypeAlias = str | SourceError
"""An image's address, or why there is none."""


def expand(arguments: Iterable[str]) -> list[Found]:
    """Expand arguments into one entry per image, in their order: folders (recursively), globs and ``s3://`` prefixes.
    ``-`` is stdin.

    An argument that cannot be expanded becomes an error in its place: a folder or an ``s3://`` prefix without images, a
    pattern without matches, a folder that may not be read, an empty argument. Every address is valid Unicode: a path
    that is not becomes a ``file://`` URL.
    """
    found: list[Found] = []
    for argument in arguments:
        try:
            found += [_as_text(entry) if isinstance(entry, str) else entry for entry in _expand(argument)]
        except Exception as error:  # noqa: BLE001 - as in `read`
            found.append(_as_source_error(argument, error))
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
    path = local_path(argument)
    if path is not None and path.is_dir():
        return _images_of(path)
    if not scheme and glob.has_magic(argument) and not Path(argument).exists():
        return _matches(argument)
    return [argument]


def _images_of(folder: Path) -> list[Found]:
    """The images of a folder and of those below it, sorted. Linked folders are followed, each folder is read once."""
    found: dict[str, Found] = {}
    seen: set[Path] = set()
    folders, linked = [folder], list[Path]()
    while folders or linked:
        current = (folders or linked).pop()  # linked ones last: an image is listed under its own name, if it has one
        try:
            real = current.resolve(strict=True)
            entries = [] if real in seen else list(current.iterdir())
            seen.add(real)
            for entry in entries:
                if entry.name.startswith("._"):  # macOS's, beside each file on a foreign disk
                    continue
                if entry.is_dir():
                    (linked if entry.is_symlink() else folders).append(entry)
                elif entry.suffix.lower() in IMAGE_SUFFIXES:
                    found[str(entry)] = _unless_it_blocks(str(entry))
        except OSError as error:
            found[str(current)] = SourceError(f"cannot read {current}: {error.strerror or error}", uri=str(current))
    if not found:
        raise SourceError(f"the folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [found[path] for path in sorted(found)]


def _matches(pattern: str) -> list[Found]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        raise SourceError(f"nothing matches {pattern}")
    if "**" in pattern:
        # It opens folders itself, and follows links in circles: each file is taken once, under its shortest name.
        files = sorted((match for match in matches if not Path(match).is_dir()), key=len, reverse=True)
        matches = sorted({(os.path.realpath(Path(file).parent), Path(file).name): file for file in files}.values())
    found: list[Found] = []
    for match in matches:
        entry = _unless_it_blocks("./-" if match == "-" else match)
        found += expand([entry]) if isinstance(entry, str) else [entry]
    return found


def _unless_it_blocks(path: str) -> Found:
    """The path, or an error where reading it may block forever: of a pipe or a device."""
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        return SourceError(f"{path} is not a regular file; name it itself to have it read", uri=path)
    return path


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
        InputError: it is not an image, or over the limits.
    """
    try:
        data = _read(uri, limits.max_bytes)
    except VisionError:
        raise
    except Exception as error:  # clients raise errors of many kinds, above all for invalid addresses
        raise _as_source_error(uri, error) from error
    return Frame.from_bytes(data, limits, uri)


def _read(uri: str, max_bytes: int) -> bytes:
    scheme = scheme_of(uri)
    more = max_bytes + 1  # one byte over the limit is enough to be refused
    if scheme in ("http", "https"):
        data = bytearray()
        with httpx.stream("GET", uri, follow_redirects=True, timeout=_TIMEOUT_S) as response:
            for chunk in response.raise_for_status().iter_bytes():
                data += chunk
                if len(data) > max_bytes:
                    break
        return bytes(data)
    if scheme == "s3":
        bucket, key = split_bucket_uri(uri)
        if not bucket:
            raise SourceError(f"{uri} names no bucket; s3://BUCKET/KEY does")
        return bytes(_s3().get_object(Bucket=bucket, Key=key)["Body"].read(more))
    if uri == "-":
        return sys.stdin.buffer.read(more)
    path = local_path(uri)
    if path is None:
        raise SourceError(f"{uri} names no file of this machine; file:///PATH does")
    if scheme not in ("", "file") and not path.exists():
        raise SourceError(f"cannot read {uri}: give a path, or an address with http://, https://, s3:// or file://")
    with path.open("rb") as file:
        return file.read(more)


def _as_source_error(uri: str, error: Exception) -> SourceError:
    if isinstance(error, SourceError):
        return SourceError(str(error), uri=uri)
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return SourceError(f"cannot read {uri}: {reason}", uri=uri)


def _s3() -> Any:
    import boto3

    return boto3.client("s3")


def _s3_objects(bucket: str, prefix: str) -> list[str]:
    pages = _s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    found = [f"s3://{bucket}/{key}" for key in keys if Path(key).suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise SourceError(f"there are no images below s3://{bucket}/{prefix} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found
