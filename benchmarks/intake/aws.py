"""S3 and SQS from memory, as little as there can be: the parts of their protocols that this project uses.

moto, which the tests run against, takes 5 ms of CPU time a request, and looks at every message of a queue for each
receive: with it the broker would be measured. This takes a tenth of a millisecond or two, and holds to the same rules:
conditional writes, visibility timeouts, batches of ten. Signatures are not checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import re
import sys
import time
import uuid
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape, unescape

import httptools

__all__ = ["main"]

_STARTED = int(time.time())
_NOW = formatdate(_STARTED, usegmt=True)
_NOW_ISO = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(_STARTED))


class Sqs:
    """Queues by their names."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}

    def call(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        if action in ("CreateQueue", "GetQueueUrl"):
            name = body["QueueName"]
            if action == "CreateQueue":
                self.queues.setdefault(name, Queue())
            if name not in self.queues:
                raise LookupError("AWS.SimpleQueueService.NonExistentQueue")
            return {"QueueUrl": f"http://127.0.0.1/queue/{name}"}
        queue = self.queues[body["QueueUrl"].rsplit("/", 1)[1]]
        answer: dict[str, Any] = getattr(queue, action)(body)
        return answer


class Queue:
    """A queue: messages wait in a heap by when they may be delivered."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.visible: list[tuple[float, str]] = []

    def SendMessageBatch(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        sent = []
        for entry in body["Entries"]:
            identity, now = uuid.uuid4().hex, time.time()
            text = entry["MessageBody"]
            self.messages[identity] = {"body": text, "sent": str(int(now * 1000)), "count": 0, "at": now}
            heapq.heappush(self.visible, (now, identity))
            sent.append({"Id": entry["Id"], "MessageId": identity, "MD5OfMessageBody": _md5(text)})
        return {"Successful": sent, "Failed": []}

    def ReceiveMessage(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found: list[dict[str, Any]] = []
        now, hidden_s = time.time(), body.get("VisibilityTimeout", 30)
        while self.visible and len(found) < body.get("MaxNumberOfMessages", 1) and self.visible[0][0] <= now:
            at, identity = heapq.heappop(self.visible)
            message = self.messages.get(identity)
            if message is None or message["at"] != at:
                continue  # deleted, or its time was changed
            message["count"] += 1
            self._hide(identity, now + hidden_s)
            found.append(
                {
                    "MessageId": identity,
                    "ReceiptHandle": identity,
                    "Body": message["body"],
                    "MD5OfBody": _md5(message["body"]),
                    "Attributes": {"ApproximateReceiveCount": str(message["count"]), "SentTimestamp": message["sent"]},
                }
            )
        return {"Messages": found} if found else {}

    def _hide(self, identity: str, until: float) -> None:
        self.messages[identity]["at"] = until
        heapq.heappush(self.visible, (until, identity))

    def DeleteMessageBatch(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        for entry in body["Entries"]:
            self.messages.pop(entry["ReceiptHandle"], None)
        return {"Successful": [{"Id": entry["Id"]} for entry in body["Entries"]], "Failed": []}

    def ChangeMessageVisibilityBatch(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        for entry in body["Entries"]:
            if entry["ReceiptHandle"] in self.messages:
                self._hide(entry["ReceiptHandle"], time.time() + entry["VisibilityTimeout"])
        return {"Successful": [{"Id": entry["Id"]} for entry in body["Entries"]], "Failed": []}

    def GetQueueAttributes(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802, ARG002
        now = time.time()
        waiting = sum(message["at"] <= now for message in self.messages.values())
        leased = len(self.messages) - waiting
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(waiting),
                "ApproximateNumberOfMessagesNotVisible": str(leased),
                "ApproximateNumberOfMessagesDelayed": "0",
            }
        }


class S3:
    """Objects by bucket and key."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def call(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        name = f"{bucket}/{key}"
        if method == "POST":  # DeleteObjects
            gone = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for one in gone:
                self.objects.pop(f"{bucket}/{unescape(one)}", None)
            deleted = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in gone)
            return 200, "", f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if not key:
            return (200, "", b"") if method == "PUT" else (200, "", self._list(bucket, query))
        there = self.objects.get(name)
        if method == "PUT":
            if headers.get("if-none-match") == "*" and there is not None:
                return 412, "", _error("PreconditionFailed")
            self.objects[name] = body
            return 200, f'ETag: "{uuid.uuid4().hex}"\r\n', b""
        if method == "DELETE":
            self.objects.pop(name, None)
            return 204, "", b""
        if there is None:
            return 404, "", _error("NoSuchKey")
        extra = f'ETag: "0"\r\nLast-Modified: {_NOW}\r\n'
        if (wanted := headers.get("range")) and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(there) - int(last)
            end = min(int(last) if first and last else len(there) - 1, len(there) - 1)
            return 206, f"{extra}Content-Range: bytes {start}-{end}/{len(there)}\r\n", there[start : end + 1]
        return 200, extra, there

    def _list(self, bucket: str, query: str) -> bytes:
        asked = {key: values[0] for key, values in parse_qs(query).items()}
        start = f"{bucket}/{asked.get('prefix', '')}"
        after = asked.get("continuation-token", "")
        names = sorted(name for name in self.objects if name.startswith(start) and name > after)
        folders = ""
        if "delimiter" in asked:
            parts = {
                name[len(bucket) + 1 : name.index("/", len(start)) + 1] for name in names if "/" in name[len(start) :]
            }
            folders = "".join(f"<CommonPrefixes><Prefix>{escape(part)}</Prefix></CommonPrefixes>" for part in parts)
            names = [name for name in names if "/" not in name[len(start) :]]
        names = names[:1001]
        is_more, names = len(names) > 1000, names[:1000]
        entries = "".join(
            f"<Contents><Key>{escape(name[len(bucket) + 1 :])}</Key><Size>{len(self.objects[name])}</Size>"
            f"<LastModified>{_NOW_ISO}</LastModified><ETag>0</ETag></Contents>"
            for name in names
        )
        more = f"<NextContinuationToken>{escape(names[-1])}</NextContinuationToken>" if is_more else ""
        return (
            f"<ListBucketResult><KeyCount>{len(names)}</KeyCount><IsTruncated>{str(is_more).lower()}</IsTruncated>"
            f"{more}{entries}{folders}</ListBucketResult>"
        ).encode()


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 on one connection."""

    def __init__(self, s3: S3, sqs: Sqs) -> None:
        self._s3, self._sqs = s3, sqs
        self._parser: Any = None
        self._transport: Any = None
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._url = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method, url, headers, body = self._parser.get_method().decode(), self._url, self._headers, b"".join(self._body)
        self._reset()
        if "x-amz-target" in headers:
            self._answer_sqs(headers["x-amz-target"].rsplit(".", 1)[1], json.loads(body or b"{}"))
            return
        path, _, query = url.decode().partition("?")
        status, extra, data = self._s3.call(method, path, query, headers, body)
        self._write(status, "application/xml" if status >= 300 else "binary/octet-stream", extra, data, method)

    def _answer_sqs(self, action: str, body: dict[str, Any], until: float = 0.0) -> None:
        try:
            answer = self._sqs.call(action, body)
        except LookupError as error:
            self._write(400, "application/x-amz-json-1.0", "", json.dumps({"__type": str(error)}).encode())
            return
        wait_s = body.get("WaitTimeSeconds", 0)
        if action == "ReceiveMessage" and not answer and wait_s:
            until = until or time.monotonic() + wait_s
            if time.monotonic() < until:
                asyncio.get_running_loop().call_later(0.02, self._answer_sqs, action, body, until)
                return
        self._write(200, "application/x-amz-json-1.0", "", json.dumps(answer).encode())

    def _write(self, status: int, kind: str, extra: str, body: bytes, method: str = "") -> None:
        if self._transport.is_closing():
            return
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self._transport.write(head.encode() + (b"" if method == "HEAD" else body))


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


async def _serve(port: int) -> None:
    s3, sqs = S3(), Sqs()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(s3, sqs), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve at the port that is given."""
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
