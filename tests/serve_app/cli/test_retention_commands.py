"""``results delete`` and ``retention``, over a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from serve_app.results import JobMarker, Outcome, ResultStore
from serve_app.results.compaction import compact
from serve_app.results.query import query

Run = Callable[..., tuple[int, str, str]]


def result(job_id: str, site: int, sha256: str) -> Outcome:
    image = {"uri": None, "sha256": sha256, "width": 8, "height": 6}
    pipeline = {"name": "demo", "fingerprint": "f"}
    found = {"id": job_id, "image": image, "pipeline": pipeline, "context": {}, "steps": [], "metadata": {"site": site}}
    return Outcome(job_id, "succeeded", found)


@pytest.fixture
async def store(tmp_path: Path) -> ResultStore:
    """Three jobs with markers of two tenants, and two of messages that have none."""
    store = ResultStore.from_uri(str(tmp_path / "results"))
    jobs = {"job-1": (1, "a" * 64, "acme"), "job-2": (2, "b" * 64, "acme"), "job-3": (1, "c" * 64, "other")}
    for job_id, (site, _, owner) in jobs.items():
        await store.put_job(JobMarker(job_id, "s3://b/a.jpg", {"site": site}, owner=owner))
    endings = [result(job_id, site, sha256) for job_id, (site, sha256, _) in jobs.items()]
    endings += [result("m1", 1, "a" * 64), result("m2", 3, "d" * 64)]
    for ending in endings:
        await store.finish(ending)
    await store.journal(endings)
    compact(store.objects)
    return store


def left(store: ResultStore) -> list[str]:
    return [row[0] for row in query(store.objects, "SELECT id FROM results ORDER BY id").rows]


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--job", "job-1", "--job", "m2"], ["job-1", "m2"]),
        (["--sha256", "a" * 64], ["job-1", "m1"]),
        (["--tenant", "acme"], ["job-1", "job-2"]),
        (["--where", "site=1"], ["job-1", "job-3", "m1"]),
        (["--where", "site=1", "--tenant", "acme"], ["job-1"]),
    ],
)
async def test_what_is_deleted(
    store: ResultStore, tmp_path: Path, visiongraph: Run, options: list[str], gone: list[str]
) -> None:
    uri = str(tmp_path / "results")
    _, listed, _ = visiongraph("results", "delete", uri, *options, "--dry-run")
    assert sorted(listed.split()) == gone
    assert len(left(store)) == 5
    code, _, said = visiongraph("results", "delete", uri, *options, "--by", "the operator")
    assert (code, f"{len(gone)} jobs were deleted" in said) == (0, True)
    assert left(store) == sorted({"job-1", "job-2", "job-3", "m1", "m2"} - set(gone))
    for job_id in gone:
        ending = await store.outcome(job_id)
        assert ending is not None
        assert (ending.status, ending.error) == ("deleted", {"type": "Deleted", "detail": "deleted by the operator"})


async def test_mistakes_are_said(store: ResultStore, tmp_path: Path, visiongraph: Run) -> None:
    uri = str(tmp_path / "results")
    code, _, said = visiongraph("results", "delete", uri, "--job", "job-9")
    assert (code, "no such jobs: job-9" in said) == (1, True)
    for options, why in [([], "say what to delete"), (["--where", "site"], "is not KEY=VALUE")]:
        code, _, said = visiongraph("results", "delete", uri, *options)
        assert (code, why in said) == (2, True)
    assert len(left(store)) == 5


async def test_retention(store: ResultStore, tmp_path: Path, visiongraph: Run) -> None:
    intake = tmp_path / "intake.yaml"
    block = {"queue": "sqlite:///jobs.db", "results": str(tmp_path / "results")}
    intake.write_text(yaml.safe_dump({"intake": block}))
    code, _, said = visiongraph("retention", "run", intake)
    assert (code, "keeps everything forever" in said) == (2, True)
    intake.write_text(yaml.safe_dump({"intake": {**block, "retention": {"results_days": 30}}}))
    old = time.time() - 31 * 86_400
    for file in (tmp_path / "results" / "outcomes").rglob("*.json"):
        os.utime(file, (old, old))
    _, would, _ = visiongraph("retention", "run", intake, "--dry-run")
    assert ("results" in would, "5" in would) == (True, True)
    assert len(list(store.objects.keys("outcomes/"))) == 5
    assert visiongraph("retention", "run", intake)[0] == 0
    assert not list(store.objects.keys("outcomes/"))
    assert visiongraph("retention", "rules", intake)[0] == 2
    intake.write_text(yaml.safe_dump({"intake": {**block, "results": "s3://b/r", "retention": {"results_days": 30}}}))
    rules = json.loads(visiongraph("retention", "rules", intake)[1])["Rules"]
    assert "r/parquet/" in [rule["Filter"]["Prefix"] for rule in rules]
