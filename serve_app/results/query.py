"""SQL over the compacted results, by DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from classifiers import SetupError, VisionError
from serve_app.queues import MissingExtra
from serve_app.results.deletion import pending_deletions
from serve_app.results.object_stores import Objects
from serve_app.results.table import SCHEMA

__all__ = ["Answer", "BadQuery", "query"]

_PARTITIONS = pa.schema([("pipeline", pa.string()), ("date", pa.date32())])


class BadQuery(SetupError):
    """The statement is invalid; the message is DuckDB's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def query(objects: Objects, sql: str) -> Answer:
    """Run a statement over the table ``results``: the columns of ``SCHEMA``, and ``pipeline`` and ``date``.

    Rows of jobs that were deleted are left out.

    Raises:
        BadQuery: the statement is invalid or empty.
        MissingExtra: DuckDB is not installed.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise MissingExtra("queries need DuckDB; install it with: pip install 'visiongraph[query]'") from error
    filesystem, root = objects.filesystem()
    schema = pa.unify_schemas([SCHEMA, _PARTITIONS])
    partitioning = ds.partitioning(_PARTITIONS, flavor="hive")
    try:
        files = [f"{root}/{key}" for key in objects.keys("parquet/") if key.endswith(".parquet")]
        results: Any = (
            ds.dataset(
                files,
                schema=schema,
                format="parquet",
                filesystem=filesystem,
                partitioning=partitioning,
                partition_base_dir=f"{root}/parquet",
            )
            if files
            else schema.empty_table()
        )
        deleted = [deletion.id for deletion in pending_deletions(objects)]
        if files and deleted:
            results = results.filter(~pc.field("id").isin(deleted))
        with duckdb.connect(":memory:") as database:
            database.register("results", results)
            database.execute("SET enable_external_access = false")  # the statement reads this table and nothing else
            answer = database.execute(sql)
            if answer is None or answer.description is None:
                raise BadQuery("the query is empty; try: SELECT * FROM results LIMIT 10")
            columns = tuple(column[0] for column in answer.description)
            return Answer(columns, answer.fetchall())
    except duckdb.Error as error:
        raise BadQuery(f"the query cannot be run: {error}") from error
    except pa.ArrowException as error:
        raise VisionError(f"the results cannot be read: {error}") from error
