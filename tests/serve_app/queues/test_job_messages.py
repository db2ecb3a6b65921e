from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from pubsub_server import pubsub_server

from serve_app.queues import Message, queue_from_url
from serve_app.queues.job_messages import BadMessage, JobRequest, parse_jobs


def event(key: str = "in/a+b%C3%BC.jpg", name: str = "ObjectCreated:Put", **entry: Any) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "photos"}, "object": {"key": key, **entry}}}


def eventbridge(key: str = "in/a bü.jpg", kind: str = "Object Created", **entry: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": kind,
        "source": "aws.s3",
        "detail": {"bucket": {"name": "photos"}, "object": {"key": key, "size": 5, **entry}, "reason": "PutObject"},
    }


def gcs(name: str = "in/a bü.jpg", generation: str = "1764500000000001", **more: Any) -> dict[str, Any]:
    entry = {"bucket": "photos", "name": name, "generation": generation, "size": "5"}
    return {"kind": "storage#object", "id": f"photos/{name}/{generation}", **entry, **more}


def pushed(kind: str = "OBJECT_FINALIZE", name: str = "in/a bü.jpg", data: bytes = b"", **more: Any) -> dict[str, Any]:
    attributes = {"bucketId": "photos", "objectId": name, "objectGeneration": "1764500000000001", "eventType": kind}
    message = {"attributes": attributes, "data": base64.b64encode(data).decode(), "messageId": "1", **more}
    return {"message": message, "subscription": "projects/p/subscriptions/s"}


def cloudevent(data: Any, kind: str = "google.cloud.storage.object.v1.finalized") -> dict[str, Any]:
    about = {"source": "//storage.googleapis.com/projects/_/buckets/photos", "subject": "objects/in/a bü.jpg"}
    return {"specversion": "1.0", "id": "1", "type": kind, "datacontenttype": "application/json", **about, "data": data}


def parsed(value: Any) -> tuple[JobRequest, ...]:
    return parse_jobs(json.dumps(value).encode())


def sns(value: Any) -> dict[str, Any]:
    return {"Type": "Notification", "MessageId": "1", "Message": json.dumps(value)}


class TestOwnForm:
    def test_as_the_contract_says(self) -> None:
        assert parsed({"id": "1", "uri": "s3://b/k", "metadata": {"site": 7}}) == (
            JobRequest("1", "s3://b/k", {"site": 7}),
        )

    def test_without_an_id_a_redelivery_is_the_same_job(self) -> None:
        bodies = [{"uri": "s3://b/k"}, {"uri": "s3://b/k"}, {"uri": "s3://b/l"}]
        (first,), (again,), (other,) = map(parsed, bodies)
        assert first.id == again.id != other.id

    def test_null_counts_as_left_out(self) -> None:
        (job,) = parsed({"id": None, "uri": "s3://b/k", "metadata": None})
        assert job.id.startswith("body-")
        assert job.metadata == {}

    @pytest.mark.parametrize(("value", "identity"), [(123, "123"), (0, "0"), (-5, "-5"), (2**70, str(2**70))])
    def test_a_number_is_an_id(self, value: int, identity: str) -> None:
        assert parsed({"id": value, "uri": "s3://b/k"})[0].id == identity

    @pytest.mark.parametrize("wrap", [sns, lambda value: value])
    def test_a_byte_order_mark_and_other_encodings(self, wrap: Any) -> None:
        text = json.dumps(wrap({"id": "é", "uri": "s3://b/é"}), ensure_ascii=False)
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            assert parse_jobs(text.encode(encoding)) == (JobRequest("é", "s3://b/é"),)


