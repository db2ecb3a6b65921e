from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from serve_app.results import Objects, Outcome, ResultStore, StoreUnavailable
from serve_app.results.compaction import compact
from serve_app.results.query import BadQuery, query
from serve_app.results.table import SCHEMA


def outcome(number: int, day: int = 24, make: str = "Audi", pipeline: str = "demo") -> Outcome:
    """A street with a person and two cars, of which one has a make."""
    box = [1.0, 2.0, 3.5, 4.0]
    result: dict[str, Any] = {
        "id": f"{number}",
        "image": {"uri": f"s3://b/{number}.jpg", "sha256": "0" * 64, "width": 8, "height": 6},
        "pipeline": {"name": pipeline, "fingerprint": "f"},
        "context": {
            "detect": {
                "detections": [
                    {"bbox": box, "confidence": 0.9, "class_id": 0, "class_name": "person"},
                    {"bbox": box, "confidence": 0.8, "class_id": 2, "class_name": "car"},
                    {"bbox": box, "confidence": 0.3, "class_id": 2, "class_name": "car"},
                ],
                "detected_classes": ["car", "person"],
            },
            "make": {"objects": [{"detection": 1, "label": make, "confidence": 0.7}]},
            "scene": {"label": "street", "confidence": 0.6},
        },
        "steps": [
            {"name": "detect", "status": "ok", "duration_ms": 1.5},
            {"name": "make", "status": "ok", "duration_ms": 2},
            {"name": "shirt", "status": "failed", "duration_ms": 2.0, "error": {"type": "X", "detail": "why"}},
        ],
        "metadata": {"site": number % 2},
    }
    return Outcome(f"{number}", "succeeded", result, finished=f"2026-11-{day}T10:00:00.000+00:00")


def ids(objects: Objects) -> list[str]:
    return sorted(row[0] for row in query(objects, "SELECT id FROM results").rows)


async def test_rows_partitions_and_schema(objects: Objects) -> None:
    store = ResultStore(objects)
    assert query(objects, "SELECT count(*) FROM results").rows == [(0,)]
    await store.journal([outcome(1), outcome(2, day=25, make="BMW"), Outcome("bad", "failed", error={})])
    await store.journal([outcome(3, day=25, make="BMW"), outcome(4, pipeline="other/ü")])
    done = compact(objects)
    assert (done.rows, done.files, done.segments) == (4, 3, 2)
    assert list(objects.keys("journal/")) == []
    answer = query(
        objects,
        "SELECT date, l.label, count(*) AS cars FROM (SELECT date, unnest(detections) AS d FROM results "
        "WHERE pipeline = 'demo') CROSS JOIN unnest(d.labels) AS t(l) WHERE d.class_name = 'car' AND l.step = 'make' "
        "GROUP BY ALL ORDER BY ALL",
    )
    assert answer.columns == ("date", "label", "cars")
    assert [(f"{day}", *rest) for day, *rest in answer.rows] == [("2026-11-24", "Audi", 1), ("2026-11-25", "BMW", 2)]
    assert query(objects, "SELECT steps[3].error, labels[1].label FROM results WHERE id = '4'").rows == [
        ("X: why", "street")
    ]
    filesystem, root = objects.filesystem()
    for key in objects.keys("parquet/"):
        assert pq.read_schema(f"{root}/{key}", filesystem=filesystem).equals(SCHEMA)


async def test_no_row_twice(objects: Objects) -> None:
    store = ResultStore(objects)
    await store.journal([outcome(1), outcome(2)])
    await store.journal([outcome(2), outcome(3)])
    compact(objects)
    await store.journal([outcome(1), outcome(4)])
    await store.journal([outcome(3)])
    assert compact(objects, max_segments=1).rows == 1
    assert ids(objects) == ["1", "2", "3", "4"]
    assert compact(objects).rows == 0


@pytest.mark.parametrize("after", [0, 3, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 6, 7))])
async def test_a_crash_at_any_write_is_made_good(objects: Objects, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(objects)
    await store.journal([outcome(1)])
    compact(objects)
    await store.journal([outcome(1), outcome(2), outcome(3, day=25)])
    await store.journal([outcome(2), outcome(4)])
    left = after
    with monkeypatch.context() as patch:

        def dying(call: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise StoreUnavailable("killed")
            return call(*arguments)

        for name in ("put", "create", "delete"):
            patch.setattr(objects, name, functools.partial(dying, getattr(objects, name)))
        if after < 7:
            with pytest.raises(StoreUnavailable):
                compact(objects)
        else:
            compact(objects)
    found = ids(objects)
    assert len(found) == len(set(found)), "a reader sees a row twice in between"
    await store.journal([outcome(5)])
    compact(objects)
    assert ids(objects) == ["1", "2", "3", "4", "5"]
    assert list(objects.keys("journal/")) == []


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM read_csv('/etc/passwd')", "SELECT nothing FROM results"])
def test_a_wrong_query_says_why(objects: Objects, sql: str) -> None:
    with pytest.raises(BadQuery, match="cannot be run"):
        query(objects, sql)
