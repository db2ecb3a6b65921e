"""Passwords in addresses are used, and neither shown nor stored."""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from toys import draw, encoded

from classifiers.imaging.decoding import ImageLimits
from graph import VisionPipeline
from serve_app.cli.input_files import SourceError, read

PNG = encoded(draw(("car", 10, 10, 50, 90)))


@pytest.fixture
def camera() -> Iterator[str]:
    """A camera's address, ``host:port``; it wants the user ``admin`` with the password ``hunter2``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Basic " + base64.b64encode(b"admin:hunter2").decode()
            self.send_response(200 if known and self.path.startswith("/a.png") else 403)
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_in_results(camera: str) -> None:
    uri = f"http://admin:hunter2@{camera}/a.png?token=hunter2"
    with VisionPipeline({"name": "toy", "pipeline": [{"name": "size", "class": "toys.Size"}]}) as pipeline:
        (result,) = pipeline.stream([functools.partial(read, uri)])
    assert isinstance(result, dict)
    assert result["image"]["uri"] == f"http://admin:***@{camera}/a.png?token=***"


@pytest.mark.parametrize("address", ["admin:hunter2@{}/nothing.png?sig=hunter2", "x:hunter2@{}/a.png"])
def test_in_errors(camera: str, address: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(f"http://{address.format(camera)}", ImageLimits())
    assert "hunter2" not in str(caught.value)
    assert "***" in str(caught.value)
