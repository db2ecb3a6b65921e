"""What every request passes on its way in: it gets its identity, and its body is counted while it streams."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from classifiers import TooManyBytes
from graph import Overloaded
from serve_app.http.clients import Clients

__all__ = ["BodyLimit", "RequestIdentity", "Room"]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestIdentity:
    """Gives a request what the log and the answer need, in ``request.state``.

    ``request_id`` is the client's ``X-Request-Id`` (1-128 visible ASCII characters) or a new one, ``client`` its
    address, ``arrived`` the event loop's time; ``headers`` go onto the answer, ``facts`` into the log.

    Args:
        set_header: off where the server around ``app`` sets the header: Serve does, to what it received or to what it
            made and put on the request, and a second one of ours would stand beside it.
    """

    def __init__(self, app: ASGIApp, clients: Clients, set_header: bool = True) -> None:
        self._app = app
        self._clients = clients
        self._set_header = set_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        headers = {"X-Request-Id": request_id} if self._set_header else {}
        scope.setdefault("state", {}).update(
            request_id=request_id,
            client=self._clients.address(scope),
            arrived=time.monotonic(),
            headers=headers,
            facts={},
        )

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in headers.items():
                    answer.append(name, value)  # which, unlike setting it, does not look for others
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Room:
    """Bytes that all requests of this process may hold together.

    Attributes:
        size: so many.
    """

    def __init__(self, size: int) -> None:
        self.size = self._left = size

    def take(self, size: int) -> None:
        """Take some; they must be given back even where this raises.

        Raises:
            Overloaded: there are not so many left.
        """
        self._left -= size
        if self._left < 0:
            raise Overloaded("too many large images are under way; try again", retry_after_s=1)

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size


class BodyLimit:
    """Counts bodies while they stream, and holds the bytes of all of them to what this process has memory for.

    A body of more than ``max_bytes`` is refused by its announced length, else as soon as it has passed the limit. One
    for which there is no room beside the others is refused with "overloaded".
    """

    def __init__(self, app: ASGIApp, max_bytes: int, room: Room) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _length(Headers(scope=scope).get("content-length", ""))
        facts = scope["state"]["facts"]
        facts["bytes"] = 0

        async def counted() -> Message:
            if announced > self._max_bytes:
                raise self._too_many()
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                facts["bytes"] += size
                if facts["bytes"] > self._max_bytes:
                    self._room.give_back(-size)
                    raise self._too_many()
                self._room.take(size)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._room.give_back(facts["bytes"])

    def _too_many(self) -> TooManyBytes:
        return TooManyBytes(
            f"the body has more than {self._max_bytes:,} bytes; send a smaller image", limit=self._max_bytes
        )


def _length(text: str) -> int:
    """An announced length. What is none counts as 0: the body is counted anyway."""
    # Python refuses to read very long numbers, and takes digits of every script.
    return int(text[:_MAX_DIGITS]) if text.isascii() and text.isdigit() else 0


_MAX_DIGITS = 20
