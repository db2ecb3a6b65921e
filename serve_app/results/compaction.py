"""From the journal to Parquet: no row is written twice, and the next run recovers from a crash at any point.

A run first writes down which journal objects it takes (the plan, by a conditional write, so that two runs agree on
one), then writes files whose names and contents follow from the plan alone, then marks the plan as done, then deletes
the journal objects. A run that finds a plan that is not done carries it out again: the files are overwritten by the
same contents.

Only the plan with the highest number is ever carried out, and it is never deleted, so numbers are not used twice.

The name of a file tells when the first and the last of its jobs finished. A job that is journaled twice finished once,
so only files whose period covers a new outcome are searched for its id: mostly the last one.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem

from classifiers import VisionError
from serve_app.results.object_stores import Objects, StoreUnavailable
from serve_app.results.table import partition_of, row_of, rows_to_table, to_parquet

__all__ = ["FILE", "Compacted", "compact", "covers", "read_table"]

_MAX_SEGMENTS = 2000
_PLANS = "compaction/"
FILE = re.compile(r"part-(\d+)(?:_(-?\d+)_(-?\d+))?\.parquet")
"""The name of a file: the plan, and when its first and its last job finished."""

_log = logging.getLogger(__name__)

_Row: TypeAlias = dict[str, Any]


class Compacted(NamedTuple):
    """What one run did. ``rejected``: invalid lines of the journal, which are stored under ``rejected/``."""

    rows: int = 0
    files: int = 0
    segments: int = 0
    rejected: int = 0


def compact(objects: Objects, max_segments: int = _MAX_SEGMENTS) -> Compacted:
    """Move what the journal holds to Parquet, up to ``max_segments`` journal objects a plan, until it is empty.

    An invalid line is logged and stored under ``rejected/``; the others are moved.

    Raises:
        StoreUnavailable: the store does not answer; run it again.
        VisionError: a file of the store is damaged; the message names it.
    """
    number = _last_plan(objects)
    done = [_carry_out(objects, number)] if number else []
    while segments := list(itertools.islice(objects.keys("journal/"), max_segments)):
        objects.create(_plan_key(number + 1), _plan(segments))
        # Not number + 1: other runs may have gone on meanwhile. Then the plan of that number is done and deleted, and
        # the one that was just created must not be carried out.
        number = _last_plan(objects)
        done.append(_carry_out(objects, number))
        for key, old in _plans(objects):
            if old < number:
                objects.delete(key)
    return Compacted(*map(sum, zip(*done, strict=True)))


def _carry_out(objects: Objects, number: int) -> Compacted:
    key = _plan_key(number)
    plan = json.loads(objects.get(key) or _plan([]))
    segments: list[str] = plan["segments"]
    counts = Compacted()
    if not plan.get("is_done"):
        rejected: list[dict[str, str]] = []
        outcomes = _read(objects, segments, rejected)
        if outcomes is None:
            return Compacted()  # another run has done it meanwhile
        rows = files = 0
        for partition, found in _by_partition(outcomes, rejected).items():
            new = _new_rows(objects, partition, number, found)
            table, misfits = rows_to_table(new)
            rejected += [_rejection(json.dumps(row, default=str), error) for row, error in misfits]
            if table.num_rows:
                times = list(map(_time, new))
                name = f"part-{number:010d}_{min(times)}_{max(times)}.parquet"
                objects.put(f"{partition}/{name}", to_parquet(table))
                rows, files = rows + table.num_rows, files + 1
        if rejected:
            aside = f"rejected/{number:010d}.jsonl"
            objects.put(aside, b"\n".join(json.dumps(rejection).encode() for rejection in rejected))
            _log.error(
                "%d results cannot be converted to Parquet and are stored in %s; the first: %.500r",
                len(rejected),
                aside,
                rejected[0]["reason"],
            )
        counts = Compacted(rows, files, len(segments), len(rejected))
        objects.put(key, _plan(segments, is_done=True))
    for segment in segments:
        objects.delete(segment)
    if segments:
        objects.put(key, _plan([], is_done=True))  # the next run has nothing left to do for it
    return counts


def _plan(segments: Sequence[str], *, is_done: bool = False) -> bytes:
    return json.dumps({"segments": segments, "is_done": is_done}).encode()


def _read(
    objects: Objects, segments: Iterable[str], rejected: list[dict[str, str]]
) -> dict[str, dict[str, Any]] | None:
    """The outcomes of journal objects by their ids; ``None`` where an object was deleted."""
    outcomes: dict[str, dict[str, Any]] = {}
    for segment in segments:
        data = objects.get(segment)
        if data is None:
            return None
        for line in data.split(b"\n"):
            try:
                outcome = json.loads(line)
                outcomes.setdefault(str(outcome["id"]), outcome)
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                rejected.append(_rejection(line.decode(errors="backslashreplace"), error))
    return outcomes


def _by_partition(outcomes: dict[str, dict[str, Any]], rejected: list[dict[str, str]]) -> dict[str, list[_Row]]:
    partitions: dict[str, list[_Row]] = {}
    for _, outcome in sorted(outcomes.items()):
        try:
            row = row_of(outcome)
            row["id"].encode()  # ids are compared before rows become a table
            partition = partition_of(outcome["result"]["pipeline"]["name"], row["finished"].astimezone(UTC).date())
        except Exception as error:  # noqa: BLE001 - whatever it lacks
            rejected.append(_rejection(json.dumps(outcome), error))
        else:
            partitions.setdefault(partition, []).append(row)
    return partitions


def _rejection(line: str, error: Exception) -> dict[str, str]:
    return {"reason": f"{type(error).__name__}: {error}", "line": line}


def _new_rows(objects: Objects, partition: str, number: int, rows: list[_Row]) -> list[_Row]:
    """Those that no other plan has put there. An outcome never changes, so it never changes its partition."""
    filesystem, root = objects.filesystem()
    ids, times = pa.array([row["id"] for row in rows]), sorted(map(_time, rows))
    known: set[str] = set()
    try:
        infos = filesystem.get_file_info(FileSelector(f"{root}/{partition}", allow_not_found=True))
        for path, name in ((info.path, FILE.fullmatch(info.base_name)) for info in infos):
            if name is not None and int(name[1]) != number and covers(name, times):
                column = read_table(filesystem, path, ["id"])["id"]
                known.update(column.filter(pc.is_in(column, value_set=ids)).to_pylist())
    except OSError as error:
        raise StoreUnavailable(f"{partition} cannot be read: {error}") from error
    return [row for row in rows if row["id"] not in known]


def read_table(filesystem: FileSystem, path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a file; default: all of its columns.

    Raises:
        VisionError: it is damaged.
    """
    try:
        return pq.read_table(path, columns=columns, filesystem=filesystem, partitioning=None)
    except pa.ArrowException as error:
        raise VisionError(f"{path} is damaged ({error}); move it away, or put a copy in its place") from error


def covers(name: re.Match[str], times: list[int]) -> bool:
    """Whether one of the times (sorted, in milliseconds since the epoch) lies in those of a file."""
    if name[2] is None:  # by an earlier version, whose names tell no times
        return True
    first = bisect_left(times, int(name[2]))
    return first < len(times) and times[first] <= int(name[3])


def _time(row: _Row) -> int:
    """When the outcome ended: milliseconds since the epoch."""
    finished: datetime = row["finished"]
    return round(finished.timestamp() * 1000)


def _plans(objects: Objects) -> list[tuple[str, int]]:
    """The keys of all plans with their numbers; an earlier version kept beside each that it was done."""
    return [(key, int(key[len(_PLANS) :].split(".")[0])) for key in objects.keys(_PLANS)]


def _last_plan(objects: Objects) -> int:
    return max((number for key, number in _plans(objects) if key.endswith(".json")), default=0)


def _plan_key(number: int) -> str:
    return f"{_PLANS}{number:010d}.json"