class TestS3:
    def test_plain_and_wrapped_by_sns(self) -> None:
        records = {"Records": [event(versionId="1"), event("x.jpg"), event(name="ObjectRemoved:Delete")]}
        jobs = parsed(records)
        assert [(job.uri, job.version) for job in jobs] == [
            ("s3://photos/in/a bü.jpg", "1"),
            ("s3://photos/x.jpg", None),
        ]
        assert parsed(sns(records)) == jobs
        assert parsed({"Event": "s3:TestEvent", "Bucket": "photos"}) == ()
        assert parsed(sns({"Event": "s3:TestEvent", "Bucket": "photos"})) == ()

    def test_as_lambda_gets_them(self) -> None:
        records = {"Records": [event(sequencer="1")]}
        jobs = parsed(records)
        assert parsed({"Records": [{"messageId": "1", "body": json.dumps(records)}]}) == jobs
        assert parsed({"Records": [{"EventSource": "aws:sns", "Sns": sns(records)}]}) == jobs
        assert parsed({"Records": [{"body": json.dumps(sns(records))}]}) == jobs

    def test_as_eventbridge_sends_them(self) -> None:
        (job,) = parsed(eventbridge(etag="e", sequencer="1", **{"version-id": "v1"}))
        assert (job.uri, job.version) == ("s3://photos/in/a bü.jpg", "v1")
        assert (job,) == parsed({"Records": [event(eTag="e", sequencer="1", versionId="v1")]})
        assert (job,) == parsed(sns(eventbridge(etag="e", sequencer="1", **{"version-id": "v1"})))
        assert parsed(eventbridge("a+b%20c.jpg"))[0].uri == "s3://photos/a+b%20c.jpg"
        for kind in ("Object Deleted", "Object Tags Added", "Object Restore Completed"):
            assert parsed(eventbridge(kind=kind)) == ()

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (
                {"versionId": "null", "sequencer": "1", "eTag": "a"},
                {"versionId": "null", "sequencer": "2", "eTag": "a"},
            ),
            ({"versionId": "null", "eTag": "a"}, {"versionId": "null", "eTag": "b"}),
            ({"versionId": "7", "sequencer": "1"}, {"versionId": "7", "sequencer": "2"}),
            ({"versionId": "1", "eTag": "a"}, {"versionId": "2", "eTag": "a"}),
            ({"sequencer": "1", "eTag": "a"}, {"sequencer": "1", "eTag": "b"}),
        ],
    )
    def test_an_object_that_is_overwritten_is_another_job(self, first: Any, second: Any) -> None:
        jobs = [parsed({"Records": [event(**entry)]})[0].id for entry in (first, second, first)]
        assert jobs[0] == jobs[2] != jobs[1]

    @pytest.mark.parametrize("version", ["null", "", None])
    def test_a_bucket_without_versions(self, version: str | None) -> None:
        jobs = parsed({"Records": [event(versionId=version)]})
        assert jobs[0].version is None
        assert jobs == parsed({"Records": [event()]})

    @pytest.mark.parametrize("key", ["in/", "in/2026%2F", "in/2026_%24folder%24"])
    def test_markers_of_folders_are_dropped(self, key: str) -> None:
        assert parsed({"Records": [event(key, size=0), event("a.jpg", size=0)]}) == parsed(
            {"Records": [event("a.jpg")]}
        )
        assert parsed(eventbridge("in/", size=0)) == ()

    @pytest.mark.parametrize(
        ("key", "right"),
        [
            ("a+b.jpg", "a b.jpg"),
            ("a%2Bb.jpg", "a+b.jpg"),
            ("a%2520b", "a%20b"),
            ("a%23%3F", "a#?"),
            ("%E2%80%AF", "\u202f"),
        ],
    )
    def test_keys_are_decoded_once(self, key: str, right: str) -> None:
        assert parsed({"Records": [event(key)]})[0].uri == f"s3://photos/{right}"

    def test_other_stores_name_their_events_with_a_prefix(self) -> None:
        value = {
            "EventName": "s3:ObjectCreated:Put",
            "Key": "photos/x",
            "Records": [event(name="s3:ObjectCreated:Put")],
        }
        assert len(parsed(value)) == 1


