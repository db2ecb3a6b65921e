"""A small server of Google Cloud Storage, for tests: objects, listings, and writes on condition.

The emulators that can be had from package registries know no preconditions. Written from the public references of the
XML API, which obstore speaks (PUT, GET and DELETE of an object, GET of a bucket with list-type=2, the header
x-goog-if-generation-match), and of what Arrow reads by in the JSON API (Objects: list and get, also alt=media). A URL
with a signature is checked as the guide "V4 signing process" says, and a length as that of the header
x-goog-content-length-range.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["gcs_server"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: with two, Nagle's algorithm delays each answer by 40 ms
    objects: ClassVar[dict[str, bytes]] = {}
    written: ClassVar[dict[str, datetime]] = {}
    lock = threading.Lock()
    public_key: ClassVar[bytes] = b""

    def _name(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        return bucket, unquote(key), {name: values[0] for name, values in parse_qs(parts.query).items()}

    def do_PUT(self) -> None:
        bucket, key, _ = self._name()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if refusal := self._refusal(len(data)):
            self._answer(*refusal)
            return
        with self.lock:
            is_there = f"{bucket}/{key}" in self.objects
            if is_there and self.headers.get("x-goog-if-generation-match") == "0":
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.objects[f"{bucket}/{key}"] = data
            self.written[f"{bucket}/{key}"] = datetime.now(UTC)
        self._answer(200)

    def _refusal(self, length: int) -> tuple[int, bytes] | None:
        path, _, query = self.path.partition("?")
        shown, mark, signature = query.partition("&X-Goog-Signature=")
        if mark:
            asked = {name: values[0] for name, values in parse_qs(shown, strict_parsing=True).items()}
            names = asked["X-Goog-SignedHeaders"].split(";")
            lines = [f"{name}:{self.headers.get(name, '').strip()}" for name in names]
            request = "\n".join([self.command, path, shown, *lines, "", ";".join(names), "UNSIGNED-PAYLOAD"])
            scope = asked["X-Goog-Credential"].partition("/")[2]
            head = [asked["X-Goog-Algorithm"], asked["X-Goog-Date"], scope]
            text = "\n".join([*head, hashlib.sha256(request.encode()).hexdigest()])
            signed_at = datetime.strptime(asked["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) > signed_at + timedelta(seconds=int(asked["X-Goog-Expires"])):
                return 400, b"<Error><Code>ExpiredToken</Code></Error>"
            is_sorted = names == sorted(names) and list(asked) == sorted(asked) and "host" in names
            if head[0] != "GOOG4-RSA-SHA256" or not is_sorted or not self._is_signed(text, bytes.fromhex(signature)):
                return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
            if any(name.startswith("x-goog-") and name not in names for name in map(str.lower, self.headers)):
                return 403, b"<Error><Code>MalformedSecurityHeader</Code></Error>"
        least, most = map(int, self.headers.get("x-goog-content-length-range", f"0,{2**63}").split(","))
        if not least <= length <= most:
            return 400, b"<Error><Code>EntityTooLarge</Code></Error>"
        return None

    def _is_signed(self, text: str, signature: bytes) -> bool:
        key = serialization.load_pem_public_key(self.public_key)
        assert isinstance(key, rsa.RSAPublicKey)
        try:
            key.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o(?:/(.+))?", urlsplit(self.path).path):
            self._json_api(match[1], unquote(match[2] or ""), self._name()[2])
            return
        bucket, key, query = self._name()
        if not key:
            found = self._listed(bucket, query.get("prefix", ""), query.get("delimiter"))
            entries = "".join(
                f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
                f'<LastModified>{item["updated"]}</LastModified><ETag>"1"</ETag></Contents>'
                for item in found["items"]
            ) + "".join(
                f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in found["prefixes"]
            )
            self._answer(200, f"<ListBucketResult>{entries}</ListBucketResult>".encode())
        elif (data := self.objects.get(f"{bucket}/{key}")) is not None:
            self._answer(200, data, self.written[f"{bucket}/{key}"])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        bucket, key, _ = self._name()
        is_there = self.objects.pop(f"{bucket}/{key}", None) is not None
        self._answer(204 if is_there else 404)

    def _json_api(self, bucket: str, key: str, query: dict[str, str]) -> None:
        if not key:
            self._answer(200, json.dumps(self._listed(bucket, **query)).encode())
        elif (data := self.objects.get(f"{bucket}/{key}")) is None:
            self._answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif query.get("alt") == "media":
            self._answer(200, data)
        else:
            self._answer(200, json.dumps(self._described(bucket, key)).encode())

    def _listed(self, bucket: str, prefix: str = "", delimiter: str | None = None, **_: str) -> dict[str, Any]:
        folders, items = set(), []
        for name in sorted(self.objects):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/{prefix}"):
                continue
            rest, found, _after = key[len(prefix) :].partition(delimiter or "\0")
            if found:
                folders.add(prefix + rest + found)
            else:
                items.append(self._described(bucket, key))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _described(self, bucket: str, key: str) -> dict[str, str]:
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": key,
            "size": str(len(self.objects[f"{bucket}/{key}"])),
            "generation": "1",
            "updated": self.written[f"{bucket}/{key}"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def _answer(self, status: int, body: bytes = b"", written: datetime | None = None) -> None:
        if status == 200 and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(status)
        self.send_header("ETag", '"1"')
        if written is not None:
            self.send_header("Last-Modified", format_datetime(written, usegmt=True))
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def gcs_server(public_key: bytes = b"") -> Iterator[str]:
    """The server's URL, while the block lasts; the key, in PEM, checks signatures.

    It is a process of its own: while Arrow reads, this one's other Python threads may have to wait.
    """
    command = [sys.executable, __file__, public_key.decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def _serve() -> None:
    _Handler.public_key = sys.argv[1].encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve()
