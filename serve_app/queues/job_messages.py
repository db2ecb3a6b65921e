"""The jobs in a message: our own form, or notifications of S3 and Google Cloud Storage."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from graph import Malformed
from graph.engine import checked_metadata
from serve_app.uris import checked_uri

__all__ = ["MAX_ID_CHARACTERS", "BadMessage", "JobRequest", "parse_jobs"]

MAX_ID_CHARACTERS = 200

# objects that tools create so that a bucket seems to have folders; _$folder$ is Hadoop's
_FOLDER_MARKERS = ("/", "_$folder$")

_GCS_EVENT = "google.cloud.storage.object.v1."


class BadMessage(Malformed):
    """A message that cannot be processed; it becomes a dead letter at once."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One image to run. ``id`` is the same for every delivery of its message.

    Attributes:
        version: of the object (S3's version id, GCS's generation); ``None``: the newest.
        traceparent: of the span that published it (W3C Trace Context), as it was sent.
    """

    id: str
    uri: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    traceparent: object = None


def parse_jobs(body: bytes) -> tuple[JobRequest, ...]:
    """The jobs in a message: one, one for each object of a notification, or none if no object was created.

    Notifications of S3 are read in the forms of S3 and of EventBridge, both also wrapped by SNS, and as Lambda receives
    them; those of Google Cloud Storage as a JSON payload, as Pub/Sub pushes them, and as CloudEvents, which may also
    carry any of the others.

    Raises:
        BadMessage: it has none of the forms, or cannot be stored.
    """
    try:
        return tuple(_jobs(_json(body, "the message"), body))
    except Malformed as error:
        raise BadMessage(str(error)) from error
    except RecursionError as error:
        raise BadMessage("the message is nested too deeply") from error


def _json(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f'{what} must be an object such as {{"id": "1", "uri": "s3://bucket/key"}}')
    return value


def _jobs(value: dict[str, Any], body: bytes) -> Iterator[JobRequest]:
    """``body``: identifies a job without an id."""
    if "uri" in value:
        yield _own(value, body)
    elif value.get("Type") == "Notification" and isinstance(value.get("Message"), str):
        yield from _jobs(_json(value["Message"], "the SNS notification's Message"), body)
    elif value.get("Event") == "s3:TestEvent":
        return
    elif "Records" in value:
        records = value["Records"]
        if not isinstance(records, list):
            raise Malformed("'Records' is not a list; S3 event notifications have Records[].s3")
        for index, record in enumerate(records):
            yield from _from_record(record, f"Records[{index}]")
    elif value.get("source") == "aws.s3":
        yield from _from_eventbridge(value)
    elif "specversion" in value:
        yield from _from_cloudevent(value, body)
    elif value.get("kind") == "storage#object":
        if "timeDeleted" not in value:
            yield from _from_gcs(value.get("bucket"), value.get("name"), value.get("generation"), value.get("size"))
    elif isinstance(value.get("message"), dict):
        yield from _from_pubsub_push(value["message"], body)
    else:
        keys = ", ".join(f"'{key[:40]}'" for key in list(value)[:8])
        raise Malformed(
            "the message has no 'uri' that says where the image is, and is no notification of S3, EventBridge, SNS or "
            f"Cloud Storage; its keys are {ascii(keys)[1:-1] or 'none'}"
        )


def _own(value: dict[str, Any], body: bytes) -> JobRequest:
    identity = value.get("id")
    if identity is None:  # from the body, so that a redelivery is not another job
        identity = f"body-{hashlib.sha256(body).hexdigest()[:32]}"
    elif isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not 1 <= len(identity) <= MAX_ID_CHARACTERS:
        raise Malformed(f"'id' must be a string of 1 to {MAX_ID_CHARACTERS} characters, or a whole number")
    try:
        identity.encode()
    except UnicodeEncodeError as error:
        raise Malformed("'id' has half of a surrogate pair, which is not valid Unicode") from error
    metadata = checked_metadata(value.get("metadata"))
    return JobRequest(identity, checked_uri(value.get("uri")), metadata, traceparent=value.get("traceparent"))


def _from_record(record: Any, where: str) -> Iterator[JobRequest]:
    if not isinstance(record, dict):
        raise Malformed(f"{where} is no object; S3 event notifications have Records[].s3")
    nested = record.get("body", record.get("Sns"))
    if isinstance(nested, dict):
        nested = nested.get("Message")
    if isinstance(nested, str):  # of SQS or SNS, as Lambda receives them
        yield from _jobs(_json(nested, f"{where}'s body"), nested.encode(errors="surrogatepass"))
        return
    try:
        if not record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
            return
        bucket, entry = record["s3"]["bucket"]["name"], record["s3"]["object"]
        key = unquote_plus(entry["key"])  # S3 encodes keys in events as in forms
    except (LookupError, TypeError, AttributeError) as error:
        raise Malformed(f"{where} is no S3 event: it needs eventName, s3.bucket.name and s3.object.key") from error
    yield from _from_s3(bucket, key, entry, "versionId", "eTag")


def _from_eventbridge(event: dict[str, Any]) -> Iterator[JobRequest]:
    kind, detail = event.get("detail-type"), event.get("detail")
    if kind != "Object Created":
        if not str(kind).startswith("Object "):
            raise Malformed(f"EventBridge's '{kind}' is not supported; turn on the bucket's own EventBridge events")
        return
    try:
        bucket, entry = detail["bucket"]["name"], detail["object"]  # type: ignore[index]
        key = entry["key"]
    except (LookupError, TypeError) as error:
        raise Malformed("the EventBridge event needs detail.bucket.name and detail.object.key") from error
    yield from _from_s3(bucket, key, entry, "version-id", "etag")


def _from_s3(bucket: Any, key: Any, entry: dict[str, Any], version_key: str, etag_key: str) -> Iterator[JobRequest]:
    version = entry.get(version_key)
    if version in ("null", ""):  # the bucket has no versions; Ceph's is an empty string
        version = None
    # all of them: in a bucket without versions, only the others tell that an object was overwritten
    identity = [version, entry.get("sequencer"), str(entry.get(etag_key)).strip('"')]
    yield from _object_job("s3", bucket, key, version, identity, entry.get("size"))


def _from_gcs(bucket: Any, name: Any, generation: Any, size: Any = None) -> Iterator[JobRequest]:
    version = None if generation is None else str(generation)
    yield from _object_job("gs", bucket, name, version, [version], size)


def _from_cloudevent(event: dict[str, Any], body: bytes) -> Iterator[JobRequest]:
    """In structured mode: https://cloudevents.io."""
    kind, data = event.get("type"), event.get("data")
    if isinstance(kind, str) and kind.startswith(_GCS_EVENT):
        if kind == f"{_GCS_EVENT}finalized":
            entry = data if isinstance(data, dict) else {}
            yield from _from_gcs(*map(entry.get, ("bucket", "name", "generation", "size")))
        return
    if not isinstance(data, dict):
        text = data if isinstance(data, str) else _base64(event.get("data_base64"), "the CloudEvent has no data")
        data = _json(text, "the CloudEvent's data")
    yield from _jobs(data, body)


