"""Jobs of clients: a list is put on the queue as a whole or not at all; and the state of each job."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import Field

from serve_app.http.json_bodies import JsonBody
from serve_app.http.problems import Malformed
from serve_app.images import PresignedUpload, Sources, Uploads, upload_address
from serve_app.queues import BadQueueUrl, Queue, QueueUnavailable
from serve_app.refusals import Forbidden, JobsUnavailable
from serve_app.results import JOB_PREFIX, BadResultsUri, JobMarker, JobStatus, ResultStore, StoreUnavailable
from serve_app.results.deletion import delete_job
from serve_app.telemetry.tracing import current_traceparent

__all__ = ["JobDesk", "JobItem", "UploadRequest"]

_PUBLISH_S = 20.0
_STORE_S = 60.0
_STORED_AT_A_TIME = 4
_RETRY_AFTER_S = 5

_log = logging.getLogger(__name__)


class JobItem(JsonBody):
    """One image to run."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        description="Where the image is: https://..., s3://..., or the address of an upload",
    )
    metadata: dict[str, Any] | None = Field(None, description="Rules see it as image['metadata']")
    annotate: bool | None = Field(False, description="Keep the picture with boxes and labels, too")


class UploadRequest(JsonBody):
    """An image that a client wants to upload to the store."""

    content_type: str = Field(pattern=r"^image/[\w.+-]{1,80}$", description="Its type, such as image/jpeg")
    size: int = Field(ge=1, description="Its bytes")


