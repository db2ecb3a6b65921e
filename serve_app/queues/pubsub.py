"""Google Cloud Pub/Sub over its own gRPC API. A subscription is the queue; its topic is where to publish."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import grpc
from google.api_core.exceptions import AlreadyExists, DeadlineExceeded, GoogleAPICallError, NotFound, RetryError
from google.api_core.retry import AsyncRetry
from google.auth.exceptions import GoogleAuthError
from google.cloud.monitoring_v3 import ListTimeSeriesRequest, MetricServiceAsyncClient, TimeInterval
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcAsyncIOTransport
from google.pubsub_v1 import PublisherAsyncClient, PubsubMessage, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from serve_app.queues.protocol import Message, Queue, QueueStats, chunks
from serve_app.queues.urls import FORMS, BadQueueUrl, QueueUrl

__all__ = ["PubsubQueue"]

_MAX_PUBLISH = 500  # messages a request may hold 1,000 of and 10 MB
_MAX_ACK_IDS = 500
_PULL_TIMEOUT_S = 60.0
_MIN_WAIT_S = 0.2  # a pull has to travel
_MIN_LEASE_S, _MAX_LEASE_S = 10, 600
_DELIVERY_LIMIT = 100  # the largest that Pub/Sub takes
_METRICS_WINDOW_S = 600  # Cloud Monitoring's values are a few minutes old
_NO_RETRY = AsyncRetry(predicate=lambda _: False)  # the worker retries by itself, for a limited time
_CALL: dict[str, Any] = {"timeout": 30.0, "retry": _NO_RETRY}
_ERRORS = (GoogleAPICallError, RetryError, GoogleAuthError, grpc.RpcError)


class PubsubQueue(Queue):
    """``pubsub://PROJECT/SUBSCRIPTION``: a pull subscription. ``NAME-dead`` is for its dead letters.

    ``?create=true`` creates missing topics and subscriptions. ``endpoint`` is host:port of a server without TLS in
    place of Google's; default: ``PUBSUB_EMULATOR_HOST``. ``lease_s`` is the acknowledgement deadline of each delivery.

    Only Cloud Monitoring knows how many messages wait, and with a delay of minutes; with an emulator it is not known.
    """

    kind: ClassVar[str] = "Pub/Sub subscription"
    stats_are_late: ClassVar[bool] = True

    def __init__(self, url: QueueUrl, name: str | None = None) -> None:
        url.only("endpoint", "create", "lease_s")
        if not url.host or not url.path or "/" in url.path:
            raise BadQueueUrl(f"{url.base} does not name a subscription; it looks like {FORMS['pubsub']}")
        super().__init__(url, name or url.path)
        self._create = url.flag("create")
        self.lease_s = url.number("lease_s", 60.0, 1, _MAX_LEASE_S)
        self._clients: _Clients | None = None
        self._topic: str | None = None
        self._pulling: asyncio.Task[list[Any]] | None = None
        self._pulled: list[Any] = []
        self._waiting_for_pull = 0

    async def open(self) -> None:
        async with self._using() as clients:
            await self._find_topic(clients)

    async def close(self) -> None:
        if self._pulling is not None:
            self._pulling.cancel()
            self._pulling = None
        self._pulled = []
        if self._clients is not None:
            clients, self._clients = self._clients, None
            await clients.close()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        async with self._using() as clients:
            await self._publish(clients, await self._find_topic(clients), bodies)

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        async with self._using() as clients:
            if not self._pulled:
                # A cancelled pull may still be answered, and its messages would be leased to nobody: keep it running.
                if self._pulling is None:
                    self._pulling = asyncio.create_task(self._pull(clients, limit))
                pulling = self._pulling
                self._waiting_for_pull += 1
                try:
                    done, _ = await asyncio.wait([pulling], timeout=max(_MIN_WAIT_S, wait_s))
                finally:
                    self._waiting_for_pull -= 1
                if not done:
                    return []
                if self._pulling is pulling:
                    self._pulling = None
                self._pulled = pulling.result()
            received = self._pulled[:limit]
            if received:  # the subscription's own deadline may be shorter, and this may have lain here
                await self._set_deadline(clients, [raw.ack_id for raw in received], round(self.lease_s))
                self._pulled = self._pulled[limit:]
        return [_message(raw) for raw in received]

    async def _pull(self, clients: _Clients, limit: int) -> list[Any]:
        request = {"subscription": self._path(self.name), "max_messages": limit}
        try:
            answer = await clients.subscriber.pull(request, timeout=_PULL_TIMEOUT_S, retry=_NO_RETRY)
        except DeadlineExceeded:
            return []
        return list(answer.received_messages)

    async def ack(self, messages: Sequence[Message]) -> None:
        async with self._using() as clients:
            for chunk in chunks(messages, _MAX_ACK_IDS):
                ids = [message.receipt for message in chunk]
                request = {"subscription": self._path(self.name), "ack_ids": ids}
                await clients.subscriber.acknowledge(request, **_CALL)

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        async with self._using() as clients:
            if self._pulling is not None and not self._waiting_for_pull:
                # nobody receives any more: messages of a running pull would be leased to nobody
                self._pulling.cancel()
                self._pulling = None
            await self._set_deadline(clients, [message.receipt], min(_MAX_LEASE_S, -int(-delay_s // 1)))

    async def extend(self, messages: Sequence[Message]) -> None:
        async with self._using() as clients:
            await self._set_deadline(clients, [message.receipt for message in messages], round(self.lease_s))

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        async with self._using() as clients:
            await self._publish(clients, self._topic_path(self.dead_name), [letter])
        await self.ack([message])

    async def stats(self) -> QueueStats:
        async with self._using() as clients:
            undelivered, age = await asyncio.gather(
                self._metric(clients, "num_undelivered_messages"), self._metric(clients, "oldest_unacked_message_age")
            )
        # leased messages count as undelivered; the two cannot be distinguished
        return QueueStats(None if undelivered is None else round(undelivered), None, age)

    def _path(self, subscription: str) -> str:
        return f"projects/{self._url.host}/subscriptions/{subscription}"

    def _topic_path(self, topic: str) -> str:
        return f"projects/{self._url.host}/topics/{topic}"

    async def _publish(self, clients: _Clients, topic: str, bodies: Sequence[bytes]) -> None:
        for chunk in chunks(bodies, _MAX_PUBLISH):
            messages = [PubsubMessage(data=body) for body in chunk]
            await clients.publisher.publish({"topic": topic, "messages": messages}, **_CALL)

    async def _set_deadline(self, clients: _Clients, ids: Sequence[str], seconds: int) -> None:
        for chunk in chunks(ids, _MAX_ACK_IDS):
            request = {"subscription": self._path(self.name), "ack_ids": list(chunk), "ack_deadline_seconds": seconds}
            await clients.subscriber.modify_ack_deadline(request, **_CALL)

    async def _find_topic(self, clients: _Clients) -> str:
        if self._topic is None:
            if self._create and not self.name.endswith("-dead"):
                await self._make(clients, self.dead_name, None)
                await self._make(clients, self.name, self._topic_path(self.dead_name))
            path = self._path(self.name)
            try:
                found = await clients.subscriber.get_subscription({"subscription": path}, **_CALL)
            except NotFound as error:
                raise BadQueueUrl(
                    f"there is no Pub/Sub subscription {path}; create it and, for dead letters, "
                    f"a topic and subscription '{self.dead_name}', or add create=true to the queue URL"
                ) from error
            self._topic = found.topic
        return self._topic

    async def _make(self, clients: _Clients, name: str, dead_topic: str | None) -> None:
        topic, deadline = self._topic_path(name), max(_MIN_LEASE_S, round(self.lease_s))
        request: dict[str, Any] = {"name": self._path(name), "topic": topic, "ack_deadline_seconds": deadline}
        if dead_topic is not None:  # this is also what makes Pub/Sub count deliveries
            request["dead_letter_policy"] = {"dead_letter_topic": dead_topic, "max_delivery_attempts": _DELIVERY_LIMIT}
        with suppress(AlreadyExists):
            await clients.publisher.create_topic({"name": topic}, **_CALL)
        with suppress(AlreadyExists):
            await clients.subscriber.create_subscription(request, **_CALL)

    async def _metric(self, clients: _Clients, name: str) -> float | None:
        """The newest value of one of the subscription's metrics; ``None`` where there is none, as with an emulator."""
        now = round(time.time())
        request = ListTimeSeriesRequest(
            name=f"projects/{self._url.host}",
            filter=f'metric.type = "pubsub.googleapis.com/subscription/{name}" '
            f'AND resource.labels.subscription_id = "{self.name}"',
            interval=TimeInterval(start_time={"seconds": now - _METRICS_WINDOW_S}, end_time={"seconds": now}),
            view=ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        try:
            pages = await clients.metrics.list_time_series(request, **_CALL)
        except GoogleAPICallError as error:
            if error.grpc_status_code is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise
        newest = [series.points[0].value async for series in pages if series.points]
        return max((float(value.int64_value or value.double_value) for value in newest), default=None)

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[_Clients]:
        clients = self._clients
        with self.translating(_ERRORS, lambda: self._clients is not clients):
            if clients is None:
                endpoint = self._url.options.get("endpoint") or os.environ.get("PUBSUB_EMULATOR_HOST")
                clients = self._clients = _Clients(endpoint)
            yield clients


def _message(raw: Any) -> Message:
    # Pub/Sub counts deliveries only for subscriptions with a dead-letter policy.
    published = raw.message.publish_time.timestamp() if raw.message.publish_time else None
    return Message(_body(raw.message), raw.delivery_attempt or None, published, raw.ack_id)


def _body(message: Any) -> bytes:
    """The data; of a Cloud Storage notification, whose attributes say what happened, both, as Pub/Sub pushes them."""
    if "objectId" not in message.attributes:
        return bytes(message.data)
    pushed = {"attributes": dict(message.attributes), "data": base64.b64encode(message.data).decode()}
    return json.dumps({"message": pushed}).encode()


class _Clients:
    """The three API clients, on one channel where a server without TLS is named."""

    def __init__(self, endpoint: str | None) -> None:
        self._channel = None if endpoint is None else grpc.aio.insecure_channel(endpoint)
        if self._channel is None:
            self.publisher, self.subscriber = PublisherAsyncClient(), SubscriberAsyncClient()
            self.metrics = MetricServiceAsyncClient()
        else:
            channel = self._channel
            self.publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
            self.subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
            self.metrics = MetricServiceAsyncClient(transport=MetricServiceGrpcAsyncIOTransport(channel=channel))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            return
        for client in (self.publisher, self.subscriber, self.metrics):
            await client.transport.close()