def _base64(text: Any, problem: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise Malformed(problem) from error


def _from_pubsub_push(message: dict[str, Any], body: bytes) -> Iterator[JobRequest]:
    attributes = message.get("attributes")
    if isinstance(attributes, dict) and "objectId" in attributes:
        if attributes.get("eventType") == "OBJECT_FINALIZE":
            yield from _from_gcs(*map(attributes.get, ("bucketId", "objectId", "objectGeneration")))
        return
    problem = "'message' has neither the attributes of a Cloud Storage notification nor 'data'"
    data = _base64(message.get("data"), problem)
    yield from _jobs(_json(data, "the Pub/Sub message's data"), body)


def _object_job(
    scheme: str, bucket: Any, key: Any, version: Any, identity: list[Any], size: Any
) -> Iterator[JobRequest]:
    if not (isinstance(bucket, str) and bucket and isinstance(key, str) and key):
        raise Malformed(f"the notification names no object: bucket {bucket!r}, key {key!r}")
    if not isinstance(version, str | None):
        raise Malformed(f"the notification's version {version!r} is no string")
    if key.endswith(_FOLDER_MARKERS) and size in (0, "0", None):
        return
    uri = checked_uri(f"{scheme}://{bucket}/{key}")
    digest = hashlib.sha256(json.dumps([bucket, key, *identity]).encode()).hexdigest()[:40]
    yield JobRequest(f"{scheme}-{digest}", uri, version=version)
