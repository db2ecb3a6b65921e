"""A small server of Google Cloud Storage's XML API, for tests: objects, listings, and writes on condition.

The emulators that can be had from package registries know no preconditions. Written from the API's public reference
(PUT, GET and DELETE of an object, GET of a bucket with list-type=2, the header x-goog-if-generation-match).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["gcs_server"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    lock: threading.Lock

    def _name(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        return bucket, unquote(key), {name: values[0] for name, values in parse_qs(parts.query).items()}

    def do_PUT(self) -> None:
        bucket, key, _ = self._name()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            is_there = f"{bucket}/{key}" in self.objects
            if is_there and self.headers.get("x-goog-if-generation-match") == "0":
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.objects[f"{bucket}/{key}"] = data
        self._answer(200)

    def do_GET(self) -> None:
        bucket, key, query = self._name()
        if not key:
            start = f"{bucket}/{query.get('prefix', '')}"
            found = sorted(name for name in self.objects if name.startswith(start))
            entries = "".join(
                f"<Contents><Key>{escape(name[len(bucket) + 1 :])}</Key><Size>{len(self.objects[name])}</Size>"
                '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag></Contents>'
                for name in found
            )
            self._answer(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())
        elif (data := self.objects.get(f"{bucket}/{key}")) is not None:
            self._answer(200, data)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_DELETE(self) -> None:
        bucket, key, _ = self._name()
        is_there = self.objects.pop(f"{bucket}/{key}", None) is not None
        self._answer(204 if is_there else 404)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def gcs_server() -> Iterator[str]:
    """The server's URL, while the block lasts."""
    handler = type("Handler", (_Handler,), {"objects": {}, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
