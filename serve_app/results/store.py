"""The state of every job, in plain objects: no second database that could be lost or disagree.

::

    jobs/ab/ID.json          the marker: written before the job is published, so that a queued job is known
    running/ab/ID.json       a worker has been processing it for a while
    attempts/ab/ID.json      how many attempts have failed, while there may be another one
    outcomes/ab/ID.json      the outcome: one object per job, by a conditional write
    content/ab/KEY.json      the same result under its content, for images that are sent again
    pictures/ab/ID.jpg       the annotated picture, if it was requested
    kept/ab/ID.json          a marker that names the image that was kept of the job, for later labelling
    journal/DATE/...jsonl    outcomes that are not in Parquet yet, many in one object
    parquet/                 compacted outcomes
    deletions/ab/ID.json     a job that was deleted, until its row has left Parquet
    rejected/...jsonl        lines that are not results, with the reason
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from serve_app.results.object_stores import Objects, objects_from_uri
from serve_app.telemetry.metrics import STORE_WRITE_SECONDS

__all__ = [
    "JOB_PREFIX",
    "JobMarker",
    "JobStatus",
    "Outcome",
    "ResultStore",
    "content_key",
    "content_keys",
    "now_text",
    "object_key",
    "object_key_beside",
]

JOB_PREFIX = "job-"
"""Begins the ids that the gateway makes. Only these have a marker, and it takes precedence over the message."""

_THREADS = 16
_MAX_NAME = 200  # file names have up to 255 bytes

# Results of form 1 were kept before their shape was checked.
_CONTENT_FORM = 2

T = TypeVar("T")


def now_text() -> str:
    """The time as markers and outcomes have it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class JobMarker:
    """What was requested, and by whom.

    Attributes:
        owner: who may see it; ``None``: everyone.
        policy: what the owner may have fetched; see :class:`serve_app.images.Sources`.
        submitted: ISO 8601 in UTC.
        withdrawn: the client was told that it was not accepted; a worker drops it.
        request: hash of its request, if that has an idempotency key.
    """

    id: str
    uri: str
    metadata: dict[str, Any] = field(default_factory=dict)
    annotate: bool = False
    owner: str | None = None
    policy: dict[str, Any] | None = None
    submitted: str = field(default_factory=now_text)
    withdrawn: bool = False
    request: str | None = None

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job: a ``result`` or an ``error`` (``type`` and ``detail``). ``finished``: ISO 8601 in UTC.

    "deleted" takes the place of the outcome of a job whose owner has it deleted; the error says by whom.
    """

    id: str
    status: Literal["succeeded", "failed", "deleted"]
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    finished: str = field(default_factory=now_text)

    @property
    def finished_at(self) -> float:
        """``finished`` in seconds since the epoch."""
        return datetime.fromisoformat(self.finished).timestamp()

    def encode(self) -> bytes:
        """One line of JSON."""
        # not asdict, which copies the whole result
        value = {name: getattr(self, name) for name in ("id", "status", "result", "error", "finished")}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a job. ``marker`` is ``None`` for one that does not come from the gateway."""

    status: Literal["queued", "running", "succeeded", "failed", "deleted"]
    outcome: Outcome | None
    marker: JobMarker | None


