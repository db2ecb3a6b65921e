"""What a message asks for: the contract's own form, or S3 event notifications as they come, also wrapped by SNS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from classifiers import InputError

__all__ = ["BadMessage", "JobRequest", "parse_jobs"]

_MAX_ID = 200


class BadMessage(InputError):
    """A message that asks for nothing that can be done; it goes to the dead letters at once."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One image to run. ``id`` is the same however often its message is delivered."""

    id: str
    uri: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def parse_jobs(body: bytes) -> tuple[JobRequest, ...]:
    """The jobs in a message: one, one for each object of an S3 event, or none for S3's test and removal events.

    Raises:
        BadMessage: it is not one of the forms; the message says what is wrong.
    """
    value = _json(body, "the message")
    if value.get("Type") == "Notification" and isinstance(value.get("Message"), str):  # SNS
        value = _json(value["Message"].encode(), "the SNS notification's Message")
    if value.get("Event") == "s3:TestEvent":
        return ()
    if "Records" in value:
        records = value["Records"]
        if not isinstance(records, list):
            raise BadMessage("'Records' is not a list; S3 event notifications have Records[].s3")
        jobs = (_from_s3(record, f"Records[{index}]") for index, record in enumerate(records))
        return tuple(job for job in jobs if job is not None)
    return (_own(value, body),)


def _json(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadMessage(f'{what} must be an object such as {{"id": "1", "uri": "s3://bucket/key"}}')
    return value


def _own(value: dict[str, Any], body: bytes) -> JobRequest:
    # without an id the body is the identity: a redelivery must not be another job
    identity = value.get("id", f"body-{hashlib.sha256(body).hexdigest()[:32]}")
    uri, metadata = value.get("uri"), value.get("metadata", {})
    if not isinstance(identity, str) or not 1 <= len(identity) <= _MAX_ID:
        raise BadMessage(f"'id' must be a text of 1 to {_MAX_ID} characters")
    if not isinstance(uri, str) or not uri:
        raise BadMessage("'uri' must say where the image is: s3://bucket/key, gs://bucket/key or https://...")
    if not isinstance(metadata, dict):
        raise BadMessage("'metadata' must be an object")
    return JobRequest(identity, uri, metadata)


def _from_s3(record: Any, where: str) -> JobRequest | None:
    try:
        event, bucket, entry = record["eventName"], record["s3"]["bucket"]["name"], record["s3"]["object"]
        key = unquote_plus(entry["key"])  # S3 writes keys in events as forms do
        version = entry.get("versionId") or entry.get("sequencer") or entry.get("eTag") or ""
        if not event.removeprefix("s3:").startswith("ObjectCreated:"):
            return None
    except (LookupError, TypeError, AttributeError) as error:
        raise BadMessage(f"{where} is no S3 event: it needs eventName, s3.bucket.name and s3.object.key") from error
    identity = hashlib.sha256(json.dumps([bucket, key, version]).encode()).hexdigest()[:40]
    return JobRequest(f"s3-{identity}", f"s3://{bucket}/{key}")