class JobDesk:
    """Puts jobs on a queue, and knows their state. Use it from one event loop.

    Args:
        queue: not opened; it is opened when it is needed.
        uploads: takes the images that come with jobs.
    """

    def __init__(self, queue: Queue, store: ResultStore, sources: Sources, uploads: Uploads) -> None:
        self._uploads = uploads
        self._queue = queue
        self._store = store
        self._sources = sources

    async def submit(
        self,
        items: Sequence[JobItem],
        policy: dict[str, Any] | None,
        idempotency_key: str | None,
        pay: Callable[[], Awaitable[None]],
        images: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Accept jobs: their images are stored, then their markers are written, then their messages are published.

        Args:
            items: with metadata that was checked.
            policy: what the worker may fetch for them, see :class:`serve_app.images.job_sources.Sources`. Their tenant
                may see them; ``None``: everyone.
            idempotency_key: with the same key and tenant come the same ids.
            pay: takes the jobs from their owner's quota; not called for jobs that were sent before.
            images: that came with the jobs, by the hashes of their bytes. The items name them.

        Returns:
            The jobs' ids, in the order of ``items``.

        Raises:
            Forbidden: the image of one may not be fetched.
            Malformed: the key was used for other jobs.
            JobsUnavailable: the queue or the store is unavailable; nothing was accepted.
        """
        await asyncio.to_thread(self._check, items, policy)
        owner = None if policy is None else policy["tenant"]
        request = None if idempotency_key is None else await asyncio.to_thread(_digest_of_items, items)
        markers = [
            JobMarker(job_id, item.uri, item.metadata or {}, bool(item.annotate), owner, policy, request=request)
            for job_id, item in zip(_job_ids(owner, idempotency_key, len(items)), items, strict=True)
        ]
        async with self._available():
            known = None if idempotency_key is None else await self._store.job(markers[0].id)
            images = images or {}
            if known is None:
                await pay()
            else:
                _require_same(known, request)
                images = await self._not_ended(images, markers)
            await self._store_images(images, owner)
            if idempotency_key is not None:
                _require_same(known or await self._store.create_job(markers[0]), request)
            try:
                async with asyncio.timeout(_PUBLISH_S):
                    new = await asyncio.gather(*(self._write(marker, idempotency_key is None) for marker in markers))
                    fresh = [marker for marker, is_new in zip(markers, new, strict=True) if is_new]
                    if fresh:
                        bodies = await asyncio.to_thread(_bodies, fresh, current_traceparent())
                        await self._queue.publish(bodies)
            except BaseException:
                # With a key the client sends the same jobs again, and another request with it may have had them
                # accepted meanwhile: those stay.
                if idempotency_key is None:
                    with suppress(StoreUnavailable, BadResultsUri):  # nobody knows their ids
                        await asyncio.shield(asyncio.gather(*map(self._store.withdraw, markers)))
                raise
        return [marker.id for marker in markers]

    async def _not_ended(self, images: Mapping[str, bytes], markers: Sequence[JobMarker]) -> dict[str, bytes]:
        """The images of jobs that have no outcome: one that was deleted is not stored again."""
        statuses = await asyncio.gather(*(self._store.status(marker.id) for marker in markers))
        ended = {marker.id for marker, status in zip(markers, statuses, strict=True) if status and status.outcome}
        named = {marker.uri for marker in markers if marker.id not in ended}
        return {sha256: image for sha256, image in images.items() if upload_address(sha256) in named}

    async def _store_images(self, images: Mapping[str, bytes], owner: str | None) -> None:
        async def one(sha256: str, image: bytes) -> None:
            async with at_a_time:
                await self._uploads.store(image, sha256, owner)

        at_a_time = asyncio.Semaphore(_STORED_AT_A_TIME)
        async with asyncio.timeout(_STORE_S):
            await asyncio.gather(*(one(sha256, image) for sha256, image in images.items()))

    def _check(self, items: Sequence[JobItem], policy: dict[str, Any] | None) -> None:
        for index, item in enumerate(items):
            try:
                self._sources.check(item.uri, policy)
            except Forbidden as error:
                raise Forbidden(f"[{index}].uri: {error}", index=index) from error

    async def status(self, job_id: str) -> JobStatus | None:
        """The state of a job; ``None``: it is not known.

        Raises:
            JobsUnavailable: the store is unavailable.
        """
        async with self._available():
            return await self._store.status(job_id)

    async def delete(self, job_id: str, by: str) -> None:
        """Delete the image, the picture and the result of a job; its row in Parquet with the next compaction.

        Raises:
            JobsUnavailable: the store is unavailable; what has begun is finished by the next compaction.
        """
        async with self._available():
            await asyncio.to_thread(delete_job, self._store.objects, job_id, by, self._uploads.delete)

    async def presign(self, owner: str | None, content_type: str, size: int) -> PresignedUpload:
        """See :meth:`serve_app.images.Uploads.presign`.

        Raises:
            TooManyBytes, NotSupported: no such upload is possible.
            JobsUnavailable: the store is unavailable.
        """
        async with self._available():
            return await self._uploads.presign(owner, content_type, size)

    async def picture(self, job_id: str) -> bytes | None:
        """The annotated picture; ``None``: there is none, or not yet.

        Raises:
            JobsUnavailable: the store is unavailable.
        """
        async with self._available():
            return await self._store.picture(job_id)

    async def _write(self, marker: JobMarker, is_new: bool) -> bool:
        """Write a marker; whether its message has to be published."""
        if is_new:
            await self._store.put_job(marker)
            return True
        await self._store.create_job(marker)
        # An extra message does no harm, since the worker finds the job's outcome; a missing one would.
        status = await self._store.status(marker.id)
        return status is None or status.status == "queued"

    @asynccontextmanager
    async def _available(self) -> AsyncIterator[None]:
        try:
            yield
        except (QueueUnavailable, BadQueueUrl, StoreUnavailable, BadResultsUri, TimeoutError) as error:
            _log.error("jobs: %s", str(error) or "the queue or the store did not answer in time")
            raise JobsUnavailable(
                "the queue or the store of results does not answer; nothing was accepted, try again",
                retry_after_s=_RETRY_AFTER_S,
            ) from error


def _require_same(first: JobMarker, request: str | None) -> None:
    if first.request != request:
        raise Malformed(
            "this Idempotency-Key was used for other jobs, or for jobs that were deleted; use a new one for new jobs"
        )


def _job_ids(owner: str | None, key: str | None, count: int) -> list[str]:
    if key is None:
        return [f"{JOB_PREFIX}{uuid.uuid4().hex}" for _ in range(count)]
    digests = (hashlib.sha256(json.dumps([owner, key, index]).encode()) for index in range(count))
    return [f"{JOB_PREFIX}{digest.hexdigest()[:32]}" for digest in digests]


def _bodies(markers: Sequence[JobMarker], traceparent: str) -> list[bytes]:
    trace = {"traceparent": traceparent} if traceparent else {}
    return [
        json.dumps({"id": each.id, "uri": each.uri, "metadata": each.metadata, **trace}).encode() for each in markers
    ]


def _digest_of_items(items: Sequence[JobItem]) -> str:
    """Of their JSON, item by item: other threads run in between."""
    digest = hashlib.sha256(b"[")
    for index, item in enumerate(items):
        text = json.dumps([item.uri, item.metadata or {}, bool(item.annotate)], sort_keys=True)
        digest.update(f"{', ' if index else ''}{text}".encode())
    digest.update(b"]")
    return digest.hexdigest()
