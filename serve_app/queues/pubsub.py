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

from serve_app.queues.cancelling import is_cancelled
from serve_app.queues.chunks import chunks
from serve_app.queues.protocol import BadQueueUrl, Message, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import FORMS, QueueUrl

__all__ = ["PubsubQueue"]

_MAX_PUBLISH = 500  # messages a request may hold 1,000 of and 10 MB
_MAX_ACK_IDS = 500
_TIMEOUT_S = 30.0
_PULL_TIMEOUT_S = 60.0
_MIN_WAIT_S = 0.2  # a pull has to travel
_MIN_LEASE_S, _MAX_LEASE_S = 10, 600
_DELIVERY_LIMIT = 100  # the largest that Pub/Sub takes
_METRICS_WINDOW_S = 600  # Cloud Monitoring's values are a few minutes old
_NO_RETRY = AsyncRetry(predicate=lambda _: False)  # the worker has its own, and one that is bounded


class PubsubQueue(Queue):
    """A pull subscription, and the topic and subscription ``NAME-dead`` for its dead letters.

    How many messages wait is known to Cloud Monitoring only, and minutes late; with an emulator it is not known.

    Args:
        project: the project's id.
        subscription: the subscription's id. Made, with a topic of the same name, where ``create`` is set.
        endpoint: host:port of a server without TLS in place of Google's; default: ``PUBSUB_EMULATOR_HOST``.
        lease_s: the acknowledgement deadline that each delivery gets, 10 to 600.
    """

    scheme: ClassVar[str] = "pubsub"
    stats_are_late: ClassVar[bool] = True

    def __init__(
        self,
        project: str,
        subscription: str,
        endpoint: str | None = None,
        *,
        create: bool = False,
        lease_s: float = 60.0,
    ) -> None:
        self._project = project
        self._subscription = subscription
        self._endpoint = endpoint or os.environ.get("PUBSUB_EMULATOR_HOST")
        self._create = create
        self.lease_s = lease_s
        self._clients: _Clients | None = None
        self._topic: str | None = None
        self._pulling: asyncio.Task[list[Any]] | None = None
        self._pulled: list[Any] = []
        self._waiting_for_pull = 0

    @classmethod
    def from_url(cls, url: QueueUrl) -> PubsubQueue:
        """``pubsub://PROJECT/SUBSCRIPTION``; ``?create=true`` makes topic and subscription when they are not there."""
        url.only("endpoint", "create", "lease_s")
        if not url.host or not url.path or "/" in url.path:
            raise BadQueueUrl(f"{url.base} does not name a subscription; it looks like {FORMS['pubsub']}")
        create = url.options.get("create", "false")
        if create not in ("true", "false"):
            raise BadQueueUrl(f"the queue URL says create={create}; it is true or false")
        lease_s = url.seconds("lease_s", 60.0, 1, _MAX_LEASE_S)
        return cls(url.host, url.path, url.options.get("endpoint"), create=create == "true", lease_s=lease_s)

    @property
    def name(self) -> str:
        return self._subscription

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
                # A pull that is given up may still be answered, and what it leased be lost for a while: it goes on.
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
        request = {"subscription": self._path(self._subscription), "max_messages": limit}
        try:
            answer = await clients.subscriber.pull(request, timeout=_PULL_TIMEOUT_S, retry=_NO_RETRY)
        except DeadlineExceeded:
            return []
        return list(answer.received_messages)

    async def ack(self, messages: Sequence[Message]) -> None:
        async with self._using() as clients:
            for chunk in chunks(messages, _MAX_ACK_IDS):
                ids = [message.receipt for message in chunk]
                request = {"subscription": self._path(self._subscription), "ack_ids": ids}
                await clients.subscriber.acknowledge(request, timeout=_TIMEOUT_S, retry=_NO_RETRY)

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        async with self._using() as clients:
            if self._pulling is not None and not self._waiting_for_pull:
                # nobody receives any more: what a pull that goes on gets would be lost for as long as a lease
                self._pulling.cancel()
                self._pulling = None
            await self._set_deadline(clients, [message.receipt], min(_MAX_LEASE_S, -int(-delay_s // 1)))

    async def extend(self, messages: Sequence[Message]) -> None:
        async with self._using() as clients:
            await self._set_deadline(clients, [message.receipt for message in messages], round(self.lease_s))

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        async with self._using() as clients:
            await self._publish(clients, self._topic_path(self._dead_name), [letter])
        await self.ack([message])

    async def stats(self) -> QueueStats:
        async with self._using() as clients:
            undelivered, age = await asyncio.gather(
                self._metric(clients, "num_undelivered_messages"), self._metric(clients, "oldest_unacked_message_age")
            )
        # what is leased counts as undelivered; the two cannot be told apart
        return QueueStats(None if undelivered is None else round(undelivered), None, age)

    def dead(self) -> PubsubQueue:
        return PubsubQueue(self._project, self._dead_name, self._endpoint, create=self._create, lease_s=self.lease_s)

    @property
    def _dead_name(self) -> str:
        return f"{self._subscription}-dead"

    def _path(self, subscription: str) -> str:
        return f"projects/{self._project}/subscriptions/{subscription}"

    def _topic_path(self, topic: str) -> str:
        return f"projects/{self._project}/topics/{topic}"

    async def _publish(self, clients: _Clients, topic: str, bodies: Sequence[bytes]) -> None:
        for chunk in chunks(bodies, _MAX_PUBLISH):
            messages = [PubsubMessage(data=body) for body in chunk]
            await clients.publisher.publish({"topic": topic, "messages": messages}, timeout=_TIMEOUT_S, retry=_NO_RETRY)

    async def _set_deadline(self, clients: _Clients, ids: Sequence[str], seconds: int) -> None:
        for chunk in chunks(ids, _MAX_ACK_IDS):
            request = {
                "subscription": self._path(self._subscription),
                "ack_ids": list(chunk),
                "ack_deadline_seconds": seconds,
            }
            await clients.subscriber.modify_ack_deadline(request, timeout=_TIMEOUT_S, retry=_NO_RETRY)

    async def _find_topic(self, clients: _Clients) -> str:
        if self._topic is None:
            if self._create and not self._subscription.endswith("-dead"):
                await self._make(clients, self._dead_name, None)
                await self._make(clients, self._subscription, self._topic_path(self._dead_name))
            path = self._path(self._subscription)
            try:
                found = await clients.subscriber.get_subscription(
                    {"subscription": path}, timeout=_TIMEOUT_S, retry=_NO_RETRY
                )
            except NotFound as error:
                raise BadQueueUrl(
                    f"there is no Pub/Sub subscription {path}; create it and, for dead letters, "
                    f"a topic and subscription '{self._dead_name}', or add create=true to the queue URL"
                ) from error
            self._topic = found.topic
        return self._topic

    async def _make(self, clients: _Clients, name: str, dead_topic: str | None) -> None:
        topic, deadline = self._topic_path(name), max(_MIN_LEASE_S, round(self.lease_s))
        request: dict[str, Any] = {"name": self._path(name), "topic": topic, "ack_deadline_seconds": deadline}
        if dead_topic is not None:  # this is also what makes Pub/Sub count deliveries
            request["dead_letter_policy"] = {"dead_letter_topic": dead_topic, "max_delivery_attempts": _DELIVERY_LIMIT}
        with suppress(AlreadyExists):
            await clients.publisher.create_topic({"name": topic}, timeout=_TIMEOUT_S, retry=_NO_RETRY)
        with suppress(AlreadyExists):
            await clients.subscriber.create_subscription(request, timeout=_TIMEOUT_S, retry=_NO_RETRY)

    async def _metric(self, clients: _Clients, name: str) -> float | None:
        """The newest value of one of the subscription's metrics; ``None`` where there is none, as with an emulator."""
        now = round(time.time())
        request = ListTimeSeriesRequest(
            name=f"projects/{self._project}",
            filter=f'metric.type = "pubsub.googleapis.com/subscription/{name}" '
            f'AND resource.labels.subscription_id = "{self._subscription}"',
            interval=TimeInterval(start_time={"seconds": now - _METRICS_WINDOW_S}, end_time={"seconds": now}),
            view=ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        try:
            pages = await clients.metrics.list_time_series(request, timeout=_TIMEOUT_S, retry=_NO_RETRY)
        except GoogleAPICallError as error:
            if error.grpc_status_code is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise
        newest = [series.points[0].value async for series in pages if series.points]
        return max((float(value.int64_value or value.double_value) for value in newest), default=None)

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[_Clients]:
        clients = self._clients
        try:
            if clients is None:
                clients = self._clients = _Clients(self._endpoint)
            yield clients
        except (GoogleAPICallError, RetryError, GoogleAuthError, grpc.RpcError) as error:
            raise self._unavailable(error) from error
        except (asyncio.CancelledError, Exception) as error:
            if is_cancelled() or self._clients is clients:
                raise
            raise self._unavailable("the connection was closed") from error

    def _unavailable(self, why: object) -> QueueUnavailable:
        return QueueUnavailable(f"the Pub/Sub subscription '{self._subscription}' cannot be used: {why}")


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
