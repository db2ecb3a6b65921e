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
from serve_app.queues.protocol import Message, Queue, QueueStats, QueueUnavailable, chunks
from serve_app.queues.urls import BadQueueUrl, QueueUrl

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
    """``sqs://NAME?region=…&endpoint_url=…``: a standard queue; ``&create=true`` creates missing queues.

    ``endpoint_url`` is for other servers than AWS's. ``lease_s`` is the visibility timeout of a delivery that is
    renewed. The first one is half of that: an answer that is lost with its connection keeps its messages invisible for
    as long.
    """

    kind: ClassVar[str] = "SQS queue"

    def __init__(self, url: QueueUrl, name: str | None = None) -> None:
        url.only("region", "endpoint_url", "create", "lease_s")
        if not url.host or url.host.endswith(".fifo"):
            raise BadQueueUrl(f"{url.base} must name a standard queue: sqs://NAME?region=REGION")
        super().__init__(url, name or url.host)
        self._create = url.flag("create")
        self.lease_s = url.number("lease_s", 60.0, 1, 43_000)
        if name is not None:
            self.lease_s *= 2  # nobody renews the leases of letters
        self._session: _Session | None = None
        self._urls: dict[str, str] = {}
        self._oldest = OldestEstimate()

    async def open(self) -> None:
        await self._url_of(self.name)
        if not self.name.endswith("-dead"):
            await self._url_of(self.dead_name)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await self._send(self.name, bodies)

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
        self._oldest.received(messages)
        return messages

    async def _receive(self, limit: int, wait_s: float) -> list[Message]:
        answer = await self._call(
            "receive_message",
            QueueUrl=await self._url_of(self.name),
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=min(_MAX_WAIT_S, round(wait_s)),
            VisibilityTimeout=max(1, round(self.lease_s / 2)),
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return [_message(raw) for raw in answer.get("Messages", [])]

    async def ack(self, messages: Sequence[Message]) -> None:
        url = await self._url_of(self.name)
        for chunk in chunks(messages, _BATCH):
            entries = [{"Id": str(i), "ReceiptHandle": message.receipt} for i, message in enumerate(chunk)]
            await self._call("delete_message_batch", QueueUrl=url, Entries=entries)

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        await self._set_visibility([message], min(delay_s, _MAX_DELAY_S))

    async def extend(self, messages: Sequence[Message]) -> None:
        await self._set_visibility(messages, self.lease_s)

    async def _set_visibility(self, messages: Sequence[Message], seconds: float) -> None:
        url = await self._url_of(self.name)
        for chunk in chunks(messages, _BATCH):
            # SQS refuses those that were deleted or whose lease has expired, which is no error.
            entries = [
                {"Id": str(i), "ReceiptHandle": message.receipt, "VisibilityTimeout": -int(-seconds // 1)}
                for i, message in enumerate(chunk)
            ]
            await self._call("change_message_visibility_batch", QueueUrl=url, Entries=entries)

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        await self._send(self.dead_name, [letter])
        await self.ack([message])

    async def stats(self) -> QueueStats:
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        answer = await self._call("get_queue_attributes", QueueUrl=await self._url_of(self.name), AttributeNames=names)
        waiting, leased, delayed = (int(answer["Attributes"].get(name, 0)) for name in names)
        return QueueStats(waiting, leased + delayed, self._oldest.age_s(waiting, time.time()))

    async def _send(self, name: str, bodies: Sequence[bytes]) -> None:
        url = await self._url_of(name)
        small = all(len(body) * _BATCH <= _MAX_BATCH_BYTES for body in bodies)
        for chunk in chunks(bodies, _BATCH if small else 1):
            entries = [{"Id": str(i), "MessageBody": body.decode()} for i, body in enumerate(chunk)]
            answer = await self._call("send_message_batch", QueueUrl=url, Entries=entries)
            if failed := answer.get("Failed"):
                reasons = sorted({f"{one['Code']}: {one.get('Message', '')}" for one in failed})
                raise QueueUnavailable(
                    f"SQS queue '{name}' refused {len(failed)} of {len(entries)} messages: {'; '.join(reasons)}"
                )

    async def _url_of(self, name: str) -> str:
        if name not in self._urls:
            answer = await self._call("get_queue_url", QueueName=name)
            if answer is None and self._create:
                attributes = {"MessageRetentionPeriod": "1209600"}
                answer = await self._call("create_queue", QueueName=name, Attributes=attributes)
            if answer is None:
                raise BadQueueUrl(
                    f"there is no SQS queue '{name}'; create it (and '{self.dead_name}' for dead letters), "
                    "or add create=true to the queue URL"
                )
            self._urls[name] = answer["QueueUrl"]
        return self._urls[name]

    async def _call(self, operation: str, **arguments: Any) -> Any:
        """The answer; ``None`` where ``get_queue_url`` finds no queue."""
        if self._session is None:
            self._session = _Session(self._connect)
        session = self._session
        with self.translating((ClientError, BotoCoreError), lambda: self._session is not session):
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    session.threads, session.call, operation, arguments
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _MISSING:
                    raise
                self._urls.clear()
                if operation != "get_queue_url":
                    raise
                return None

    def _connect(self) -> Any:
        options = self._url.options
        config = Config(
            max_pool_connections=_THREADS,
            connect_timeout=5,
            read_timeout=_MAX_WAIT_S + 10,
            retries={"mode": "standard", "max_attempts": 3},
        )
        return boto3.session.Session().client(
            "sqs", config=config, region_name=options.get("region"), endpoint_url=options.get("endpoint_url")
        )


def _message(raw: dict[str, Any]) -> Message:
    attributes = raw.get("Attributes", {})
    sent = attributes.get("SentTimestamp")
    deliveries = int(attributes.get("ApproximateReceiveCount", 1))
    return Message(raw["Body"].encode(), deliveries, None if sent is None else int(sent) / 1000, raw["ReceiptHandle"])
