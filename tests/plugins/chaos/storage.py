"""S3 and SQS in this process, and an S3 that fails for a while when it is told to."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Self

import httpx

from benchmarks.intake.aws import S3, Connection, Sqs

__all__ = ["FailingAws"]

# of requests and answers; the connection on each side writes its own
_FORWARDED = ("etag", "last-modified", "content-range")
_OWN = ("host", "connection", "content-length", "transfer-encoding", "expect")

_ERROR = b"<Error><Code>InternalError</Code></Error>"


class FailingAws:
    """Two doors to the same objects and queues: behind ``url`` the store may fail, behind ``honest_url`` it does not.

    Objects and messages are in memory, and outlive nothing.

    Args:
        s3_url: another server that has the objects.
    """

    def __init__(self, s3_url: str | None = None) -> None:
        self._s3_url = s3_url
        self.s3, self.sqs = S3() if s3_url is None else _Elsewhere(s3_url), Sqs()
        self._kind, self._until, self._answers = "", 0.0, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def fail(self, kind: str, seconds: float) -> None:
        """Let every S3 request that comes in this time have an answer of 500 (``store answers 500``), or wait until
        it is over (``store hangs``)."""
        self._kind, self._until = kind, time.monotonic() + seconds

    def failing(self) -> tuple[str, float]:
        """How, and for how many seconds more; 0: it works."""
        return self._kind, max(0.0, self._until - time.monotonic())

    def is_done_all_the_same(self) -> bool:
        """Whether this request is to be carried out, and only its answer is lost: every other one."""
        self._answers += 1
        return self._answers % 2 == 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._listen(lambda: _Failing(self))
        self.honest_url = self._s3_url or self._listen(lambda: Connection(self.s3, self.sqs))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _listen(self, connection: Any) -> str:
        listening = asyncio.run_coroutine_threadsafe(self._loop.create_server(connection, "127.0.0.1", 0), self._loop)
        port = listening.result(10).sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


class _Elsewhere(S3):
    """Hands requests on to another server. They are few enough to wait for each other."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._http = httpx.Client(base_url=url, timeout=60)

    def call(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        sent = {name: value for name, value in headers.items() if name not in _OWN}
        url = f"{path}?{query}" if query else path
        # the length of the body is the header that HEAD is asked for
        answer = self._http.request("GET" if method == "HEAD" else method, url, headers=sent, content=body)
        extra = "".join(f"{name}: {answer.headers[name]}\r\n" for name in _FORWARDED if name in answer.headers)
        return answer.status_code, extra, answer.content


class _Failing(Connection):
    def __init__(self, aws: FailingAws) -> None:
        super().__init__(aws.s3, aws.sqs)
        self._aws = aws

    def on_message_complete(self) -> None:
        kind, left_s = self._aws.failing()
        if "x-amz-target" in self._headers or not left_s:  # SQS, or nothing is wrong
            super().on_message_complete()
        elif kind == "store hangs":
            # carried out late, also where the client has gone by then
            asyncio.get_running_loop().call_later(left_s, super().on_message_complete)
        else:
            method = self._parser.get_method().decode()
            path, _, query = self._url.decode().partition("?")
            if self._aws.is_done_all_the_same():
                self._s3.call(method, path, query, self._headers, b"".join(self._body))
            self._reset()
            self._write(500, "application/xml", "", _ERROR, method)
