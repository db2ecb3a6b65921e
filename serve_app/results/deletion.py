"""Deletes what is stored of jobs, and leaves a record without content: who deleted it, and when.

The request is written down first, under ``deletions/``, so that the next run finishes what a crash has interrupted.
The record takes the outcome's place: a worker that is processing the job, or gets its message again, finds an outcome
there and writes none. Rows in Parquet go with the next run of :func:`purge`, and queries leave them out until then. A
request is kept for an hour, and each run carries it out again, because a worker may still write what it has begun
before: the picture, a line of the journal, the result as content, the image for labelling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from serve_app.results.object_stores import Objects
from serve_app.results.store import JobMarker, Outcome, content_keys, now_text, object_key

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Deletion", "delete_job", "pending_deletions", "purge"]

_PREFIX = "deletions/"
_LATE = timedelta(hours=1)

DeleteUpload = Callable[[JobMarker], None]
"""Deletes the image that came with a job, if there is one."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A request to delete a job: by whom, and when (ISO 8601 in UTC).

    Attributes:
        finished: the outcome's time, if it had one.
        content: the content keys of its result.
    """

    id: str
    by: str
    at: str
    finished: str | None = None
    content: Sequence[str] = ()

    def write(self, objects: Objects) -> None:
        """Have it carried out, also by others."""
        objects.put(object_key("deletions", self.id), json.dumps(asdict(self)).encode())


def delete_job(objects: Objects, job_id: str, by: str, delete_upload: DeleteUpload, *, only_known: bool = True) -> bool:
    """Delete the image, the picture and the result of a job, at once; its row in Parquet with the next :func:`purge`.

    Args:
        objects: the store of results.
        job_id: the job, in whatever state.
        by: who deletes it.
        delete_upload: deletes the image that came with it.
        only_known: do nothing for a job that has neither a marker nor an outcome, as rows of a bulk run.

    Returns:
        Whether there was such a job.

    Raises:
        StoreUnavailable: the store does not answer; call it again.
    """
    outcome = _outcome(objects, job_id)
    if only_known and outcome is None and _marker(objects, job_id) is None:
        return False
    if outcome is None or outcome.status != "deleted":
        deletion = _with(Deletion(job_id, by, now_text()), outcome)
        deletion.write(objects)
        _delete_objects(objects, deletion, delete_upload)
    return True


def pending_deletions(objects: Objects) -> list[Deletion]:
    """Those whose rows may still be in Parquet."""
    found = map(objects.get, objects.keys(_PREFIX))
    return [Deletion(**json.loads(data)) for data in found if data is not None]


def purge(objects: Objects, delete_upload: DeleteUpload) -> int:
    """Finish all deletions that were requested: rows in Parquet, and what a crash has left. Compact before.

    Returns:
        Rows and lines that were removed.

    Raises:
        StoreUnavailable: the store does not answer; run it again.
        VisionError: a file of the store is damaged; the message names it.
    """
    pending = pending_deletions(objects)
    if not pending:
        return 0
    for deletion in pending:
        _delete_objects(objects, deletion, delete_upload)
    removed = _delete_rows(objects, pending) + _delete_rejected(objects, {deletion.id for deletion in pending})
    if not removed:
        for deletion in pending:
            if datetime.now(UTC) - datetime.fromisoformat(deletion.at) > _LATE:
                objects.delete(object_key("deletions", deletion.id))
    return removed


def _delete_objects(objects: Objects, deletion: Deletion, delete_upload: DeleteUpload) -> None:
    job_id = deletion.id
    why = {"type": "Deleted", "detail": f"deleted by {deletion.by}"}
    record = Outcome(job_id, "deleted", error=why, finished=deletion.at).encode()
    outcome = _outcome(objects, job_id)
    if outcome is None and not objects.create(object_key("outcomes", job_id), record):
        outcome = _outcome(objects, job_id)  # a worker has finished it meanwhile
    if outcome is not None and outcome.result is not None and not deletion.content:
        deletion = _with(deletion, outcome)
        deletion.write(objects)
    for key in deletion.content:
        objects.delete(object_key("content", key))
    objects.delete(object_key("pictures", job_id, "jpg"))
    if outcome is not None and outcome.status != "deleted":
        objects.put(object_key("outcomes", job_id), record)  # not before: it says what else there is
    for kind in ("running", "attempts"):
        objects.delete(object_key(kind, job_id))
    if (kept := _marker(objects, job_id, "kept")) is not None:
        delete_upload(kept)
        objects.delete(object_key("kept", job_id))
    marker = _marker(objects, job_id)
    if marker is not None and marker.uri:
        delete_upload(marker)
        blank = replace(marker, uri="", metadata={}, policy=None, request=None)
        objects.put(object_key("jobs", job_id), blank.encode())


def _with(deletion: Deletion, outcome: Outcome | None) -> Deletion:
    if outcome is None:
        return deletion
    content = () if outcome.result is None else content_keys(outcome.result)
    return replace(deletion, finished=outcome.finished, content=content)


def _delete_rows(objects: Objects, deletions: Collection[Deletion]) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    from serve_app.results.compaction import FILE, covers, read_table
    from serve_app.results.table import to_parquet

    ids = pa.array(sorted({deletion.id for deletion in deletions}))
    times = [deletion.finished and datetime.fromisoformat(deletion.finished) for deletion in deletions]
    known = None if None in times else sorted(round(time.timestamp() * 1000) for time in times if time)
    filesystem, root = objects.filesystem()
    removed = 0
    for key in [key for key in objects.keys("parquet/") if key.endswith(".parquet")]:
        name = FILE.fullmatch(key.rsplit("/", 1)[-1])
        if name is not None and known is not None and not covers(name, known):
            continue
        path = f"{root}/{key}"
        here = pc.is_in(read_table(filesystem, path, ["id"])["id"], value_set=ids)
        if count := pc.sum(here).as_py():
            table: pa.Table = read_table(filesystem, path).filter(pc.invert(here))
            if table.num_rows:
                objects.put(key, to_parquet(table))
            else:
                objects.delete(key)
            removed += count
    return removed


def _delete_rejected(objects: Objects, ids: Collection[str]) -> int:
    removed = 0
    for key in list(objects.keys("rejected/")):
        lines = (objects.get(key) or b"").split(b"\n")
        kept = [line for line in lines if not _is_of(line, ids)]
        if len(kept) < len(lines):
            objects.put(key, b"\n".join(kept)) if kept else objects.delete(key)
            removed += len(lines) - len(kept)
    return removed


def _is_of(line: bytes, ids: Collection[str]) -> bool:
    """Whether a line of ``rejected/`` holds one of the jobs."""
    if not line:
        return False
    rejected = json.loads(line)["line"]
    try:
        return str(json.loads(rejected)["id"]) in ids
    except (ValueError, TypeError, LookupError):  # it was cut off, or is something else
        return any(json.dumps(job_id) in rejected for job_id in ids)


def _outcome(objects: Objects, job_id: str) -> Outcome | None:
    data = objects.get(object_key("outcomes", job_id))
    return None if data is None else Outcome(**json.loads(data))


def _marker(objects: Objects, job_id: str, kind: str = "jobs") -> JobMarker | None:
    data = objects.get(object_key(kind, job_id))
    return None if data is None else JobMarker(**json.loads(data))
