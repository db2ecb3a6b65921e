"""Bulk runs for tests: what a command does, without and with Ray Data, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from graph import load_plan
from serve_app.bulk.chunk_runner import ChunkRunner, Job
from serve_app.bulk.ledger import Ledger, begin_run
from serve_app.bulk.listing import list_chunks
from serve_app.bulk.sources import allowed, open_sources
from serve_app.config import SourcesConfig
from serve_app.results import objects_from_uri
from serve_app.results.query import query


def make_job(pipeline: Mapping[str, Any], sources: Sequence[str], out: Path, **more: Any) -> Job:
    """A job with the rules for fetching that the command line makes."""
    return Job(load_plan(pipeline), str(out), allowed(sources, SourcesConfig()), **{"metadata": {}, **more})


class InProcess:
    """Runs chunks as the actors do, in this process."""

    def __init__(self, job: Job, sources: Sequence[str], *, chunk_size: int = 100, skip_known: bool = False) -> None:
        self.job, self.sources = job, open_sources(sources, job.fetch)
        self.chunk_size, self.skip_known = chunk_size, skip_known
        with ChunkRunner(job) as runner:
            fingerprint = runner.check()["fingerprint"]
        self.run = begin_run(objects_from_uri(job.out), job.plan.name, sources, fingerprint, restart=False)
        self.ledger = Ledger(objects_from_uri(job.out), self.run)

    def numbers(self) -> list[int]:
        """List what is not listed yet."""
        return list(list_chunks(self.ledger, self.sources, 0, self.chunk_size, skip_known=self.skip_known))

    def chunk(self, number: int, session: str = "one") -> dict[str, Any]:
        """Run a chunk; its counts."""
        with ChunkRunner(replace(self.job, session=session), self.run) as runner:
            answer = runner({"number": number, "error": ""})
        assert not answer["error"], answer
        counts: dict[str, Any] = json.loads(answer["counts"])
        return counts

    def all(self) -> None:
        """Run everything to the end."""
        for number in self.numbers():
            self.chunk(number)
        self.ledger.end({})


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The results by their addresses; each image once."""
    answer = query(objects_from_uri(str(out)), "SELECT * FROM results ORDER BY uri")
    found = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    assert len({row["uri"] for row in found}) == len(found)
    return {row["uri"]: row for row in found}


def actors(above: psutil.Process) -> list[int]:
    """The processes below one that run chunks."""
    return [child.pid for child in above.children(recursive=True) if "MapWorker" in "".join(child.cmdline())]


def failures(out: Path) -> dict[str, dict[str, str]]:
    """The failures by their addresses."""
    lines = [line for file in sorted((out / "failures").glob("*")) for line in file.read_text().splitlines()]
    return {failure["uri"]: failure for failure in map(json.loads, lines)}
