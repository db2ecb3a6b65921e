"""Cuts what the sources have into numbered chunks, and records them."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow.dataset as ds

from classifiers.redaction import without_secrets
from serve_app.bulk.ledger import Ledger
from serve_app.bulk.sources import Entry, Source
from serve_app.results.compaction import compact

__all__ = ["Known", "list_chunks"]

_LEAST = 250
"""Images of a chunk while few are listed."""

_SHARE = 64
"""Later chunks have this part of what is listed so far, so that the last one does not keep the others waiting long."""


class Known:
    """The images that the store has a result for, of one fingerprint; on disk, for there may be any number.

    Args:
        ledger: of the run; what it has written itself does not count.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="known-")
        self._database = sqlite3.connect(Path(self._folder.name) / "known.db")
        self._database.executescript(
            "PRAGMA journal_mode = off; PRAGMA synchronous = off;"
            "CREATE TABLE known (uri BLOB PRIMARY KEY, finished REAL) WITHOUT ROWID"
        )
        compact(ledger.objects)
        keys = [key for key in ledger.objects.keys("parquet/") if key.endswith(".parquet") and not ledger.is_own(key)]
        filesystem, root = ledger.objects.filesystem()
        if keys:
            dataset = ds.dataset([f"{root}/{key}" for key in keys], format="parquet", filesystem=filesystem)
            chosen = ds.field("fingerprint") == ledger.run.fingerprint
            for batch in dataset.to_batches(columns=["uri", "finished"], filter=chosen):
                self._add(batch.to_pylist())

    def __contains__(self, entry: Entry) -> bool:
        """Whether there is a result of it as it is now."""
        found = self._database.execute("SELECT finished FROM known WHERE uri = ?", [_digest(entry.uri)]).fetchone()
        return found is not None and (entry.modified is None or entry.modified <= found[0])

    def close(self) -> None:
        """Remove it from the disk."""
        self._database.close()
        self._folder.cleanup()

    def _add(self, rows: Sequence[dict[str, Any]]) -> None:
        self._database.executemany(
            "INSERT INTO known VALUES (?, ?) ON CONFLICT DO UPDATE SET finished = max(finished, excluded.finished)",
            [(_digest(row["uri"]), row["finished"].timestamp()) for row in rows if row["uri"]],
        )


def list_chunks(
    ledger: Ledger, sources: Sequence[Source], first: int, chunk_size: int, *, skip_known: bool
) -> Iterator[int]:
    """The numbers of the chunks from ``first`` on: those that are recorded, then those that a thread of this process
    records meanwhile, as fast as the sources are listed.

    A second call yields the same numbers in the same order.

    Raises:
        Exception: a source cannot be listed.
    """
    numbers: SimpleQueue[int | Exception | None] = SimpleQueue()

    def record() -> None:
        try:
            _record(ledger, sources, chunk_size, skip_known, numbers)
            numbers.put(None)
        except Exception as error:  # noqa: BLE001 - raised by the generator
            numbers.put(error)

    threading.Thread(target=record, name="listing", daemon=True).start()
    while (number := numbers.get()) is not None:
        if isinstance(number, Exception):
            raise number
        if number >= first:
            yield number


def _record(
    ledger: Ledger,
    sources: Sequence[Source],
    chunk_size: int,
    skip_known: bool,
    numbers: SimpleQueue[int | Exception | None],
) -> None:
    recorded = ledger.listed_chunks()
    for number in range(recorded):
        numbers.put(number)
    if ledger.listing() is not None:
        return
    images = left_out = source_number = 0
    after: str | None = None
    if recorded:
        last = ledger.chunk(recorded - 1)
        images, left_out, (source_number, after) = last["listed"], last["known"], last["position"]
    known = Known(ledger) if skip_known else None
    try:
        number = recorded
        for index in range(source_number, len(sources)):
            entries = sources[index].entries(after if index == source_number else None)
            while True:
                size = min(chunk_size, max(_LEAST, images // _SHARE))
                chunk = []
                for entry in entries:
                    if known is not None and entry in known:
                        left_out += 1
                        continue
                    chunk.append(entry)
                    if len(chunk) == size:
                        break
                if not chunk:
                    break
                images += len(chunk)
                record = {
                    "images": [[entry.uri, entry.metadata or {}, entry.row] for entry in chunk],
                    "table": chunk[0].table,
                    "position": [index, chunk[-1].position],
                    "listed": images,
                    "known": left_out,
                }
                ledger.put_chunk(number, record)
                numbers.put(number)
                number += 1
        ledger.put_listing(number, images, left_out)
    finally:
        if known is not None:
            known.close()


def _digest(uri: str) -> bytes:
    return hashlib.blake2b(without_secrets(uri).encode(), digest_size=16).digest()
