"""What every request passes on its way in: it gets its identity, and its body is counted while it streams."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from classifiers import TooManyBytes

__all__ = ["BodyLimit", "RequestIdentity"]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestIdentity:
    """Takes ``X-Request-Id`` from the client (1-128 visible ASCII characters), or makes one, and puts it on the response.

    Args:
        app: what the request goes to.
        set_header: off where the server around ``app`` sets the header: Serve does, to what it received or to what it made and put
            on the request, and a second one of ours would stand beside it.
    """

    def __init__(self, app: ASGIApp, set_header: bool = True) -> None:
        self._app = app
        self._set_header = set_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if self._set_header:
                    headers["X-Request-Id"] = request_id
                elif "X-Request-Id" in headers:
                    del headers["X-Request-Id"]
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Refuses a body of more than ``max_bytes`` bytes: by its announced length, else as soon as it has passed the limit."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if announced.isdigit() and int(announced) > self._max_bytes:
                raise self._too_many()
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_bytes:
                    raise self._too_many()
            return message

        await self._app(scope, counted, send)

    def _too_many(self) -> TooManyBytes:
        return TooManyBytes(f"the body has more than {self._max_bytes:,} bytes; send a smaller image", limit=self._max_bytes)
