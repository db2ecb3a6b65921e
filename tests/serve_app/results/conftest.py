from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from gcs_server import gcs_server

from serve_app.results import Objects, objects_from_uri


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    with gcs_server() as url:
        yield url


@pytest.fixture(params=["folder", "s3", "gs"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return objects_from_uri(str(tmp_path / "results"))
    if request.param == "gs":
        return objects_from_uri(f"gs://{uuid.uuid4().hex}/some/prefix?endpoint_url={request.getfixturevalue('gcs')}")
    moto = request.getfixturevalue("moto")
    bucket = f"results-{uuid.uuid4().hex[:8]}"
    place = {"LocationConstraint": "eu-west-1"}
    boto3.client("s3", endpoint_url=moto, region_name="eu-west-1").create_bucket(
        Bucket=bucket, CreateBucketConfiguration=place
    )
    return objects_from_uri(f"s3://{bucket}/some/prefix?region=eu-west-1&endpoint_url={moto}")
