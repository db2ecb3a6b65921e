"""Finds and reads images for the command line: files, folders, globs, URLs and ``s3://`` objects, with the user's
own rights."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import httpx

from classifiers import TooManyBytes, VisionError
from classifiers.images import ImageLimits
from graph import Frame
from serve_app.uris import scheme_of, split_bucket_uri

__all__ = ["SourceError", "expand", "read"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_TIMEOUT_S = 30.0


class SourceError(VisionError):
    """An image could not be fetched from where it was said to be."""


def expand(arguments: Sequence[str]) -> list[str]:
    """Turn what was typed into one entry an image, in that order: folders (recursively), globs and ``s3://``
    prefixes are opened.

    Raises:
        SourceError: a folder or an ``s3://`` prefix without images, a pattern without matches, a prefix that cannot be
            listed, or an empty argument.
    """
    return [uri for argument in arguments for uri in _expand(argument)]


def _expand(argument: str) -> list[str]:
    if not argument:
        raise SourceError("an empty argument names no image; is a variable unset?")
    scheme = scheme_of(argument)
    if scheme in ("http", "https"):
        return [argument]
    if scheme == "s3":
        bucket, key = split_bucket_uri(argument)
        return [argument] if key and not key.endswith("/") else _s3_objects(bucket, key)
    try:
        return _expand_path(argument)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise SourceError(f"cannot read {argument}: {error.strerror or error}") from error


def _expand_path(argument: str) -> list[str]:
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
    scheme = scheme_of(uri)
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

    bucket, key = split_bucket_uri(uri)
    try:
        body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
        data: bytes = body.read(max_bytes + 1)
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"cannot fetch {uri}: {error}") from error
    return data


def _s3_objects(bucket: str, prefix: str) -> list[str]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"cannot list s3://{bucket}/{prefix}: {error}") from error
    found = [f"s3://{bucket}/{key}" for key in keys if Path(key).suffix.lower() in _SUFFIXES]
    if not found:
        raise SourceError(f"there are no images below s3://{bucket}/{prefix} ({', '.join(sorted(_SUFFIXES))})")
    return found
