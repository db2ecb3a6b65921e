"""Reads images from object stores, from the buckets and folders that a client may read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore

from classifiers import TooManyBytes
from serve_app.buckets import BucketUnavailable
from serve_app.refusals import FetchFailed, Forbidden
from serve_app.uris import CONTROL_CHARACTERS, split_bucket_uri

__all__ = ["BucketImages"]


class BucketImages:
    """The store behind one scheme. Connects with the first image.

    Args:
        allow: buckets and folders by key id or tenant; ``*`` applies to everyone.
    """

    def __init__(
        self, scheme: str, allow: Mapping[str, Sequence[str]], connect: Callable[[str], ObjectStore], max_bytes: int
    ) -> None:
        self._scheme = scheme
        self._allow = allow
        self._connect = connect
        self._max_bytes = max_bytes
        self._buckets: dict[str, ObjectStore] = {}
        self._connecting = asyncio.Lock()
        self._failed = f"the image could not be read from {scheme}://"

    def check(self, uri: str, key_id: str, tenant: str) -> None:
        """Check that an address is listed for the client's key, its tenant or everyone.

        Raises:
            Forbidden: it is not listed.
        """
        bucket, key = split_bucket_uri(uri)
        allow = self._allow
        prefixes = [*allow.get(key_id, ()), *allow.get(tenant, ()), *allow.get("*", ())]
        # Some stores resolve dots in keys as in paths.
        climbs = any(part in (".", "..") for part in key.split("/"))
        if CONTROL_CHARACTERS.search(key):
            raise Forbidden("keys with control characters are not allowed; copy the object to another key")
        # The slash: s3://photos must not open s3://photos-private.
        listed = any(f"{self._scheme}://{bucket}/{key}".startswith(f"{prefix}/") for prefix in prefixes)
        if not key or key.endswith("/") or climbs or not listed:
            raise Forbidden("this object is in none of the buckets and folders that this key may read")

    async def read(self, uri: str, version: str | None = None) -> bytes:
        """Read an object that has been checked.

        Args:
            version: S3's version id, or GCS's generation; ``None``: the newest.

        Raises:
            FetchFailed: it cannot be read.
            TooManyBytes: it is over the limit.
        """
        bucket, key = split_bucket_uri(uri)
        if key.startswith("/") or "//" in key:
            raise FetchFailed("keys that begin with / or contain // cannot be read; copy the object to another key")
        try:
            answer = await obstore.get_async(
                await self._bucket(bucket), key, options=None if version is None else {"version": version}
            )
            if answer.meta["size"] <= self._max_bytes:
                return bytes(await answer.bytes_async())
        except FileNotFoundError as error:
            what = "object" if version is None else f"version of the object any more ({version})"
            raise FetchFailed(f"{self._failed}: there is no such {what}") from error
        except (PermissionDeniedError, UnauthenticatedError, InvalidPathError, ValueError) as error:
            fix = "" if version is None else "; a version of an object needs the permission s3:GetObjectVersion"
            raise FetchFailed(f"{self._failed}: the store refuses access{fix}") from error
        except (BaseError, BucketUnavailable, OSError) as error:
            raise FetchFailed(f"{self._failed}: the store does not answer", retryable=True) from error
        raise TooManyBytes(f"the image has more than {self._max_bytes:,} bytes", limit=self._max_bytes)

    async def _bucket(self, name: str) -> ObjectStore:
        async with self._connecting:
            if name not in self._buckets:  # looking for credentials may take a while
                self._buckets[name] = await asyncio.to_thread(self._connect, name)
        return self._buckets[name]
