"""Finds and reads images for the command line: files, folders, globs, URLs and ``s3://`` objects, with the user's
own rights."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from classifiers import TooManyBytes, VisionError
from classifiers.images import ImageLimits
from graph import Frame

__all__ = ["SourceError", "expand", "read"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_TIMEOUT_S = 30.0


class SourceError(VisionError):
    """An image could not be fetched from where it was said to be."""


def expand(arguments: Sequence[str]) -> list[str]:
    """Turn what was typed into one entry an image, in that order: folders (recursively), globs and ``s3://``
    prefixes are opened.

    Raises:
        SourceError: a folder without images, a pattern without matches, or a prefix that cannot be listed.
    """
    return [uri for argument in arguments for uri in _expand(argument)]


def _expand(argument: str) -> list[str]:
    scheme = urlsplit(argument).scheme
    if scheme in ("http", "https"):
        return [argument]
    if scheme == "s3":
        return list(_s3_objects(argument)) if argument.endswith("/") else [argument]
    path = Path(argument)
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not found:
            raise SourceError(f"the folder {argument} has no images ({', '.join(sorted(_SUFFIXES))})")
        return found
    if glob.has_magic(argument) and not path.exists():
        found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not found:
            raise SourceError(f"nothing matches {argument}")
        return found
    return [argument]


def read(uri: str, limits: ImageLimits) -> Frame:
    """Fetch one image.

    Raises:
        SourceError: it cannot be fetched.
        InputError: it can, and is no image or over the limits.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        data = _http(uri, limits.max_bytes)
    elif scheme == "s3":
        data = _s3(uri, limits.max_bytes)
    else:
        try:
            with Path(uri).open("rb") as file:
                data = file.read(limits.max_bytes + 1)  # a byte over the limit is enough to be refused
        except OSError as error:
            raise SourceError(f"cannot read {uri}: {error.strerror or error}") from error
    return Frame.from_bytes(data, limits, uri)


def _http(uri: str, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        with httpx.stream("GET", uri, follow_redirects=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > max_bytes:
                    raise TooManyBytes(f"{uri} has more than {max_bytes:,} bytes", limit=max_bytes)
    except httpx.HTTPError as error:
        raise SourceError(f"cannot fetch {uri}: {error}") from error
    return bytes(data)


def _s3(uri: str, max_bytes: int) -> bytes:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(uri)
    try:
        body = boto3.client("s3").get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]
        data: bytes = body.read(max_bytes + 1)
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"cannot fetch {uri}: {error}") from error
    return data


def _s3_objects(uri: str) -> Iterator[str]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(uri)
    try:
        pages = (
            boto3.client("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=parts.netloc, Prefix=parts.path.lstrip("/"))
        )
        for page in pages:
            for item in page.get("Contents", []):
                if Path(item["Key"]).suffix.lower() in _SUFFIXES:
                    yield f"s3://{parts.netloc}/{item['Key']}"
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"cannot list {uri}: {error}") from error
