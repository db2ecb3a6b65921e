"""Middleware: the identity of each request, and limits of its body while it streams."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi import Request
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from classifiers import TooManyBytes, VisionError
from graph import Overloaded
from serve_app.access import ClientAddresses, budget_key
from serve_app.http.access_log import log_request
from serve_app.http.arrivals import Arrival, Arrivals, Slots
from serve_app.http.problems import problem_response
from serve_app.refusals import UnsupportedBody
from serve_app.telemetry.log_fields import log_fields
from serve_app.telemetry.tracing import current_traceparent, span, traceparent_or_none
from serve_app.uris import is_listed

__all__ = ["BodyLimit", "KnownHosts", "LenientRouting", "MemoryBudget", "RequestIdentity"]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestIdentity:
    """Sets what the log and the response need in ``request.state``.

    ``request_id`` is the client's ``X-Request-Id`` (1-128 visible ASCII characters) or a new one, ``client`` its
    address, ``arrived`` the event loop's time; ``headers`` are added to the response, ``facts`` to the log line.

    Args:
        set_header: off where the server around ``app`` sets the header, as Serve does to the id that it received or
            made and put on the request: a second one would be added.
        log: whether each request has a line in the access log.
    """

    def __init__(self, app: ASGIApp, clients: ClientAddresses, *, set_header: bool = True, log: bool = True) -> None:
        self._app = app
        self._clients = clients
        self._set_header = set_header
        self._log = log

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
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response = MutableHeaders(scope=message)
                for name, value in headers.items():
                    response.append(name, value)  # unlike setting it, it does not search for others
            await send(message)

        with log_fields(request_id=request_id), _traced(scope, request_id) as current:
            headers |= {"traceparent": traceparent} if (traceparent := current_traceparent()) else {}
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                if status is not None:
                    current.set_attribute("http.response.status_code", status)
                if self._log:
                    log_request(scope, status)


@contextmanager
def _traced(scope: Scope, request_id: str) -> Iterator[Span]:
    """A span around a request that is about images; others are not worth one."""
    route = scope["path"].removeprefix(scope.get("root_path", ""))
    if scope["method"] != "POST" or route not in _TRACED:
        yield INVALID_SPAN
        return
    parent = traceparent_or_none(Headers(scope=scope).get("traceparent")) or ""
    facts = {"http.request.method": "POST", "http.route": route, "visiongraph.request_id": request_id}
    with span(f"POST {route}", facts, parent=parent, root=True, kind=SpanKind.SERVER) as current:
        yield current


_TRACED = ("/v1/images", "/v1/jobs")


class KnownHosts:
    """Refuses requests for a host that is not on the list.

    A web page can make its own host name resolve to this machine (DNS rebinding), and the browser then lets it read the
    responses of this server. The Host header still has the name of the page.

    Args:
        hosts: names and addresses, compared without the port; ``*.example.com`` means all names below it.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        # Probes send the address of a replica. Browsers always send the header.
        probed = scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) in _PROBES
        host = None if scope["type"] != "http" or probed else Headers(scope=scope).get("host")
        if host is None or is_listed(_PORT.sub("", host.strip()).removesuffix(".").strip("[]"), self._hosts):
            await self._app(scope, receive, send)
            return
        detail = "the Host header names no host of this server; the operator lists them as gateway.hosts"
        await problem_response(Request(scope), 400, "UnknownHost", detail)(scope, receive, send)


_PROBES = ("/healthz", "/readyz")
_PORT = re.compile(r":\d*$")


class LenientRouting:
    """Handles ``HEAD`` as ``GET`` without the body, and a path with a trailing slash as the path without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.endswith("/") and len(path) > len(scope.get("root_path", "")) + 1:
            scope = {**scope, "path": path[:-1]}
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class MemoryBudget:
    """The bytes that all requests of this process may hold together: ``size``."""

    def __init__(self, size: int) -> None:
        self.size = self._left = size

    def take(self, size: int) -> None:
        """Take bytes; they must be released even when this raises.

        Raises:
            Overloaded: fewer are left.
        """
        self._left -= size
        if self._left < 0:
            raise Overloaded("too many large images are under way; try again", retry_after_s=1)

    def give_back(self, size: int) -> None:
        """Release bytes."""
        self._left += size


class BodyLimit:
    """Counts bodies while they stream, and limits the bytes of all of them to the memory of this process.

    A body of more than ``max_bytes`` is refused by its Content-Length, or as soon as it exceeds the limit; one that has
    no room in ``memory`` as overloaded, one that is compressed as unsupported.

    Args:
        max_form_bytes: of a form with the images of jobs.
        slots: a request takes one when its body is complete, and keeps it until it has been answered.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_form_bytes: int, memory: MemoryBudget, arrivals: Arrivals, slots: Slots
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_form_bytes = max_form_bytes
        self._memory = memory
        self._arrivals = arrivals
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = _length(headers.get("content-length", ""))
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        is_jobs = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") == "/v1/jobs"
        max_bytes = self._max_form_bytes if is_form and is_jobs else self._max_bytes
        encoding = headers.get("content-encoding", "").strip()
        state = scope["state"]
        facts = state["facts"]
        facts["bytes"] = 0
        arrival = Arrival(self._arrivals, budget_key(state["client"]))
        has_slot = False

        async def counted() -> Message:
            nonlocal has_slot
            if announced > max_bytes:
                raise _too_many(max_bytes)
            if encoding.lower() not in ("", "identity"):
                raise UnsupportedBody(f"the body has the Content-Encoding '{encoding[:80]}'; send it without one")
            if has_slot:  # the body is complete
                return await receive()
            try:
                message = await arrival.receive(receive)
            except VisionError:
                state["headers"]["Connection"] = "close"  # the rest of the body is still being sent
                raise
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                facts["bytes"] += size
                if facts["bytes"] > max_bytes:
                    self._memory.give_back(-size)
                    raise _too_many(max_bytes)
                self._memory.take(size)
                if not message.get("more_body", False):
                    arrival.end()
                    await self._slots.take()
                    has_slot = True
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            arrival.end()
            if has_slot:
                self._slots.release()
            self._memory.give_back(facts["bytes"])


def _too_many(limit: int) -> TooManyBytes:
    return TooManyBytes(f"the body has more than {limit:,} bytes; send a smaller image, or fewer of them", limit=limit)


def _length(text: str) -> int:
    """The Content-Length; an invalid one counts as 0, since the body is counted anyway."""
    # Python refuses very long numbers, and accepts digits of every script
    return int(text[:_MAX_DIGITS]) if text.isascii() and text.isdigit() else 0


_MAX_DIGITS = 20
