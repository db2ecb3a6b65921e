"""Amazon SQS (standard queues) over boto3, in threads: long polling, batches of ten."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.queues.age import OldestEstimate
from serve_app.queues.cancelling import is_cancelled
from serve_app.queues.chunks import chunks
from serve_app.queues.protocol import BadQueueUrl, Message, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import QueueUrl

__all__ = ["SqsQueue"]

_BATCH = 10  # SQS's own limit
_MAX_BATCH_BYTES = 256 * 1024
_MAX_WAIT_S = 20
_THREADS = 8
_MAX_DELAY_S = 43_000  # a message is invisible for 12 hours at most
_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class _Session:
    """A client and the threads that use it."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqs")
        self._connect = connect
        self._connecting = threading.Lock()
        self._client: Any = None

    def call(self, operation: str, arguments: dict[str, Any]) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
        return getattr(self._client, operation)(**arguments)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


class SqsQueue(Queue):
    """An SQS standard queue, and ``NAME-dead`` for its dead letters.

    Args:
        name: the queue's name.
        region: AWS region; ``None``: as the environment says.
        endpoint_url: of another server than AWS's.
        create: make the queues when they are not there.
        lease_s: the visibility timeout of a delivery that is renewed. The first one is half of that: an answer that is
            lost with its connection keeps its messages invisible for as long.
    """

    scheme: ClassVar[str] = "sqs"

    def __init__(
        self,
        name: str,
        region: str | None = None,
        endpoint_url: str | None = None,
        *,
        create: bool = False,
        lease_s: float = 60.0,
    ) -> None:
        self._name = name
        self._region = region
        self._endpoint_url = endpoint_url
        self._create = create
        self.lease_s = lease_s
        self._session: _Session | None = None
        self._urls: dict[str, str] = {}
        self._oldest = OldestEstimate()

    @classmethod
    def from_url(cls, url: QueueUrl) -> SqsQueue:
        """``sqs://NAME?region=…&endpoint_url=…``; ``&create=true`` makes the queues when they are not there."""
        url.only("region", "endpoint_url", "create", "lease_s")
        if not url.host or url.host.endswith(".fifo"):
            raise BadQueueUrl(f"{url.base} must name a standard queue: sqs://NAME?region=REGION")
        create = url.options.get("create", "false")
        if create not in ("true", "false"):
            raise BadQueueUrl(f"the queue URL says create={create}; it is true or false")
        return cls(
            url.host,
            url.options.get("region"),
            url.options.get("endpoint_url"),
            create=create == "true",
            lease_s=url.seconds("lease_s", 60.0, 1, 43_000),
        )

    @property
    def name(self) -> str:
        return self._name

    async def open(self) -> None:
        await self._url(self._name)
        if not self._name.endswith("-dead"):
            await self._url(self._dead_name)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await self._send(self._name, bodies)

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        messages = await self._receive(min(limit, _BATCH), wait_s)
        if len(messages) == _BATCH and limit > _BATCH:
            calls = [
                self._receive(min(_BATCH, limit - start), 0)
                for start in range(_BATCH, min(limit, _BATCH * _THREADS), _BATCH)
            ]
            for more in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(more, list):  # a call that failed must not cost what the others have leased
                    messages += more
        for message in messages:
            if message.published is not None:
                self._oldest.received(message.published)
        return messages

    async def _receive(self, limit: int, wait_s: float) -> list[Message]:
        answer = await self._call(
            "receive_message",
            QueueUrl=await self._url(self._name),
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=min(_MAX_WAIT_S, round(wait_s)),
            VisibilityTimeout=max(1, round(self.lease_s / 2)),
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return [_message(raw) for raw in answer.get("Messages", [])]

    async def ack(self, messages: Sequence[Message]) -> None:
        url = await self._url(self._name)
        for chunk in chunks(messages, _BATCH):
            entries = [{"Id": str(i), "ReceiptHandle": message.receipt} for i, message in enumerate(chunk)]
            await self._call("delete_message_batch", QueueUrl=url, Entries=entries)

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        await self._set_visibility([message], min(delay_s, _MAX_DELAY_S))

    async def extend(self, messages: Sequence[Message]) -> None:
        await self._set_visibility(messages, self.lease_s)

    async def _set_visibility(self, messages: Sequence[Message], seconds: float) -> None:
        url = await self._url(self._name)
        for chunk in chunks(messages, _BATCH):
            # One that was deleted, or whose lease ran out, is refused by itself: nothing to do about it.
            entries = [
                {"Id": str(i), "ReceiptHandle": message.receipt, "VisibilityTimeout": -int(-seconds // 1)}
                for i, message in enumerate(chunk)
            ]
            await self._call("change_message_visibility_batch", QueueUrl=url, Entries=entries)

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        await self._send(self._dead_name, [letter])
        await self.ack([message])

    async def stats(self) -> QueueStats:
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        answer = await self._call("get_queue_attributes", QueueUrl=await self._url(self._name), AttributeNames=names)
        waiting, leased, delayed = (int(answer["Attributes"].get(name, 0)) for name in names)
        return QueueStats(waiting, leased + delayed, self._oldest.age_s(waiting, time.time()))

    def dead(self) -> SqsQueue:
        lease_s = 2 * self.lease_s  # nobody renews the leases of letters
        return SqsQueue(self._dead_name, self._region, self._endpoint_url, create=self._create, lease_s=lease_s)

    @property
    def _dead_name(self) -> str:
        return f"{self._name}-dead"

    async def _send(self, name: str, bodies: Sequence[bytes]) -> None:
        url = await self._url(name)
        small = all(len(body) * _BATCH <= _MAX_BATCH_BYTES for body in bodies)
        for chunk in chunks(bodies, _BATCH if small else 1):
            entries = [{"Id": str(i), "MessageBody": body.decode()} for i, body in enumerate(chunk)]
            answer = await self._call("send_message_batch", QueueUrl=url, Entries=entries)
            if failed := answer.get("Failed"):
                reasons = sorted({f"{one['Code']}: {one.get('Message', '')}" for one in failed})
                raise QueueUnavailable(
                    f"SQS queue '{name}' refused {len(failed)} of {len(entries)} messages: {'; '.join(reasons)}"
                )

    async def _url(self, name: str) -> str:
        if name not in self._urls:
            try:
                answer = await self._call("get_queue_url", QueueName=name)
            except _NoSuchQueue as error:
                if not self._create:
                    raise BadQueueUrl(
                        f"there is no SQS queue '{name}'; create it (and '{self._dead_name}' for dead letters), "
                        "or add create=true to the queue URL"
                    ) from error
                answer = await self._call(
                    "create_queue", QueueName=name, Attributes={"MessageRetentionPeriod": "1209600"}
                )
            self._urls[name] = answer["QueueUrl"]
        return self._urls[name]

    async def _call(self, operation: str, **arguments: Any) -> Any:
        if self._session is None:
            self._session = _Session(self._connect)
        session = self._session
        try:
            return await asyncio.get_running_loop().run_in_executor(session.threads, session.call, operation, arguments)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise QueueUnavailable(f"the SQS queue '{self._name}' cannot be used: the connection was closed") from None
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _MISSING:
                self._urls.clear()
                if operation == "get_queue_url":
                    raise _NoSuchQueue from error
            raise QueueUnavailable(f"the SQS queue '{self._name}' cannot be used: {error}") from error
        except BotoCoreError as error:
            raise QueueUnavailable(f"the SQS queue '{self._name}' cannot be used: {error}") from error

    def _connect(self) -> Any:
        config = Config(
            max_pool_connections=_THREADS,
            connect_timeout=5,
            read_timeout=_MAX_WAIT_S + 10,
            retries={"mode": "standard", "max_attempts": 3},
        )
        return boto3.session.Session().client(
            "sqs", region_name=self._region, endpoint_url=self._endpoint_url, config=config
        )


class _NoSuchQueue(Exception):
    pass


def _message(raw: dict[str, Any]) -> Message:
    attributes = raw.get("Attributes", {})
    sent = attributes.get("SentTimestamp")
    deliveries = int(attributes.get("ApproximateReceiveCount", 1))
    return Message(raw["Body"].encode(), deliveries, None if sent is None else int(sent) / 1000, raw["ReceiptHandle"])
