from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from classifiers import VisionError
from serve_app.results import Objects, Outcome, ResultStore, StoreUnavailable, objects_from_uri
from serve_app.results.compaction import Compacted, compact
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


SHAPES: dict[str, Any] = {
    "mask": [[[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]]],
    "keypoints": [[1.0, 2.0, 0.5]],
    "corners": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
}


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


_WRITES = 8


@pytest.mark.parametrize(
    "after", [0, 3, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 6, 7, _WRITES))]
)
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
        if after < _WRITES:
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


def at(number: int, second: int) -> Outcome:
    """An outcome of the day's ``second``."""
    finished = f"2026-11-24T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000+00:00"
    return replace(outcome(number), finished=finished)


def parts(objects: Objects) -> list[str]:
    return list(objects.keys("parquet/"))


async def test_earlier_files_are_read_only_where_a_row_may_be_in_them(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(objects)
    read: list[str] = []
    read_table = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, **more: (read.append(path), read_table(path, **more))[1])
    for run in range(6):
        await store.journal([at(10 * run + n, 60 * run + n) for n in range(3)])
        assert compact(objects).rows == 3
    assert read == []
    await store.journal([at(600, 600), at(21, 121)])  # one is new, one was compacted in the third run
    assert compact(objects).rows == 1
    assert len(read) == 1
    assert read[0].endswith(parts(objects)[2])
    assert len(ids(objects)) == len(set(ids(objects))) == 19


async def test_files_of_an_earlier_version_are_searched(objects: Objects) -> None:
    store = ResultStore(objects)
    await store.journal([outcome(1)])
    compact(objects)
    [key] = parts(objects)
    data = objects.get(key)
    assert data is not None
    objects.put(f"{key.rsplit('/', 1)[0]}/part-0000000001.parquet", data)
    objects.delete(key)
    await store.journal([outcome(1), outcome(2)])
    assert compact(objects).rows == 1
    assert ids(objects) == ["1", "2"]


async def test_plans_are_deleted(objects: Objects) -> None:
    store = ResultStore(objects)
    for number in range(5):
        await store.journal([outcome(number)])
        compact(objects)
    compact(objects)
    assert list(objects.keys("compaction/")) == ["compaction/0000000005.json"]
    await store.journal([outcome(9)])
    compact(objects, max_segments=1)
    assert ids(objects) == ["0", "1", "2", "3", "4", "9"]


