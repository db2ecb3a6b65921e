"""Commands about stored results: ``query`` and ``compact``."""

from __future__ import annotations

import csv
import json
import math
import sys
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from serve_app.cli.arguments import line_of, stderr, stdout
from serve_app.results import objects_from_uri

if TYPE_CHECKING:
    from serve_app.results.query import Answer

__all__ = ["compact", "query"]


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT over the table results; DuckDB's dialect.")],
    results: Annotated[
        str,
        typer.Option(metavar="URI", envvar="VISIONGRAPH_RESULTS", help="The results: s3://bucket/prefix, or a folder."),
    ],
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="json: one object per row; csv: with a header.")
    ] = "table",
) -> None:
    """Query the stored results with SQL. The table is called results and has one row per image.

    Its columns: visiongraph query "DESCRIBE results" --results URI

    Example: visiongraph query "SELECT date, count(*) FROM results GROUP BY date" --results s3://bucket/results
    """
    from serve_app.results.query import query as run_query

    objects = objects_from_uri(results)
    answer = run_query(objects, sql)
    if not any(key.endswith(".parquet") for key in objects.keys("parquet/")):
        if any(True for _ in objects.keys("journal/")):
            stderr.print(f"no results at {escape(results)} are in Parquet yet: visiongraph compact {escape(results)}")
        else:
            stderr.print(f"there are no results at {escape(results)} yet; workers write them")
    {"table": _print_table, "json": _print_json, "csv": _print_csv}[form](answer)


def compact(
    results: Annotated[str, typer.Argument(metavar="RESULTS_URI", help="The results: s3://bucket/prefix or a folder.")],
) -> None:
    """Move new results to Parquet, where query finds them. Workers do this every few minutes.

    It is safe at any time, also while others compact the same results: no row is duplicated.

    Example: visiongraph compact s3://bucket/results
    """
    from serve_app.results.compaction import compact as compact_results

    done = compact_results(objects_from_uri(results))
    stderr.print(f"{done.rows:,} rows into {done.files:,} Parquet files", highlight=False)
    if done.rejected:
        stderr.print(
            f"{done.rejected:,} lines are no results; they are in {escape(results)} under rejected/, with the reasons",
            highlight=False,
        )


def _print_table(answer: Answer) -> None:
    table = Table(*(Column(escape(name), overflow="fold") for name in answer.columns))
    for row in answer.rows:
        table.add_row(*(escape(f"{value:.15g}" if isinstance(value, float) else _as_text(value)) for value in row))
    stdout.print(table)


def _print_json(answer: Answer) -> None:
    earlier = [answer.columns[:index].count(name) for index, name in enumerate(answer.columns)]
    names = [f"{name}_{count}" if count else name for name, count in zip(answer.columns, earlier, strict=True)]
    for row in answer.rows:
        sys.stdout.write(line_of(_json(dict(zip(names, row, strict=True)))))


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([_as_text(value) for value in row] for row in answer.rows)


def _as_text(value: Any) -> str:
    """A value without the quotes of JSON; null is empty."""
    written = _json(value)
    if written == "null":
        return ""
    return json.loads(written) if written.startswith('"') else written


def _json(value: Any) -> str:
    """A value of DuckDB as JSON; numbers in full, and what JSON has no number for is null."""
    if isinstance(value, dict):
        pairs = (f"{_json(_as_text(key))}: {_json(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_json, value))}]"
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else "null"
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    if isinstance(value, datetime | date | time):
        value = value.isoformat()
    elif isinstance(value, bytes):
        value = value.hex()
    elif value is not None and not isinstance(value, str | int | float):
        value = str(value)
    return json.dumps(value, ensure_ascii=False)