def content_key(sha256: str, fingerprint: str, metadata: Mapping[str, Any]) -> str:
    """Identity of a result: the image's bytes, the pipeline, and the metadata that its rules read."""
    text = json.dumps([_CONTENT_FORM, sha256, fingerprint, metadata], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_keys(result: Mapping[str, Any]) -> list[str]:
    """The content keys under which a result may be kept."""
    sha256, fingerprint = result["image"]["sha256"], result["pipeline"]["fingerprint"]
    read: list[dict[str, Any]] = [{}, result["metadata"]]  # where no rule reads it, and where one does
    return [content_key(sha256, fingerprint, metadata) for metadata in read]


class ResultStore:
    """Jobs and their results under a URI. Use it from one event loop; all methods raise ``StoreUnavailable``."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="results")

    @classmethod
    def from_uri(cls, uri: str) -> ResultStore:
        """See :func:`serve_app.results.objects_from_uri`."""
        return cls(objects_from_uri(uri))

    async def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def job(self, job_id: str) -> JobMarker | None:
        """The marker of a job that came through the gateway."""
        value = await self._read(object_key("jobs", job_id))
        return None if value is None else JobMarker(**value)

    async def create_job(self, marker: JobMarker) -> JobMarker:
        """Write a marker unless there is one, and return the one that is there."""
        if await self._run(lambda: self.objects.create(object_key("jobs", marker.id), marker.encode())):
            return marker
        return await self.job(marker.id) or marker

    async def put_job(self, marker: JobMarker) -> None:
        """Write a marker over one that is there."""
        await self._run(lambda: self.objects.put(object_key("jobs", marker.id), marker.encode()))

    async def withdraw(self, marker: JobMarker) -> None:
        """Have workers drop the job: its client was told that it was not accepted."""
        await self.put_job(replace(marker, withdrawn=True))

    async def mark_running(self, job_id: str) -> None:
        """Record that a worker is processing the job."""
        await self._run(self.objects.put, object_key("running", job_id), json.dumps({"since": now_text()}).encode())

    async def failed_attempts(self, job_id: str) -> int:
        """How many attempts at the job have failed so far."""
        value = await self._read(object_key("attempts", job_id))
        return 0 if value is None else int(value["failed"])

    async def put_failed_attempts(self, job_id: str, failed: int) -> None:
        """Record the number of failed attempts at the job."""
        await self._run(self.objects.put, object_key("attempts", job_id), json.dumps({"failed": failed}).encode())

    async def outcome(self, job_id: str) -> Outcome | None:
        """The outcome of the job; ``None``: it has none yet."""
        value = await self._read(object_key("outcomes", job_id))
        return None if value is None else Outcome(**value)

    async def finish(self, outcome: Outcome) -> Outcome:
        """Record the outcome of a job unless it has one; returns the one that is recorded."""
        if await self._write(self.objects.create, object_key("outcomes", outcome.id), outcome.encode()):
            return outcome
        return await self.outcome(outcome.id) or outcome

    async def forget_failure(self, job_id: str) -> None:
        """Delete the failure of a job, so that it can run once more; a result stays."""
        outcome = await self.outcome(job_id)
        if outcome is not None and outcome.status == "failed":
            await self._run(self.objects.delete, object_key("running", job_id))
            await self._run(self.objects.delete, object_key("attempts", job_id))
            await self._run(self.objects.delete, object_key("outcomes", job_id))

    async def status(self, job_id: str) -> JobStatus | None:
        """The state of a job; ``None``: it is not known, or was withdrawn."""
        outcome, marker = await asyncio.gather(self.outcome(job_id), self.job(job_id))
        if outcome is not None:
            return JobStatus(outcome.status, outcome, marker)
        if await self._read(object_key("running", job_id)) is not None:
            return JobStatus("running", None, marker)
        return None if marker is None or marker.withdrawn else JobStatus("queued", None, marker)

    async def journal(self, outcomes: Sequence[Outcome]) -> None:
        """Write results to the journal. One that is written twice is compacted once."""
        lines = [outcome.encode() for outcome in outcomes if outcome.status == "succeeded"]
        if lines:
            now = datetime.now(UTC)
            key = f"journal/{now:%Y-%m-%d}/{now:%H%M%S%f}-{uuid.uuid4().hex[:12]}.jsonl"
            await self._write(self.objects.put, key, b"\n".join(lines))

    async def cached(self, key: str) -> dict[str, Any] | None:
        """The result under a :func:`content_key`."""
        return await self._read(object_key("content", key))

    async def keep(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result under a :func:`content_key`, unless there is one."""
        await self._run(
            self.objects.create, object_key("content", key), json.dumps(result, ensure_ascii=False).encode()
        )

    async def put_picture(self, job_id: str, jpeg: bytes) -> None:
        """Keep the annotated picture."""
        await self._run(self.objects.put, object_key("pictures", job_id, "jpg"), jpeg)

    async def delete_picture(self, job_id: str) -> None:
        """Delete the annotated picture, if there is one."""
        await self._run(self.objects.delete, object_key("pictures", job_id, "jpg"))

    async def picture(self, job_id: str) -> bytes | None:
        """The annotated picture."""
        return await self._run(self.objects.get, object_key("pictures", job_id, "jpg"))

    async def _read(self, key: str) -> dict[str, Any] | None:
        def read() -> dict[str, Any] | None:
            data = self.objects.get(key)
            return None if data is None else json.loads(data)

        return await self._run(read)

    async def _write(self, call: Callable[..., T], *arguments: Any) -> T:
        """Of an outcome: it is timed."""
        started, outcome = time.perf_counter(), "failed"
        try:
            written = await self._run(call, *arguments)
            outcome = "ok"
            return written
        finally:
            STORE_WRITE_SECONDS.labels(outcome).observe(time.perf_counter() - started)

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


def object_key(kind: str, name: str, suffix: str = "json") -> str:
    """The key of an object of one kind, for a job's id or a content key."""
    # two digits of a hash: object stores scale by prefix, and folders stay small
    digest = hashlib.sha256(name.encode()).hexdigest()
    quoted = quote(name, safe="")
    if len(quoted) > _MAX_NAME:
        quoted = digest
    return f"{kind}/{digest[:2]}/{quoted}.{suffix}"


def object_key_beside(key: str, kind: str, suffix: str = "json") -> str:
    """The key of another kind for the same job."""
    return f"{kind}/{key.partition('/')[2].rpartition('.')[0]}.{suffix}"
