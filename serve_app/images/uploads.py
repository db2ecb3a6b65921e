"""Images that clients hand over: stored under their tenant and the hash of their bytes, until a job has run.

Their addresses, ``upload://NAME``, say nothing about the place: the tenant is always that of the key that sent the job,
so no address names another tenant's image.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from classifiers import TooManyBytes
from serve_app.config import IntakeConfig
from serve_app.refusals import FetchFailed, Forbidden, NotSupported
from serve_app.results import JobMarker, Objects, StoreUnavailable, objects_from_uri

__all__ = ["UPLOADS", "PresignedUpload", "Uploads", "is_upload", "tenant_folder", "upload_address", "upload_key"]

UPLOADS = "upload"
"""The scheme of their addresses."""

# 64 digits: the hash of the bytes. 32: chosen before the bytes were known, for a presigned upload.
_ADDRESS = re.compile(r"upload://([0-9a-f]{64}|[0-9a-f]{32})")
_CHOSEN_DIGITS = 32
_LONGEST_NAME = 200

_PRESIGNED_FOR = timedelta(minutes=15)

# An image that is sent again is written again when retention would soon remove the first one.
_FRESH = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class PresignedUpload:
    """A request that a client may send to the store: ``PUT`` to ``url`` with ``headers``, before ``expires``."""

    uri: str
    url: str
    headers: dict[str, str]
    expires: datetime


class Uploads:
    """Uploaded images in an object store. Use it from one event loop.

    Args:
        objects: the folder of all of them.
        max_bytes: the longest image.
        keep_for: how long retention keeps them; ``None``: forever.
    """

    def __init__(self, objects: Objects, max_bytes: int, keep_for: timedelta | None = None) -> None:
        self.objects = objects
        self._max_bytes = max_bytes
        self._keep_for = keep_for

    @classmethod
    def of(cls, config: IntakeConfig, max_bytes: int) -> Uploads:
        """Those of an ``intake:`` block."""
        return cls(objects_from_uri(config.images_uri), max_bytes, config.retention.ages.images)

    async def store(self, image: bytes, sha256: str, owner: str | None) -> None:
        """Store an image of a tenant, unless it has one with the same bytes.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        await asyncio.to_thread(self.store_now, image, sha256, owner)

    def store_now(self, data: bytes, sha256: str, owner: str | None) -> None:
        """As :meth:`store`; blocks."""
        key = upload_key(owner, sha256)
        if self.objects.create(key, data) or self._keep_for is None:
            return
        there = self.objects.info(key)
        if there is None or datetime.now(UTC) - there.modified > self._keep_for - min(_FRESH, self._keep_for / 2):
            self.objects.put(key, data)

    async def presign(self, owner: str | None, content_type: str, size: int) -> PresignedUpload:
        """Let a client write an image of a tenant to the store, once or again, within 15 minutes.

        Raises:
            TooManyBytes: the size is over the limit.
            NotSupported: the store cannot sign requests.
            StoreUnavailable: there are no credentials to sign with.
        """
        if size > self._max_bytes:
            raise TooManyBytes(f"the image has more than {self._max_bytes:,} bytes", limit=self._max_bytes)
        name, expires = uuid.uuid4().hex, datetime.now(UTC) + _PRESIGNED_FOR
        key = upload_key(owner, name)
        signed = await asyncio.to_thread(self.objects.presigned_put, key, content_type, size, _PRESIGNED_FOR)
        if signed is None:
            raise NotSupported("uploads cannot be signed for this store; send the image itself to POST /v1/jobs")
        return PresignedUpload(upload_address(name), signed.url, signed.headers, expires)

    @staticmethod
    def check(uri: str) -> str:
        """The name in an address.

        Raises:
            Forbidden: it is no address of an upload.
        """
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            raise Forbidden("this is no address of an upload; use the one that the gateway answered")
        return match[1]

    async def read(self, uri: str, owner: str | None) -> bytes:
        """Read an image of a tenant.

        Raises:
            Forbidden: it is no address of an upload.
            FetchFailed: the tenant has no such image, or the store does not answer.
            TooManyBytes: it is over the limit.
        """
        key = upload_key(owner, self.check(uri))
        try:
            return await asyncio.to_thread(self._read, key)
        except StoreUnavailable as error:
            raise FetchFailed("the upload could not be read: the store does not answer", retryable=True) from error

    def delete(self, marker: JobMarker) -> None:
        """Delete the image that came with a job, if one did. Blocks.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if is_upload(marker.uri):
            self.objects.delete(upload_key(marker.owner, self.check(marker.uri)))

    def _read(self, key: str) -> bytes:
        # the gateway has seen the bytes of the others, perhaps under a higher limit
        is_unseen = len(key.rsplit("/", 1)[-1]) == _CHOSEN_DIGITS
        data = self.objects.get(key, self._max_bytes if is_unseen else None)
        if data is None:
            raise FetchFailed("there is no such upload: it did not arrive, was deleted, or its retention has ended")
        return data


def upload_address(name: str) -> str:
    """The address of an image by its name."""
    return f"{UPLOADS}://{name}"


def is_upload(uri: str) -> bool:
    """Whether an address is meant to be one of an upload."""
    return uri.lower().startswith(f"{UPLOADS}:")


def upload_key(owner: str | None, name: str) -> str:
    """The key of an image, by its tenant and its name."""
    return f"{tenant_folder(owner)}/{name[:2]}/{name}"


def tenant_folder(owner: str | None) -> str:
    """The folder of a tenant's images; ``None``: of images that nobody owns."""
    if owner is None:
        return "open"
    name = quote(owner, safe="")
    return f"t-{name if len(name) <= _LONGEST_NAME else hashlib.sha256(owner.encode()).hexdigest()}"
