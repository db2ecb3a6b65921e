"""A small Pub/Sub server on Google's own definitions: topics, pull subscriptions, leases, and the two metrics."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.monitoring_v3 import ListTimeSeriesRequest, ListTimeSeriesResponse
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types as t


@dataclass
class Lease:
    message: t.PubsubMessage
    visible: float = 0.0
    attempts: int = 0
    ack_id: str = ""


@dataclass
class Subscription:
    spec: t.Subscription
    messages: list[Lease] = field(default_factory=list)


class PubsubServer:
    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.subscriptions: dict[str, Subscription] = {}
        self.changed = threading.Condition()
        self.port = 0

    def create_topic(self, request: t.Topic, context: grpc.ServicerContext) -> t.Topic:
        if request.name in self.topics:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, request.name)
        self.topics.add(request.name)
        return request

    def publish(self, request: t.PublishRequest, context: grpc.ServicerContext) -> t.PublishResponse:
        if request.topic not in self.topics:
            context.abort(grpc.StatusCode.NOT_FOUND, request.topic)
        ids = []
        with self.changed:
            for message in request.messages:
                sent = t.PubsubMessage(
                    data=message.data,
                    attributes=message.attributes,
                    message_id=uuid.uuid4().hex,
                    publish_time=time_now(),
                )
                ids.append(sent.message_id)
                for subscription in self.subscriptions.values():
                    if subscription.spec.topic == request.topic:
                        subscription.messages.append(Lease(sent))
            self.changed.notify_all()
        return t.PublishResponse(message_ids=ids)

    def create_subscription(self, request: t.Subscription, context: grpc.ServicerContext) -> t.Subscription:
        if request.name in self.subscriptions:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, request.name)
        self.subscriptions[request.name] = Subscription(request)
        return request

    def get_subscription(self, request: t.GetSubscriptionRequest, context: grpc.ServicerContext) -> t.Subscription:
        return self._find(request.subscription, context).spec

    def pull(self, request: t.PullRequest, context: grpc.ServicerContext) -> t.PullResponse:
        subscription = self._find(request.subscription, context)
        with self.changed:
            while context.is_active():
                now = time.time()
                due = [lease for lease in subscription.messages if lease.visible <= now][: request.max_messages]
                if due:
                    break
                self.changed.wait(0.05)
            else:
                return t.PullResponse()
            for lease in due:
                lease.visible = now + subscription.spec.ack_deadline_seconds
                lease.attempts += 1
                lease.ack_id = uuid.uuid4().hex
        counted = bool(subscription.spec.dead_letter_policy.dead_letter_topic)
        return t.PullResponse(
            received_messages=[
                t.ReceivedMessage(ack_id=d.ack_id, message=d.message, delivery_attempt=d.attempts if counted else 0)
                for d in due
            ]
        )

    def acknowledge(self, request: t.AcknowledgeRequest, context: grpc.ServicerContext) -> Empty:
        subscription = self._find(request.subscription, context)
        with self.changed:
            subscription.messages = [lease for lease in subscription.messages if lease.ack_id not in request.ack_ids]
        return Empty()

    def modify_ack_deadline(self, request: t.ModifyAckDeadlineRequest, context: grpc.ServicerContext) -> Empty:
        subscription = self._find(request.subscription, context)
        with self.changed:
            for lease in subscription.messages:
                if lease.ack_id in request.ack_ids:
                    lease.visible = time.time() + request.ack_deadline_seconds
            self.changed.notify_all()
        return Empty()

    def list_time_series(self, request: ListTimeSeriesRequest, context: grpc.ServicerContext) -> ListTimeSeriesResponse:
        name = request.filter.split('subscription_id = "')[1].split('"')[0]
        messages = self._find(f"{request.name}/subscriptions/{name}", context).messages
        ages = [time.time() - lease.message.publish_time.timestamp() for lease in messages]
        value = len(ages) if "num_undelivered_messages" in request.filter else max(ages, default=0)
        return ListTimeSeriesResponse(time_series=[{"points": [{"value": {"double_value": float(value)}}]}])

    def _find(self, name: str, context: grpc.ServicerContext) -> Subscription:
        if name not in self.subscriptions:
            context.abort(grpc.StatusCode.NOT_FOUND, name)
        return self.subscriptions[name]


def time_now() -> Any:
    now = time.time()
    return {"seconds": int(now), "nanos": int(now % 1 * 1e9)}


def _empty(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _service(name: str, **methods: tuple[Callable[..., Any], Any, Any]) -> grpc.GenericRpcHandler:
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=takes.deserialize,
            response_serializer=_empty if gives is Empty else gives.serialize,
        )
        for method, (call, takes, gives) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


@contextmanager
def pubsub_server() -> Iterator[PubsubServer]:
    it = PubsubServer()
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers(
        (
            _service(
                "google.pubsub.v1.Publisher",
                CreateTopic=(it.create_topic, t.Topic, t.Topic),
                Publish=(it.publish, t.PublishRequest, t.PublishResponse),
            ),
            _service(
                "google.pubsub.v1.Subscriber",
                CreateSubscription=(it.create_subscription, t.Subscription, t.Subscription),
                GetSubscription=(it.get_subscription, t.GetSubscriptionRequest, t.Subscription),
                Pull=(it.pull, t.PullRequest, t.PullResponse),
                Acknowledge=(it.acknowledge, t.AcknowledgeRequest, Empty),
                ModifyAckDeadline=(it.modify_ack_deadline, t.ModifyAckDeadlineRequest, Empty),
            ),
            _service(
                "google.monitoring.v3.MetricService",
                ListTimeSeries=(it.list_time_series, ListTimeSeriesRequest, ListTimeSeriesResponse),
            ),
        )
    )
    it.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield it
    finally:
        server.stop(None)
