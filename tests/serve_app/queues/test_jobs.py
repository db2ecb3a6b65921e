from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.queues.jobs import BadMessage, JobRequest, parse_jobs


def event(key: str = "in/a+b%C3%BC.jpg", name: str = "ObjectCreated:Put", **entry: Any) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "photos"}, "object": {"key": key, **entry}}}


def parsed(value: Any) -> tuple[JobRequest, ...]:
    return parse_jobs(json.dumps(value).encode())


def test_the_contracts_form() -> None:
    assert parsed({"id": "1", "uri": "s3://b/k", "metadata": {"site": 7}}) == (
        JobRequest("1", "s3://b/k", {"site": 7}),
    )


def test_without_an_id_a_redelivery_is_the_same_job() -> None:
    (first,), (again,), (other,) = parsed({"uri": "s3://b/k"}), parsed({"uri": "s3://b/k"}), parsed({"uri": "s3://b/l"})
    assert first.id == again.id != other.id


def test_s3_events_plain_and_wrapped_by_sns() -> None:
    records = {"Records": [event(versionId="1"), event("x.jpg"), event(name="ObjectRemoved:Delete")]}
    jobs = parsed(records)
    assert [job.uri for job in jobs] == ["s3://photos/in/a bü.jpg", "s3://photos/x.jpg"]
    assert parsed({"Type": "Notification", "Message": json.dumps(records)}) == jobs
    assert parsed({"Records": [event(versionId="2")]})[0].id != jobs[0].id
    assert parsed({"Event": "s3:TestEvent", "Bucket": "photos"}) == ()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "must be an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "1"}', "'uri'"),
        (b'{"id": 1, "uri": "s3://b/k"}', "'id'"),
        (b'{"uri": "s3://b/k", "metadata": []}', "'metadata'"),
        (b'{"Records": {}}', "not a list"),
        (b'{"Records": [{"s3": 1}]}', r"Records\[0\] is no S3 event"),
        (b'{"Type": "Notification", "Message": "hello"}', "SNS"),
    ],
)
def test_what_cannot_be_understood_says_why(body: bytes, says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        parse_jobs(body)