class TestGoogleCloudStorage:
    def test_the_payload(self) -> None:
        (job,) = parsed(gcs())
        assert (job.uri, job.version, job.metadata) == ("gs://photos/in/a bü.jpg", "1764500000000001", {})
        assert parsed(gcs(generation="2"))[0].id != job.id
        assert parsed(gcs("in/", size="0")) == parsed(gcs(timeDeleted="2026-01-01T00:00:00Z")) == ()

    def test_attributes(self) -> None:
        assert parsed(pushed()) == parsed(pushed(data=json.dumps(gcs()).encode())) == parsed(gcs())
        for kind in ("OBJECT_DELETE", "OBJECT_METADATA_UPDATE", "OBJECT_ARCHIVE"):
            assert parsed(pushed(kind, data=json.dumps(gcs()).encode())) == ()
        assert parsed(pushed(name="in/")) == ()

    def test_cloudevents(self) -> None:
        without_kind = {key: value for key, value in gcs().items() if key != "kind"}
        assert parsed(cloudevent(gcs())) == parsed(cloudevent(without_kind)) == parsed(gcs())
        assert parsed(cloudevent(gcs("in/", size="0"))) == ()
        for kind in ("deleted", "archived", "metadataUpdated"):
            assert parsed(cloudevent(gcs(), f"google.cloud.storage.object.v1.{kind}")) == ()

    def test_cloudevents_that_carry_other_messages(self) -> None:
        kind = "google.cloud.pubsub.topic.v1.messagePublished"
        assert parsed(cloudevent(pushed(), kind)) == parsed(gcs())
        own = {"id": "1", "uri": "s3://b/k"}
        encoded = base64.b64encode(json.dumps(own).encode()).decode()
        in_base64 = cloudevent(None, "mine") | {"data_base64": encoded}
        for event in (cloudevent(own, "mine"), cloudevent(json.dumps(own), "mine"), in_base64):
            assert parsed(event) == (JobRequest("1", "s3://b/k"),)

    async def test_notifications_that_are_pulled_and_sent_again(self) -> None:
        notification = pushed()["message"]["attributes"]
        with pubsub_server() as server:
            queue = queue_from_url(f"pubsub://p/photos?endpoint=127.0.0.1:{server.port}&create=true")
            async with queue, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
                messages = [
                    {"attributes": notification},
                    {"attributes": notification, "data": json.dumps(gcs()).encode()},
                    {"attributes": {**notification, "eventType": "OBJECT_DELETE"}, "data": json.dumps(gcs()).encode()},
                    {"attributes": {"site": "7"}, "data": b'{"id": "1", "uri": "s3://b/k"}'},
                ]
                for message in messages:
                    await publisher.publish({"topic": "projects/p/topics/photos", "messages": [message]})
                expected = [parsed(gcs()), parsed(gcs()), (), (JobRequest("1", "s3://b/k"),)]
                for _ in range(2):  # the second time as an operator's retry publishes them
                    received: list[Message] = []
                    while len(received) < len(messages):
                        received += await queue.receive(10, 1)
                    assert [parse_jobs(message.body) for message in received] == expected
                    await queue.ack(received)
                    await queue.publish([message.body for message in received])

    def test_an_own_message_that_was_pushed(self) -> None:
        data = base64.b64encode(b'{"id": "1", "uri": "s3://b/k"}').decode()
        assert parsed({"message": {"data": data, "messageId": "7"}}) == (JobRequest("1", "s3://b/k"),)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "must be an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "1"}', "'uri'"),
        (b'{"specversion": "1.0", "type": "x"}', "no data"),
        (b'{"specversion": "1.0", "type": "x", "data": [1]}', "no data"),
        (b'{"specversion": "1.0", "type": "google.cloud.storage.object.v1.finalized", "data": 1}', "names no object"),
        (b'{"specversion": "1.0", "data": ' * 700 + b"1" + b"}" * 700, "nested too deeply"),
        (b'{"eventType": "Microsoft.Storage.BlobCreated", "a\\ud800": 1}', r"its keys are 'eventType', 'a\\ud800'"),
        (b'{"Type": "SubscriptionConfirmation", "SubscribeURL": "x"}', "'SubscribeURL'"),
        (b'{"id": "1", "uri": null}', "'uri'"),
        (b'{"id": "1", "uri": "s3://b/\\ud800"}', "'uri'"),
        (b'{"id": true, "uri": "s3://b/k"}', "'id'"),
        (b'{"id": 1.5, "uri": "s3://b/k"}', "'id'"),
        (b'{"id": NaN, "uri": "s3://b/k"}', "'id'"),
        (b'{"id": "", "uri": "s3://b/k"}', "'id'"),
        (b'{"id": ["1"], "uri": "s3://b/k"}', "'id'"),
        (b'{"id": "%s", "uri": "s3://b/k"}' % (b"x" * 201), "'id'"),
        (b'{"id": %s, "uri": "s3://b/k"}' % (b"9" * 201), "'id'"),
        (b'{"id": "a\\udce9", "uri": "s3://b/k"}', "'id'.*surrogate"),
        (b'{"id": "\xed\xb3\xa9", "uri": "s3://b/k"}', "surrogate|not JSON"),
        (b'{"uri": "s3://b/k", "metadata": []}', "'metadata'"),
        (b'{"uri": "s3://b/k", "metadata": {"a": NaN}}', "NaN"),
        (b'{"uri": "s3://b/k", "metadata": {"a": [-Infinity]}}', "Infinity"),
        (b'{"uri": "s3://b/k", "metadata": {"a": 1e999}}', "Infinity"),
        (b'{"uri": "s3://b/k", "metadata": {"\\ud800": 1}}', "surrogate"),
        (b'{"uri": "s3://b/k", "metadata": {"a": "%s"}}' % (b"x" * 70_000), "65,536 bytes"),
        (b'{"Records": {}}', "not a list"),
        (b'{"Records": [null]}', r"Records\[0\]"),
        (b'{"Records": [{"s3": 1}]}', r"Records\[0\] is no S3 event"),
        (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', r"Records\[0\] is no S3 event"),
        (json.dumps({"Records": [event(None)]}).encode(), r"Records\[0\] is no S3 event"),  # type: ignore[arg-type]
        (json.dumps({"Records": [event("")]}).encode(), "names no object"),
        (json.dumps({"Records": [event(versionId=7)]}).encode(), "version"),
        (b'{"Type": "Notification", "Message": "hello"}', "SNS"),
        (b'{"source": "aws.s3", "detail-type": "Object Created", "detail": null}', "EventBridge"),
        (b'{"source": "aws.s3", "detail-type": "AWS API Call via CloudTrail", "detail": {}}', "CloudTrail"),
        (b'{"kind": "storage#object", "bucket": "b"}', "names no object"),
        (b'{"message": {"data": 1}}', "'data'"),
    ],
)
def test_what_cannot_be_understood_says_why(body: bytes, says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        parse_jobs(body)
