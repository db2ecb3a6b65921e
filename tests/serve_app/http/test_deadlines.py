"""Work that nobody waits for is ended: past the deadline, and when the client hangs up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateways import PNG, app_over, client_of, config, problem
from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
from ray.serve._private.http_util import parse_disconnect_disabled_header, parse_request_timeout_header

from graph import Engine, LocalBackend, load_plan
from serve_app.http.application import make_app

SLOW = [
    ("content-type", "multipart/form-data; boundary=b"),
]
BODY = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG + b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"slow": 1}\r\n--b--\r\n'
)


class Connection:
    """A client by hand: what it sends, when it hangs up, and what it got."""

    def __init__(self, app: Any, headers: dict[str, str] | None = None, body: bytes = BODY) -> None:
        self.app = app
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._body: list[bytes] = [body]
        sent = [*SLOW, *(headers or {}).items()]
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/images",
            "raw_path": b"/v1/images",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent],
            "client": ("192.0.2.1", 1234),
            "server": ("test", 80),
        }

    async def receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.sent if m["type"] == "http.response.start"), None)


class Counted:
    """Two slow steps, one after the other, that count their calls."""

    def __init__(self, folder: Path, seconds: float = 0.25) -> None:
        self.logs = [folder / "first", folder / "second"]
        plan = load_plan(
            {
                "pipeline": [
                    {
                        "name": "first",
                        "class": "toys.Sleeper",
                        "params": {"seconds": seconds, "log": str(self.logs[0])},
                    },
                    {
                        "name": "second",
                        "class": "toys.Sleeper",
                        "depends_on": "first",
                        "params": {"seconds": seconds, "log": str(self.logs[1])},
                    },
                ]
            }
        )
        self.backend = LocalBackend(plan)
        self.engine = Engine(plan, self.backend)

    def calls(self) -> list[int]:
        return [len(log.read_text().splitlines()) if log.exists() else 0 for log in self.logs]


async def until(condition: Any, seconds: float = 3) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.005)


async def test_no_model_is_called_after_the_deadline(tmp_path: Path) -> None:
    counted = Counted(tmp_path)
    async with client_of(make_app(lambda: counted.engine, config())) as client:
        started = time.monotonic()
        form = {"files": {"image": PNG}, "headers": {"X-Request-Timeout-Ms": "100"}}
        # the first is in the model when its deadline passes, the others wait for it
        responses = await asyncio.gather(*(client.post("/v1/images", **form) for _ in range(4)))
        assert time.monotonic() - started < 0.2  # within 100 ms
        for response in responses:
            assert problem(response, 408, "deadline-exceeded")["timeout_ms"] == 100
        calls = counted.calls()
        await asyncio.sleep(0.4)
        assert counted.calls() == calls
        assert calls[1] == 0
    counted.backend.close()


async def test_a_body_that_trickles_in_counts(backend: LocalBackend) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    async with client_of(app_over(backend, config(timeout_ms=150))) as client:
        started = time.monotonic()
        for kind in ("image/png", "application/json", "multipart/form-data; boundary=b"):
            response = await client.post("/v1/images", content=trickle(), headers={"Content-Type": kind})
            assert response.status_code in (408, 400)  # a form that cannot begin so is refused earlier
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("headers", [{}, {"x-request-disconnect-disabled": "?1"}, {"x-request-timeout-seconds": "-1"}])
async def test_a_client_that_hangs_up(tmp_path: Path, headers: dict[str, str]) -> None:
    """As uvicorn hands it on, and as Serve's replica does: with the header it passes uvicorn's own receive to us."""
    counted = Counted(tmp_path)
    app = make_app(lambda: counted.engine, config())
    connection = Connection(app, headers)
    disabled = parse_disconnect_disabled_header(dict(connection.scope["headers"]))
    assert disabled == ("x-request-disconnect-disabled" in headers)
    receive: Any = connection.receive
    watcher = None
    if not disabled:
        receive = ASGIDIReceiveProxy(connection.scope, connection.receive, asyncio.get_running_loop())
        watcher = receive.fetch_until_disconnect_task()
    request = asyncio.create_task(app(connection.scope, receive, connection.send))
    await until(lambda: counted.calls()[0] == 1)
    connection.gone.set()
    gone = time.monotonic()
    await request
    assert time.monotonic() - gone < 0.1
    assert connection.status == 499
    await asyncio.sleep(0.3)
    assert counted.calls() == [1, 0]
    if watcher is not None:
        await watcher
    counted.backend.close()


@pytest.mark.parametrize("value", ["0", "-1", "1000", "inf", "nan", "x"])
async def test_serves_own_header_does_not_raise_the_deadline(backend: LocalBackend, value: str) -> None:
    headers = {"x-request-timeout-seconds": value, "x-request-disconnect-disabled": "?1"}
    parse_request_timeout_header({b"x-request-timeout-seconds": value.encode()}, 1.0)  # what Serve makes of it
    connection = Connection(app_over(backend, config(timeout_ms=100)), headers)
    started = time.monotonic()
    await connection.app(connection.scope, connection.receive, connection.send)
    assert connection.status == 408
    assert time.monotonic() - started < 1  # a header would have made it 1000 s, or none


async def test_a_client_that_hangs_up_while_it_sends(backend: LocalBackend, caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection(app_over(backend))
    connection._body.clear()
    connection.gone.set()
    await connection.app(connection.scope, connection.receive, connection.send)
    assert connection.status == 499
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
