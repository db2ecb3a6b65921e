"""``query`` and ``compact``, and the guide's examples of them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve_app.results import Outcome, ResultStore

Run = Callable[..., tuple[int, str, str]]

_GUIDE = Path(__file__).parents[3] / "docs" / "queues-and-results.md"
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"


def outcome(number: int, makes: list[str], colour: str, day: str = TODAY) -> Outcome:
    """A street as ``configs/demo.yaml`` describes it: cars with their makes, and a person."""
    names = ["car"] * len(makes) + ["person"]
    return Outcome(
        f"{number}",
        "succeeded",
        {
            "id": f"{number}",
            "image": {"uri": f"s3://photos/{number}.jpg", "sha256": "0" * 64, "width": 810, "height": 1080},
            "pipeline": {"name": "demo", "fingerprint": "f"},
            "context": {
                "object_detection": {
                    "detections": [
                        {"bbox": [1.0, 2.0, 3.5, 4.0], "confidence": 0.9, "class_id": 0, "class_name": name}
                        for name in names
                    ],
                    "detected_classes": sorted(set(names)),
                },
                "car_make_classification": {
                    "objects": [
                        {"detection": i, "label": make, "confidence": 0.7, "labels": []} for i, make in enumerate(makes)
                    ]
                },
                "tshirt_color_classification": {
                    "objects": [{"detection": len(makes), "label": colour, "confidence": 0.6, "labels": []}]
                },
            },
            "steps": [
                {"name": "object_detection", "status": "ok", "duration_ms": 30.0 + number},
                {"name": "car_make_classification", "status": "ok", "duration_ms": 12.5},
                {
                    "name": "tshirt_color_classification",
                    "status": "failed",
                    "duration_ms": 1.0,
                    "error": {"type": "X", "detail": "why"},
                },
            ],
            "metadata": {"site": "north" if number % 2 else "south"},
        },
        finished=f"{day}T10:00:00.000+00:00",
    )


@pytest.fixture
def results(tmp_path: Path) -> str:
    """A store whose journal has results, and no Parquet."""
    store = ResultStore.from_uri(str(tmp_path / "results"))
    outcomes = [
        outcome(1, ["Audi", "BMW"], "black"),
        outcome(2, ["Audi"], "red"),
        outcome(3, ["BMW"], "red", day="2026-01-02"),
    ]
    asyncio.run(store.journal(outcomes))
    return str(tmp_path / "results")


@pytest.fixture
def compacted(visiongraph: Run, results: str) -> str:
    code, out, err = visiongraph("compact", results)
    assert (code, out) == (0, "")
    assert "3 rows into 2 Parquet files" in err
    return results


def examples() -> dict[str, str]:
    """The guide's queries by the comment above each."""
    section = re.search(r"<!-- queries -->\n```bash\n(.*?)```", _GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert section is not None
    found = {}
    for text in section[1].split("# ")[1:]:
        title, command = text.split("\n", 1)
        words = shlex.split(command)
        assert words[:2] == ["visiongraph", "query"]
        assert words[3] == "--results"
        found[title] = words[2]
    return found


class TestGuide:
    def rows(self, visiongraph: Run, compacted: str, title: str) -> list[dict[str, Any]]:
        [sql] = [sql for name, sql in examples().items() if title in name]
        code, out, err = visiongraph("query", sql, "--results", compacted, "--format", "json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def test_there_are_three(self) -> None:
        assert len(examples()) == 3

    def test_cars_by_make_and_day(self, visiongraph: Run, compacted: str) -> None:
        rows = self.rows(visiongraph, compacted, "by make and day")
        assert rows == [
            {"date": "2026-01-02", "make": "BMW", "cars": 1},
            {"date": TODAY, "make": "Audi", "cars": 2},
            {"date": TODAY, "make": "BMW", "cars": 1},
        ]

    def test_colours_by_what_was_known_of_the_image(self, visiongraph: Run, compacted: str) -> None:
        rows = self.rows(visiongraph, compacted, "colours")
        assert rows == [
            {"site": "north", "colour": "black", "persons": 1},
            {"site": "north", "colour": "red", "persons": 1},
            {"site": "south", "colour": "red", "persons": 1},
        ]

    def test_what_each_step_took(self, visiongraph: Run, compacted: str) -> None:
        rows = self.rows(visiongraph, compacted, "each step")
        assert [(row["step"], row["images"], row["failed"]) for row in rows] == [
            ("car_make_classification", 2, 0),
            ("object_detection", 2, 0),
            ("tshirt_color_classification", 2, 2),
        ]
        assert 31 < rows[1]["p95_ms"] <= 32


class TestQuery:
    def test_a_table(self, visiongraph: Run, compacted: str) -> None:
        code, out, _ = visiongraph("query", "SELECT id, labels FROM results ORDER BY id", "--results", compacted)
        assert code == 0
        assert [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")] == ["1", "2", "3"]

    def test_csv(self, visiongraph: Run, compacted: str) -> None:
        sql = "SELECT id, finished, [d.class_name for d in detections] AS found, NULL AS n FROM results ORDER BY id"
        _, out, _ = visiongraph("query", sql, "--results", compacted, "--format", "csv")
        rows = list(csv.reader(io.StringIO(out)))
        assert rows[0] == ["id", "finished", "found", "n"]
        assert rows[1][0] == "1"
        assert rows[1][1].startswith(f"{TODAY}T10:00:00")
        assert json.loads(rows[1][2]) == ["car", "car", "person"]
        assert rows[1][3] == ""

    @pytest.mark.parametrize(
        ("sql", "as_json", "as_csv"),
        [
            ("1764500123.456::DOUBLE", "1764500123.456", "1764500123.456"),
            ("0.1::DOUBLE + 0.2::DOUBLE", "0.30000000000000004", "0.30000000000000004"),
            ("1e300::DOUBLE", "1e+300", "1e+300"),
            ("12.50::DECIMAL(8, 2)", "12.50", "12.50"),
            (
                "'12345678901234567890123456789.123456789'::DECIMAL(38, 9)",
                "12345678901234567890123456789.123456789",
                "12345678901234567890123456789.123456789",
            ),
            ("0.0000000001::DECIMAL(12, 10)", "0.0000000001", "0.0000000001"),
            (
                "1267650600228229401496703205376::HUGEINT",
                "1267650600228229401496703205376",
                "1267650600228229401496703205376",
            ),
            ("'nan'::DOUBLE", "null", '""'),
            ("'-inf'::DOUBLE", "null", '""'),
            ("NULL", "null", '""'),
            ("'null'", '"null"', "null"),
            ("true", "true", "true"),
            ("'a,\"b\"'", '"a,\\"b\\""', '"a,""b"""'),
            ("[1.5::DECIMAL(3, 1), NULL, 'nan'::DOUBLE]", "[1.5, null, null]", '"[1.5, null, null]"'),
            (
                "{'a': {'b': DATE '2026-01-02', 'c': 0.5::DECIMAL(2, 1)}}",
                '{"a": {"b": "2026-01-02", "c": 0.5}}',
                '"{""a"": {""b"": ""2026-01-02"", ""c"": 0.5}}"',
            ),
            ("MAP {1: 'a', 2: 'b'}", '{"1": "a", "2": "b"}', '"{""1"": ""a"", ""2"": ""b""}"'),
            ("[1, 2]::INTEGER[2]", "[1, 2]", '"[1, 2]"'),
            ("TIMESTAMP '2026-01-02 03:04:05.678'", '"2026-01-02T03:04:05.678000"', "2026-01-02T03:04:05.678000"),
            ("TIMESTAMPTZ '2026-01-02 03:04:05+00'", '"2026-01-02T03:04:05+00:00"', "2026-01-02T03:04:05+00:00"),
            ("TIME '10:00'", '"10:00:00"', "10:00:00"),
            ("INTERVAL 3 DAYS", '"3 days, 0:00:00"', '"3 days, 0:00:00"'),
            ("'\\x00\\xFF'::BLOB", '"00ff"', "00ff"),
            ("'Straße 日本'", '"Straße 日本"', "Straße 日本"),
        ],
    )
    def test_every_kind_of_value(self, visiongraph: Run, compacted: str, sql: str, as_json: str, as_csv: str) -> None:
        sql = f"SET TimeZone = 'UTC'; SELECT {sql} AS x"
        code, out, err = visiongraph("query", sql, "--results", compacted, "--format", "json")
        assert (code, out) == (0, f'{{"x": {as_json}}}\n'), err
        json.loads(out, parse_constant=pytest.fail)
        code, out, err = visiongraph("query", sql, "--results", compacted, "--format", "csv")
        assert (code, out) == (0, f"x\n{as_csv}\n"), err

    def test_numbers_in_a_table(self, visiongraph: Run, compacted: str) -> None:
        _, out, _ = visiongraph("query", "SELECT 1764500123.456::DOUBLE, 0.1::DOUBLE + 0.2", "--results", compacted)
        assert "1764500123.456" in out
        assert "0.3 " in out

    def test_columns_of_one_name(self, visiongraph: Run, compacted: str) -> None:
        _, out, _ = visiongraph("query", "SELECT 1 AS a, 2 AS a, 3 AS a", "--results", compacted, "--format", "json")
        assert json.loads(out) == {"a": 1, "a_1": 2, "a_2": 3}

    @pytest.mark.parametrize("sql", ["", "  ", ";", "-- SELECT 1"])
    def test_no_query(self, visiongraph: Run, compacted: str, sql: str) -> None:
        code, out, err = visiongraph("query", "--results", compacted, "--", sql)
        assert (code, out) == (2, "")
        assert "the query is empty" in err

    def test_its_columns(self, visiongraph: Run, compacted: str) -> None:
        _, out, _ = visiongraph("query", "DESCRIBE results", "--results", compacted, "--format", "json")
        columns = {json.loads(line)["column_name"] for line in out.splitlines()}
        assert {"id", "date", "pipeline", "detections", "steps", "metadata"} <= columns

    @pytest.mark.parametrize(
        ("sql", "says"),
        [
            ("SELEC 1", "syntax error"),
            ("SELECT nme FROM results", "nme"),
            ("SELECT * FROM result", "Did you mean"),
            ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ],
    )
    def test_mistakes(self, visiongraph: Run, compacted: str, sql: str, says: str) -> None:
        code, out, err = visiongraph("query", sql, "--results", compacted)
        assert (code, out) == (2, "")
        assert says in err
        assert "the query cannot be run" in err
        assert "Traceback" not in err

    def test_no_results_yet(self, visiongraph: Run, tmp_path: Path, results: str) -> None:
        count = "SELECT count(*) AS n FROM results"
        code, out, err = visiongraph("query", count, "--results", tmp_path / "none", "--format", "json")
        assert (code, json.loads(out)) == (0, {"n": 0})
        assert "there are no results at" in err
        code, _, err = visiongraph("query", count, "--results", results)
        assert code == 0
        assert f"visiongraph compact {results}" in " ".join(err.split())

    def test_a_place_that_is_none(self, visiongraph: Run) -> None:
        for command in (("query", "SELECT 1", "--results"), ("compact",)):
            for uri, said in (("", "address for results is empty"), ("s3://[b/results", "is invalid")):
                code, _, err = visiongraph(*command, uri)
                assert code == 2
                assert said in err
        code, _, err = visiongraph("query", "SELECT 1", "--results", "ftp://x/y")
        assert code == 2
        assert "s3://bucket/prefix" in err


def test_compact_twice_is_compact_once(visiongraph: Run, compacted: str) -> None:
    assert "0 rows into 0 Parquet files" in visiongraph("compact", compacted)[2]
    _, out, _ = visiongraph("query", "SELECT count(*) AS n FROM results", "--results", compacted, "--format", "json")
    assert json.loads(out) == {"n": 3}


@pytest.mark.parametrize("command", ["query", "compact"])
def test_help_has_an_example(visiongraph: Run, command: str) -> None:
    assert f"Example: visiongraph {command} " in " ".join(visiongraph(command, "--help")[1].split())


def test_compact_says_what_it_set_aside(visiongraph: Run, results: str) -> None:
    (Path(results) / "journal" / "2026-01-01").mkdir()
    (Path(results) / "journal" / "2026-01-01" / "1.jsonl").write_bytes(b"{half a line")
    code, _, err = visiongraph("compact", results)
    assert code == 0
    assert "3 rows into 2 Parquet files" in err
    assert "1 lines are no results" in err
    assert list((Path(results) / "rejected").iterdir())
