"""From the journal to Parquet, so that no row is there twice and a crash at any point is made good by the next run.

A run first writes down which journal objects it takes (the plan, on condition, so that two runs agree on one), then
writes files whose names and contents follow from the plan alone, then says that it is done,
then deletes the journal objects.
Whoever finds a plan that is not done carries it out again: the same files are written over themselves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector

from serve_app.results.objects import Objects
from serve_app.results.table import rows_to_table

__all__ = ["Compacted", "compact"]

_MAX_SEGMENTS = 2000
_PLANS = "compaction/"


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one run did."""

    rows: int = 0
    files: int = 0
    segments: int = 0


def compact(objects: Objects, max_segments: int = _MAX_SEGMENTS) -> Compacted:
    """Move what the journal holds to Parquet, up to ``max_segments`` journal objects a plan, until it is empty.

    Raises:
        StoreUnavailable: the store does not answer; run it again.
    """
    total = Compacted()
    number = _last_plan(objects)
    if number:
        total = _carry_out(objects, number)
    while segments := list(itertools.islice(objects.keys("journal/"), max_segments)):
        number += 1
        objects.create(_plan_key(number), json.dumps({"segments": segments}).encode())
        done = _carry_out(objects, number)
        total = Compacted(total.rows + done.rows, total.files + done.files, total.segments + done.segments)
    return total


def _carry_out(objects: Objects, number: int) -> Compacted:
    plan = objects.get(_plan_key(number))
    if plan is None:
        return Compacted()
    segments: list[str] = json.loads(plan)["segments"]
    done_key = f"{_PLANS}{number:010d}.done"
    counts = Compacted()
    if objects.get(done_key) is None:
        outcomes = _read(objects, segments)
        if outcomes is None:
            return Compacted()  # another run has done it meanwhile
        files = {
            partition: _new_rows(objects, partition, number, rows)
            for partition, rows in _by_partition(outcomes).items()
        }
        for partition, rows in files.items():
            if rows:
                objects.put(f"{partition}/{_file_name(number)}", _parquet(rows_to_table(rows)))
        counts = Compacted(sum(map(len, files.values())), sum(map(bool, files.values())), len(segments))
        objects.put(done_key, b"")
    for segment in segments:
        objects.delete(segment)
    return counts


def _read(objects: Objects, segments: Iterable[str]) -> dict[str, dict[str, Any]] | None:
    """The outcomes of journal objects by their ids; ``None`` where an object is gone."""
    outcomes: dict[str, dict[str, Any]] = {}
    for segment in segments:
        data = objects.get(segment)
        if data is None:
            return None
        for line in data.split(b"\n"):
            outcome = json.loads(line)
            outcomes.setdefault(outcome["id"], outcome)
    return outcomes


def _by_partition(outcomes: Mapping[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    partitions: dict[str, list[dict[str, Any]]] = {}
    for _, outcome in sorted(outcomes.items()):
        pipeline = quote(outcome["result"]["pipeline"]["name"], safe="")
        partition = f"parquet/pipeline={pipeline}/date={outcome['finished'][:10]}"
        partitions.setdefault(partition, []).append(outcome)
    return partitions


def _new_rows(objects: Objects, partition: str, number: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no earlier plan has put there. An outcome never changes, so it never changes its partition."""
    filesystem, root = objects.filesystem()
    ids = pa.array([row["id"] for row in rows])
    known: set[str] = set()
    for info in filesystem.get_file_info(FileSelector(f"{root}/{partition}", allow_not_found=True)):
        if info.base_name.startswith("part-") and info.base_name < _file_name(number):
            column = pq.read_table(info.path, columns=["id"], filesystem=filesystem, partitioning=None)["id"]
            known.update(column.filter(pc.is_in(column, value_set=ids)).to_pylist())
    return [row for row in rows if row["id"] not in known]


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _last_plan(objects: Objects) -> int:
    numbers = [int(key[len(_PLANS) :].split(".")[0]) for key in objects.keys(_PLANS) if key.endswith(".json")]
    return max(numbers, default=0)


def _plan_key(number: int) -> str:
    return f"{_PLANS}{number:010d}.json"


def _file_name(number: int) -> str:
    return f"part-{number:010d}.parquet"