async def test_a_run_that_fell_behind_puts_no_row_twice(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """It creates a plan of a number that others have used and deleted, for a journal object that others have taken."""
    store = ResultStore(objects)
    await store.journal([outcome(0)])
    compact(objects)
    await store.journal([outcome(1)])
    create = objects.create

    def fall_behind(key: str, data: bytes) -> bool:
        monkeypatch.setattr(objects, "create", create)
        compact(objects)  # plan 2
        objects.put("journal/2026-11-24/late.jsonl", outcome(2).encode())
        with monkeypatch.context() as patch:  # plan 3: rows are written, then the other run dies
            patch.setattr(objects, "delete", lambda key: objects_die() if key.startswith("journal/") else delete(key))
            with pytest.raises(StoreUnavailable):
                compact(objects)
        for old in list(objects.keys("compaction/")):
            if old.startswith("compaction/0000000002"):
                objects.delete(old)
        return create(
            "compaction/0000000002.json", json.dumps({"segments": ["journal/2026-11-24/late.jsonl"]}).encode()
        )

    delete = objects.delete

    def objects_die() -> None:
        raise StoreUnavailable("killed")

    monkeypatch.setattr(objects, "create", fall_behind)
    compact(objects)
    assert ids(objects) == ["0", "1", "2"]
    assert list(objects.keys("journal/")) == []


BAD = [
    b"",
    b"{half a li",
    b"[1]",
    b"null",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    json.dumps({"id": "x", "status": "failed", "result": None, "finished": "2026-11-24T10:00:00+00:00"}).encode(),
]


def bad(**changes: Any) -> bytes:
    value = json.loads(outcome(99).encode())
    for path, item in changes.items():
        at, *rest = path.split("__")
        target = value
        for key in rest:
            target, at = target[int(at) if at.isdigit() else at], key
        target[int(at) if at.isdigit() else at] = item
    return json.dumps(value).encode()


BAD += [
    bad(id=7),
    bad(id="caf\udce9"),
    bad(finished="yesterday"),
    bad(finished=None),
    bad(result__pipeline__name=3),
    bad(result__image__width="wide"),
    bad(result__image__uri="caf\udce9"),
    bad(result__context=[1]),
    bad(result__context__detect__detections__0__class_id="three"),
    bad(result__context__detect__detections__0__class_id=2**70),
    bad(result__context__detect__detections__1__confidence="high"),
    bad(result__context__detect__detections__1__bbox="1234"),
    bad(result__context__make__objects=[{"label": "a"}]),
    bad(result__context__make__objects=7),
    bad(result__context__scene__confidence="high"),
    bad(result__steps=3),
]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
async def test_a_bad_row_is_set_aside_and_the_others_go_on(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    objects = objects_from_uri(str(tmp_path))
    objects.put("journal/2026-11-24/1.jsonl", b"\n".join([outcome(1).encode(), line, outcome(2).encode()]))
    objects.put("journal/2026-11-24/2.jsonl", outcome(3).encode())
    done = compact(objects)
    assert (done.rows, done.rejected) == (3, 1)
    assert ids(objects) == ["1", "2", "3"]
    assert list(objects.keys("journal/")) == []
    [key] = objects.keys("rejected/")
    [rejected] = (objects.get(key) or b"").splitlines()
    assert set(json.loads(rejected)) == {"reason", "line"}
    assert key in caplog.text
    assert compact(objects) == Compacted()


async def test_many_bad_rows_among_many(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    lines = [outcome(n).encode() if n % 50 else bad(id=f"bad {n}", result__image__width="wide") for n in range(500)]
    objects.put("journal/2026-11-24/1.jsonl", b"\n".join(lines))
    done = compact(objects)
    assert (done.rows, done.rejected) == (490, 10)
    assert len(ids(objects)) == 490


async def test_the_longest_name_of_a_pipeline(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    await ResultStore(objects).journal([outcome(1, pipeline="日" * 100), outcome(2, pipeline="日" * 99 + "本")])
    assert compact(objects).files == 2
    assert [name[:12] for (name,) in query(objects, "SELECT pipeline FROM results").rows] == ["日" * 12] * 2


async def test_shapes_of_detections_beside_files_that_have_none(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    await ResultStore(objects).journal([outcome(1)])
    compact(objects)
    [key] = parts(objects)
    written = tmp_path / key
    before = pq.read_table(written, partitioning=None)
    without = [{k: v for k, v in each.items() if k not in SHAPES} for each in before["detections"][0].as_py()]
    index = before.schema.get_field_index("detections")
    pq.write_table(before.set_column(index, "detections", [[without]]), written)  # as an older version wrote it
    with_shapes = outcome(2)
    with_shapes.result["context"]["detect"]["detections"][1] |= SHAPES  # type: ignore[index]
    await ResultStore(objects).journal([with_shapes])
    compact(objects)

    found = query(
        objects,
        "SELECT id, d.mask[1][3][2], d.keypoints[1][3], len(d.corners) FROM results, unnest(detections) AS t(d) "
        "WHERE d.index = 1 ORDER BY id",
    )

    assert found.rows == [("1", None, None, None), ("2", 5.0, 0.5, 4)]
    assert (
        json.loads(query(objects, "SELECT context FROM results WHERE id = '2'").rows[0][0])["detect"]["detections"][
            1
        ].items()
        >= SHAPES.items()
    )


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    store = ResultStore(objects)
    await store.journal([outcome(1)])
    compact(objects)
    [key] = parts(objects)
    objects.put(key, b"no Parquet")
    await store.journal([outcome(1)])
    with pytest.raises(VisionError, match=r"part-.*parquet is damaged"):
        compact(objects)


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM read_csv('/etc/passwd')", "SELECT nothing FROM results"])
def test_a_wrong_query_says_why(objects: Objects, sql: str) -> None:
    with pytest.raises(BadQuery, match="cannot be run"):
        query(objects, sql)
