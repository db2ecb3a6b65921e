"""Images and results in buckets of a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from brokers import AWS
from bulk_runs import InProcess, make_job
from moto.s3.models import s3_backends
from soak.steps import picture

from serve_app.bulk.sources import Entry, open_sources
from serve_app.config import SourcesConfig
from serve_app.results import objects_from_uri
from serve_app.results.query import query

PIPELINE: dict[str, Any] = {"name": "s3", "pipeline": [{"name": "one", "class": "soak.steps.One"}]}
MANY = 100_000


@pytest.fixture(scope="module")
def s3(moto: str) -> Any:
    client = boto3.client("s3", endpoint_url=moto)
    for bucket in ("photos", "results", "keys", "many"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": AWS["AWS_DEFAULT_REGION"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", moto)
        yield client


def test_a_prefix_to_results_in_a_bucket(s3: Any, moto: str) -> None:
    for number in range(5):
        s3.put_object(Bucket="photos", Key=f"2026/{number}.png", Body=picture(number))
    for key in ("2026/notes.txt", "2025/1.png", "2026b/1.png"):
        s3.put_object(Bucket="photos", Key=key, Body=picture(9))
    sources, results = ["s3://photos/2026/"], f"s3://results/all?region=eu-west-1&endpoint_url={moto}"
    job = replace(make_job(PIPELINE, sources, Path()), out=results)
    InProcess(job, sources, chunk_size=2).all()
    answer = query(objects_from_uri(results), "SELECT uri FROM results ORDER BY uri")
    assert [uri for (uri,) in answer.rows] == [f"s3://photos/2026/{number}.png" for number in range(5)]


def test_a_listing_continues_after_a_key(s3: Any) -> None:
    for number in range(5):
        s3.put_object(Bucket="keys", Key=f"a/{number}.png", Body=b"")
    [source] = open_sources(["s3://keys/"], SourcesConfig())
    entries: list[Entry] = list(source.entries())
    assert [entry.uri for entry in source.entries(entries[1].position)] == [entry.uri for entry in entries[2:]]
    [one] = open_sources(["s3://keys/a/3.png"], SourcesConfig())
    assert [entry.uri for entry in one.entries()] == ["s3://keys/a/3.png"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_many_keys_give_results_soon(s3: Any, tmp_path: Path, poll: Callable[..., Any]) -> None:
    body, backend = picture(1), s3_backends["123456789012"]["global"]
    for number in range(MANY):
        backend.put_object("many", f"all/{number:06d}.png", body)
    (tmp_path / "s3.yaml").write_text("name: s3\npipeline:\n  - {name: one, class: soak.steps.One}\n")
    program = [sys.executable, "-c", "from serve_app.cli import main; main()", "batch", "s3.yaml", "s3://many/all/"]
    began = time.monotonic()
    with subprocess.Popen(
        [*program, "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as batch:
        try:
            poll(lambda: batch.poll() is not None or list(tmp_path.rglob("*.parquet")), 120)
            took = time.monotonic() - began
        finally:
            batch.send_signal(signal.SIGINT)
            _, said = batch.communicate(timeout=60)
    assert list(tmp_path.rglob("*.parquet")), said
    assert not list(tmp_path.rglob("listing.json"))  # it was not listed to its end first
    assert took < 30, took
