from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from brokers import AWS
from redis_server import RedisServer, need_redis_server

from serve_app.config import read_gateway_config, read_intake_config
from serve_app.doctor.findings import Finding
from serve_app.doctor.service_checks import check_services
from serve_app.local.ports import free_port


def check(queue: str, results: object) -> dict[str, Finding]:
    """Findings by what was checked."""
    intake = read_intake_config({"queue": queue, "results": str(results)})
    return {each.check: each for each in check_services(None, intake)}


def check_redis(url: str) -> Finding:
    gateway = read_gateway_config({"auth": "none", "rate_limits": {"redis_url": url}})
    (finding,) = check_services(gateway, None)
    return finding


@pytest.fixture
def bucket(moto: str) -> Iterator[str]:
    s3 = boto3.client("s3", endpoint_url=moto)
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": AWS["AWS_DEFAULT_REGION"]})
    yield f"s3://bucket/results?region=eu-west-1&endpoint_url={moto}"
    for entry in s3.list_objects_v2(Bucket="bucket").get("Contents", []):
        s3.delete_object(Bucket="bucket", Key=entry["Key"])
    s3.delete_bucket(Bucket="bucket")


def test_services_that_answer(tmp_path: Path, bucket: str, moto: str) -> None:
    found = check(f"sqs://photos?region=eu-west-1&endpoint_url={moto}&create=true", bucket)
    assert (found["broker"].status, found["store"].status) == ("ok", "ok")
    assert boto3.client("s3", endpoint_url=moto).list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    found = check(f"sqlite:///{tmp_path}/jobs.db", tmp_path / "results")
    assert (found["broker"].status, found["store"].status) == ("ok", "ok")


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    finding = check(f"amqp://worker:secret@127.0.0.1:{free_port()}/?queue=q", tmp_path)["broker"]
    assert (finding.status, bool(finding.fix)) == ("error", True)
    assert "secret" not in finding.message


def test_a_queue_that_is_not_there(tmp_path: Path, moto: str) -> None:
    finding = check(f"sqs://absent?region=eu-west-1&endpoint_url={moto}", tmp_path)["broker"]
    assert finding.status == "error"
    assert "absent" in finding.message


def test_a_password_that_is_not_set(tmp_path: Path) -> None:
    finding = check("amqp://worker:${ABSENT_PASSWORD}@127.0.0.1/?queue=q", tmp_path)["broker"]
    assert finding.status == "error"
    assert "ABSENT_PASSWORD" in finding.message


def test_a_bucket_that_is_not_there(tmp_path: Path, moto: str) -> None:
    found = check(f"sqlite:///{tmp_path}/jobs.db", f"s3://absent?region=eu-west-1&endpoint_url={moto}")
    assert found["store"].status == "error"
    assert "absent" in found["store"].message


def test_a_store_without_conditional_writes(
    tmp_path: Path, bucket: str, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.s3.responses import S3Response

    put = S3Response.put_object

    def careless(self: S3Response) -> Any:
        self.headers = {key: value for key, value in self.headers.items() if key.lower() != "if-none-match"}
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", careless)
    finding = check(f"sqlite:///{tmp_path}/jobs.db", bucket)["store"]
    assert finding.status == "error"
    assert "conditional writes" in finding.message


@need_redis_server
def test_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    url = f"redis://127.0.0.1:{server.port}/0"
    try:
        assert check_redis(url).status == "ok"
    finally:
        server.stop()
    finding = check_redis(url)
    assert (finding.status, bool(finding.fix)) == ("error", True)
