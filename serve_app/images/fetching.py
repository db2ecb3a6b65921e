"""Fetches the image at a client's ``uri``, and nothing from networks that only this server can reach."""

from __future__ import annotations

import asyncio
import socket
import string
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import quote, urljoin

import httpcore
import httpx

from classifiers import TooManyBytes, UnsupportedImage
from classifiers.imaging import served_format
from graph import DeadlineExceeded, Overloaded
from graph.engine import deadline
from serve_app.buckets import gcs_bucket, s3_bucket
from serve_app.config import FetchConfig
from serve_app.images.addresses import AddressRules
from serve_app.images.bucket_images import BucketImages
from serve_app.images.kept_places import KeptPlaces
from serve_app.images.local_files import FileImages
from serve_app.refusals import FetchFailed, Forbidden
from serve_app.uris import is_listed, scheme_of, web_address

__all__ = ["Fetcher", "resolve"]

_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (408, 425, 429)
_HEADERS = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", "visiongraph")]
_MAX_LOCATION = 2048
_NO_IMAGE = ("text/", "application/json", "application/xml", "application/xhtml+xml")
_PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " "
_KEEP_ALIVE_S = 15.0


class Fetcher:
    """Fetches images as the ``fetch:`` block allows. Use it from one event loop.

    Args:
        files: folders that ``file://`` addresses may lie in; ``None``: there are no such addresses.
        kept: places whose objects and files are not fetched, whatever the rules allow.
        keep_alive: leave connections open for the next image of the same host. It is then fetched from the address that
            was checked when the connection was opened.
    """

    def __init__(
        self,
        config: FetchConfig,
        max_bytes: int,
        *,
        files: Sequence[str] | None = None,
        kept: KeptPlaces | None = None,
        keep_alive: bool = False,
    ) -> None:
        self._config = config
        self._kept = kept
        self._keep_alive = keep_alive
        self._max_bytes = max_bytes
        self._under_way = 0
        s3, gs = config.s3, config.gs
        self._stores: dict[str, BucketImages | FileImages] = {
            "s3": BucketImages("s3", s3.allow, lambda name: s3_bucket(name, s3.region, s3.endpoint_url), max_bytes),
            "gs": BucketImages("gs", gs.allow, lambda name: gcs_bucket(name, gs.endpoint_url), max_bytes),
        }
        if files is not None:
            self._stores["file"] = FileImages(files, max_bytes)

    def check(self, uri: str, key_id: str, tenant: str) -> None:
        """Check whether a client may have an address fetched, as far as possible without a request.

        Raises:
            Forbidden: it may not.
        """
        scheme = scheme_of(uri)
        if scheme in self._stores:
            self._stores[scheme].check(uri, key_id, tenant)
            if self._kept is not None:
                self._kept.check(uri)
        elif scheme in self._config.schemes:
            self._checked(uri)
        else:
            listed = {"s3": self._config.s3.allow, "gs": self._config.gs.allow}
            served = [*self._config.schemes, *(name for name, allow in listed.items() if allow)]
            fix = f"send {' or '.join(f'{s}://...' for s in served)}, or the image's bytes" if served else _BYTES
            raise Forbidden(f"addresses of this kind are not fetched here; {fix}")

    async def fetch(self, uri: str, key_id: str, tenant: str, version: str | None = None) -> bytes:
        """Fetch an image for a client; ``version``: of an object in a bucket, the newest by default.

        Raises:
            Forbidden: the address is not allowed, or not for this client.
            FetchFailed: it does not answer, or not with the image.
            UnsupportedImage: the answer is not an image.
            TooManyBytes: the image is over the limit.
            Overloaded: too many images are being fetched.
        """
        self.check(uri, key_id, tenant)
        store = self._stores.get(scheme_of(uri))
        if self._under_way >= self._config.concurrent:
            raise Overloaded("too many images are being fetched; try again", retry_after_s=1)
        self._under_way += 1
        try:
            async with deadline(self._config.timeout_s):
                return await (self._get(uri) if store is None else store.read(uri, version))
        except DeadlineExceeded as error:
            detail = f"the image was not received within {self._config.timeout_s:g} s; send its bytes, or try again"
            raise FetchFailed(detail, retryable=True) from error
        finally:
            self._under_way -= 1

    async def _get(self, uri: str) -> bytes:
        for _ in range(self._config.max_redirects + 1):
            url = self._checked(uri)
            try:
                target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
                headers = [("Host", url.netloc.decode("ascii")), *_HEADERS]
                async with self._connections.stream("GET", target, headers=headers) as answer:
                    if answer.status not in _REDIRECTS:
                        return await self._image(answer)
                    uri = self._next(url, answer)
            except httpcore.TimeoutException as error:
                raise FetchFailed(f"{url.host} did not answer in time", retryable=True) from error
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
                detail = f"{url.host} could not be reached, or is not a web server"
                raise FetchFailed(detail, retryable=True) from error
        raise FetchFailed(f"the address has more than {self._config.max_redirects} redirects; send the last address")

    def _checked(self, uri: str) -> httpx.URL:
        """Parse an address once: what is checked is what is requested."""
        url = web_address(uri)
        host = url.raw_host.decode("ascii")
        if url.scheme not in self._config.schemes:
            raise Forbidden("the address redirects to a scheme that is not allowed here")
        port = url.port or (443 if url.scheme == "https" else 80)
        if port not in self._config.ports:
            raise Forbidden(f"port {port} is not allowed here")
        names = (host.rstrip("."), url.host.rstrip("."))  # a pattern may be written either way
        if self._config.hosts and not any(is_listed(name, self._config.hosts) for name in names):
            raise Forbidden(f"{host} is not one of the hosts that images are fetched from")
        return url

    def _next(self, url: httpx.URL, answer: httpcore.Response) -> str:
        location = _as_text(_header(answer, b"location").encode("latin-1"))
        if not location or len(location) > _MAX_LOCATION:
            raise FetchFailed(f"{url.host} answered {answer.status} without a valid Location")
        uri = urljoin(str(url), location)
        if url.scheme == "https" and not uri.lower().startswith("https:"):
            raise Forbidden("the address redirects from https to another scheme")
        return uri

    async def _image(self, answer: httpcore.Response) -> bytes:
        if answer.status != 200:
            detail = f"the source answered {answer.status}; the image must be available without a login"
            raise FetchFailed(detail, retryable=answer.status >= 500 or answer.status in _LATER)
        kind = _header(answer, b"content-type").partition(";")[0].strip().lower()
        taken = self._config.content_types
        if taken and kind not in taken:
            came = f"'{kind[:80]}'" if kind else "no Content-Type"
            raise UnsupportedImage(f"the source sent {came}; it must be {', '.join(taken)}")
        if _header(answer, b"content-encoding") not in ("", "identity"):
            raise FetchFailed("the source compressed the image; it must send it without a Content-Encoding")
        announced = _header(answer, b"content-length")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_many()
        data = bytearray()
        async for chunk in answer.aiter_stream():
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_many()
        if kind.startswith(_NO_IMAGE) and served_format(bytes(data[:16])) is None:  # a page to log in, for example
            raise UnsupportedImage(f"the source sent '{kind[:80]}', and its bytes are not an image")
        return bytes(data)

    @cached_property
    def _connections(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=self._config.concurrent,
            max_keepalive_connections=None if self._keep_alive else 0,  # 0: each fetch resolves and checks anew
            keepalive_expiry=_KEEP_ALIVE_S,
            network_backend=_CheckedNetwork(AddressRules(self._config.private_networks)),
        )

    def _too_many(self) -> TooManyBytes:
        return TooManyBytes(
            f"the image has more than {self._max_bytes:,} bytes; send a smaller one", limit=self._max_bytes
        )


_BYTES = "send the image's bytes"

# A resolver that hangs must not block the threads of everything else.
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolve")


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system resolves it: numbers in unusual notations too."""
    found = await asyncio.get_running_loop().run_in_executor(
        _RESOLVERS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _CheckedNetwork(httpcore.AnyIOBackend):
    """Connects to the address that was checked, so that the name cannot resolve to another one in between."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect."""
        name = host.strip("[]").rstrip(".")
        try:
            addresses = await resolve(name, port)
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"{name} has no address", retryable=True) from error
        # one that is not allowed is enough: an honest host has none
        if not addresses or not all(self._rules.allows(address) for address in addresses):
            raise Forbidden(f"{name} is not on the public internet; send the image's bytes")
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses[:4]:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(name)


def _as_text(location: bytes) -> str:
    """Servers send names unencoded, mostly in UTF-8; other bytes are percent-encoded, as browsers do."""
    try:
        return location.decode()
    except UnicodeDecodeError:
        return quote(location, safe=_PRINTABLE)


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == name), "")
