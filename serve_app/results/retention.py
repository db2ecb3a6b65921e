"""Deletes what has been kept for long enough, in small steps that may be interrupted at any time.

Nothing is written down about it: a step lists one of 256 parts of the store, by the first digits in the keys, and
deletes what is older than the rules allow. Records of deleted jobs stay.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from serve_app.results.object_stores import ObjectInfo, Objects
from serve_app.results.store import object_key_beside

__all__ = ["PARTS", "Ages", "lifecycle_rules", "sweep"]

PARTS = tuple(f"{part:02x}" for part in range(256))
"""All parts of a store."""

# beside an outcome, and deleted with it
_BESIDE = (("jobs", "json"), ("running", "json"), ("attempts", "json"), ("pictures", "jpg"))
_WITHOUT_PARTS = ("journal", "parquet", "compaction", "rejected")

# longer than any write takes
_UNFINISHED = timedelta(hours=1)
_DAY = re.compile(r"/date=(\d{4}-\d\d-\d\d)/")


@dataclass(frozen=True, slots=True)
class Ages:
    """How long images, results and failures are kept after they were written; ``None``: forever."""

    images: timedelta | None = None
    results: timedelta | None = None
    failures: timedelta | None = None


def sweep(
    results: Objects,
    images: Objects,
    ages: Ages,
    parts: Iterable[str] = PARTS,
    *,
    now: datetime | None = None,
    dry_run: bool = False,
) -> Counter[str]:
    """Delete what is too old, in some parts of the store; in part "00" also rows in Parquet, by whole days.

    Args:
        results: the store of results.
        images: the store of images that came with jobs.
        ages: the rules.
        parts: of ``PARTS``.
        now: the time, with its time zone.
        dry_run: only count.

    Returns:
        How many objects of each kind were deleted; "bytes" counts theirs.

    Raises:
        StoreUnavailable: the store does not answer; run it again.
    """
    now, found = now or datetime.now(UTC), Counter[str]()
    for kind, objects, item in _too_old(results, images, ages, parts, now):
        if not dry_run:
            fresh = objects.info(item.key)
            if fresh is None or fresh.modified > item.modified:  # it was written again meanwhile
                continue
            objects.delete(item.key)
        found[kind] += 1
        found["bytes"] += item.size
    return found


def _too_old(
    results: Objects, images: Objects, ages: Ages, parts: Iterable[str], now: datetime
) -> Iterator[tuple[str, Objects, ObjectInfo]]:
    tenants = images.folders("") if ages.images is not None else []
    for part in parts:
        yield from _unfinished_writes(results, images, part, now)
        for tenant in tenants:
            yield from (("images", images, item) for item in _older(images, f"{tenant}{part}/", ages.images, now))
        yield from (("kept", results, item) for item in _older(results, f"kept/{part}/", ages.images, now))
        yield from _outcomes(results, ages, part, now)
        for kind in ("content", "pictures"):
            yield from ((kind, results, item) for item in _older(results, f"{kind}/{part}/", ages.results, now))
        yield from _unfinished(results, ages.failures, part, now)
        if part == PARTS[0] and ages.results is not None:
            yield from _rows(results, ages.results, now)


def _outcomes(results: Objects, ages: Ages, part: str, now: datetime) -> Iterator[tuple[str, Objects, ObjectInfo]]:
    """Outcomes that are too old, and what is beside them: first these, since they are found through the outcome."""
    shorter = min((age for age in (ages.results, ages.failures) if age is not None), default=None)
    for item in _older(results, f"outcomes/{part}/", shorter, now):
        data = results.get(item.key)
        status = None if data is None else json.loads(data)["status"]
        kind, age = ("results", ages.results) if status == "succeeded" else ("failures", ages.failures)
        if status not in ("succeeded", "failed") or age is None or now - item.modified <= age:
            continue
        for beside, suffix in _BESIDE:
            key = object_key_beside(item.key, beside, suffix)
            if (info := results.info(key)) is not None:
                yield beside, results, info
        yield kind, results, item


def _unfinished_writes(
    results: Objects, images: Objects, part: str, now: datetime
) -> Iterator[tuple[str, Objects, ObjectInfo]]:
    """What writers that were killed have left, whatever the ages are."""
    places = [(results, f"*/{part}/"), (images, f"*/{part}/")]
    if part == PARTS[0]:
        places += [(results, f"{kind}/") for kind in _WITHOUT_PARTS]
    for objects, prefix in places:
        for item in objects.unfinished(prefix):
            if now - item.modified > _UNFINISHED:
                yield "unfinished", objects, item


def _unfinished(
    results: Objects, age: timedelta | None, part: str, now: datetime
) -> Iterator[tuple[str, Objects, ObjectInfo]]:
    """Markers of jobs that never ended."""
    for item in _older(results, f"jobs/{part}/", age, now):
        if results.info(object_key_beside(item.key, "outcomes", "json")) is None:
            yield "jobs", results, item


def _rows(results: Objects, age: timedelta, now: datetime) -> Iterator[tuple[str, Objects, ObjectInfo]]:
    for item in results.entries("parquet/"):
        day = _DAY.search(item.key)
        if day is not None and date.fromisoformat(day[1]) + timedelta(days=1) + age <= now.date():
            yield "parquet", results, item
    for item in _older(results, "rejected/", age, now):
        yield "rejected", results, item


def _older(objects: Objects, prefix: str, age: timedelta | None, now: datetime) -> Iterator[ObjectInfo]:
    if age is not None:
        yield from (item for item in objects.entries(prefix) if now - item.modified > age)


def lifecycle_rules(results_prefix: str, images_prefix: str, ages: Ages) -> dict[str, Any]:
    """Rules of S3 that delete the same, as ``put-bucket-lifecycle-configuration`` takes them; in whole days.

    What has no rule there stays with :func:`sweep`: results and failures are under one prefix, so the longer of their
    ages applies, and records of deleted jobs would go too.
    """
    both = None if ages.results is None or ages.failures is None else max(ages.results, ages.failures)
    prefixes = {
        images_prefix: ages.images,
        f"{results_prefix}content/": ages.results,
        f"{results_prefix}pictures/": ages.results,
        f"{results_prefix}parquet/": ages.results,
        f"{results_prefix}running/": both,
        f"{results_prefix}attempts/": both,
        f"{results_prefix}rejected/": ages.results,
    }
    return {
        "Rules": [
            {
                "ID": f"visiongraph-{prefix.strip('/').replace('/', '-') or 'all'}",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix},
                "Expiration": {"Days": max(1, -(-age // timedelta(days=1)))},
            }
            for prefix, age in prefixes.items()
            if age is not None
        ]
    }
