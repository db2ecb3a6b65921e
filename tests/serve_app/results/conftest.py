from __future__ import annotations

import uuid
from pathlib import Path

import boto3
import pytest

from serve_app.results import Objects, objects_from_uri


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return objects_from_uri(str(tmp_path / "results"))
    moto = request.getfixturevalue("moto")
    bucket = f"results-{uuid.uuid4().hex[:8]}"
    place = {"LocationConstraint": "eu-west-1"}
    boto3.client("s3", endpoint_url=moto, region_name="eu-west-1").create_bucket(
        Bucket=bucket, CreateBucketConfiguration=place
    )
    return objects_from_uri(f"s3://{bucket}/some/prefix?region=eu-west-1&endpoint_url={moto}")
