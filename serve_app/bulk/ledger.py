"""What is recorded of a bulk run beside its results, so that the same command can continue it.

::

    manifest.json                              the summary of the run that ended last
    batch/RUN/run.json                         which pipeline, which attempt
    batch/RUN/ATTEMPT/chunks/0000012.json      the images of a chunk, in the order of the listing
    batch/RUN/ATTEMPT/listing.json             how many chunks and images there are, once all are listed
    batch/RUN/ATTEMPT/begun/0000012.json       a chunk that was begun, and which of its images ended the process
    batch/RUN/ATTEMPT/done/0000012.json        its counts: it is never run again
    batch/RUN/ATTEMPT/manifest.json            the summary
    parquet/.../batch-RUN-ATTEMPT-0000012.parquet    the results of a chunk
    failures/RUN-ATTEMPT-0000012.jsonl         the images of a chunk that have no result, with the reasons

Chunks are written under names that follow from their numbers, and are done when ``done/`` says so: one that is repeated
is written over itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from classifiers import SetupError
from serve_app.results import Objects
from serve_app.results.table import partition_of, to_parquet

__all__ = ["Begun", "Ledger", "PipelineChanged", "Run", "begin_run"]

_READERS = 16


class PipelineChanged(SetupError):
    """The pipeline is another one than when the run began."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as ``run.json`` has it.

    Attributes:
        name: follows from the pipeline's name and the sources: the same command continues the same run.
        attempt: counts how often it was started from the beginning.
        is_ended: every image has a result or a recorded failure.
    """

    name: str
    attempt: int
    pipeline: str
    fingerprint: str
    is_ended: bool = False


@dataclass(slots=True)
class Begun:
    """What is known of a chunk that was begun.

    Attributes:
        day: the partition of its results.
        session: the process of the command that had it run last.
        alone: the image that was being run with no other one in the process.
        deaths: how often the process ended while an image was run alone.
        given_up: images that are not run any more, with the reason.
    """

    day: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    session: str = ""
    alone: int | None = None
    deaths: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)


def begin_run(objects: Objects, pipeline: str, sources: Sequence[str], fingerprint: str, *, restart: bool) -> Run:
    """The run of a command: a new one, or the one that was not ended.

    Args:
        sources: as they were typed.
        restart: begin from the start, without the results of the run that was not ended.

    Raises:
        PipelineChanged: there is one that was not ended, of another fingerprint.
    """
    digest = hashlib.sha256(json.dumps([pipeline, *sources]).encode()).hexdigest()[:10]
    name = f"{re.sub('[^A-Za-z0-9_]+', '_', pipeline)[:40]}_{digest}"
    key = f"batch/{name}/run.json"
    data = objects.get(key)
    last = Run(**json.loads(data)) if data else Run(name, 0, pipeline, fingerprint, is_ended=True)
    if not last.is_ended and not restart:
        if last.fingerprint != fingerprint:
            raise PipelineChanged(
                f"the run {name} was not finished, and the pipeline, its models or its code have changed since; finish "
                "it with the pipeline as it was, or start from the beginning with --restart"
            )
        return last
    if not last.is_ended and last.fingerprint == fingerprint:
        Ledger(objects, last).remove_results()
    run = Run(name, last.attempt + 1, pipeline, fingerprint)
    objects.put(key, _json(asdict(run)))
    return run


class Ledger:
    """The records of one run. All methods raise ``StoreUnavailable``."""

    def __init__(self, objects: Objects, run: Run) -> None:
        self.objects = objects
        self.run = run
        self._root = f"batch/{run.name}/{run.attempt}"
        self._file = f"{run.name}-{run.attempt}-"

    def end(self, manifest: dict[str, Any]) -> None:
        """Record that every image has a result or a failure."""
        data = json.dumps(manifest, indent=2).encode()
        self.objects.put(f"{self._root}/manifest.json", data)
        self.objects.put("manifest.json", data)
        self.objects.put(f"batch/{self.run.name}/run.json", _json({**asdict(self.run), "is_ended": True}))

    def listing(self) -> dict[str, int] | None:
        """``chunks``, ``images`` and ``known`` of the whole listing; ``None``: it is not complete."""
        value: dict[str, int] | None = self._read("listing.json")
        return value

    def put_listing(self, chunks: int, images: int, known: int) -> None:
        """Record that all images are listed."""
        self._put("listing.json", {"chunks": chunks, "images": images, "known": known})

    def listed_chunks(self) -> int:
        """How many chunks are recorded."""
        return len(self._numbers("chunks"))

    def chunk(self, number: int) -> dict[str, Any]:
        """The record of a chunk."""
        value: dict[str, Any] | None = self._read(f"chunks/{number:07d}.json")
        if value is None:
            raise SetupError(f"{self._root} has no chunk {number} any more; start again with --restart")
        return value

    def put_chunk(self, number: int, record: dict[str, Any]) -> None:
        """Record a chunk."""
        self._put(f"chunks/{number:07d}.json", record)

    def begun(self, number: int) -> Begun:
        """What is known of a chunk; it begins now where nothing is."""
        value = self._read(f"begun/{number:07d}.json")
        return Begun() if value is None else Begun(**value)

    def put_begun(self, number: int, begun: Begun) -> None:
        """Record it."""
        self._put(f"begun/{number:07d}.json", asdict(begun))

    def done(self, number: int) -> dict[str, Any] | None:
        """The counts of a chunk; ``None``: it is not done."""
        value: dict[str, Any] | None = self._read(f"done/{number:07d}.json")
        return value

    def put_done(
        self, number: int, begun: Begun, table: pa.Table, failures: Sequence[dict[str, str]], counts: dict[str, Any]
    ) -> None:
        """Write the results and failures of a chunk, and then that it is done."""
        folder = partition_of(self.run.pipeline, date.fromisoformat(begun.day))
        if table.num_rows:
            self.objects.put(f"{folder}/batch-{self._file}{number:07d}.parquet", to_parquet(table))
        if failures:
            self.objects.put(f"failures/{self._file}{number:07d}.jsonl", b"\n".join(map(_json, failures)))
        self._put(f"done/{number:07d}.json", counts)

    def all_counts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The numbers of the chunks that are done, with their counts."""
        numbers = sorted(self._numbers("done"))
        with ThreadPoolExecutor(_READERS) as pool:
            for number, counts in zip(numbers, pool.map(self.done, numbers), strict=True):
                if counts is not None:
                    yield number, counts

    def is_own(self, key: str) -> bool:
        """Whether this run has written a file of results."""
        return key.rpartition("/")[2].startswith(f"batch-{self._file}")

    def remove_results(self) -> None:
        """Remove what this attempt has written: it starts from the beginning."""
        for key in [key for key in self.objects.keys("parquet/") if self.is_own(key)]:
            self.objects.delete(key)
        for key in [key for key in self.objects.keys("failures/") if key.startswith(f"failures/{self._file}")]:
            self.objects.delete(key)

    def _numbers(self, kind: str) -> set[int]:
        return {int(key[-12:-5]) for key in self.objects.keys(f"{self._root}/{kind}/")}

    def _read(self, name: str) -> Any:
        data = self.objects.get(f"{self._root}/{name}")
        return None if data is None else json.loads(data)

    def _put(self, name: str, value: Any) -> None:
        self.objects.put(f"{self._root}/{name}", _json(value))


def _json(value: Any) -> bytes:
    # an error may quote bytes that are not UTF-8; JSON has the same escapes for them
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
