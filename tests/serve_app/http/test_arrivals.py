"""Bodies that arrive slowly, and the requests that are worked on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from gateways import PNG, app_over, client_of, config, post, problem

from graph import Engine, LocalBackend
from serve_app.access.key_file import create_key
from serve_app.http import arrivals


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_GRACE_S", 0.2)


async def trickle(piece: bytes = b"x", pause_s: float = 0.02) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(pause_s)


async def nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def stalls() -> AsyncIterator[bytes]:
    yield PNG[:-1]
    await asyncio.Event().wait()


async def until(event: asyncio.Event) -> AsyncIterator[bytes]:
    yield PNG
    await event.wait()


async def poll(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("body", [trickle, nothing, stalls])
@pytest.mark.parametrize(
    "kind", ["image/png", "application/json", "multipart/form-data; boundary=b", "application/octet-stream"]
)
async def test_a_slow_body_is_ended(backend: LocalBackend, body: Callable[[], AsyncIterator[bytes]], kind: str) -> None:
    async with client_of(app_over(backend)) as client:
        response = await post(client, body(), kind)
        # a form is read as it arrives, and these are none
        assert response.status_code in ((408, 400) if kind.startswith("multipart") else (408,))
        if response.status_code == 408:
            problem(response, 408, "slow-body")
            assert response.headers["connection"] == "close"
        assert (await post(client)).status_code == 200


async def test_a_body_that_is_fast_enough_is_not(backend: LocalBackend) -> None:
    async def steady() -> AsyncIterator[bytes]:
        for at in range(0, len(PNG), 30):
            yield PNG[at : at + 30]
            await asyncio.sleep(0.02)

    async with client_of(app_over(backend)) as client:
        assert (await post(client, steady())).status_code == 200


async def test_no_minimum(backend: LocalBackend) -> None:
    async with client_of(app_over(backend, config(min_body_bytes_per_s=0, timeout_ms=600))) as client:
        problem(await post(client, stalls()), 408, "deadline-exceeded")


async def test_the_oldest_of_too_many_from_an_address_are_ended(backend: LocalBackend) -> None:
    app = app_over(backend, config(min_body_bytes_per_s=0, max_arriving_per_client=2))
    complete = asyncio.Event()
    async with client_of(app) as client, client_of(app, "192.0.2.2") as other:
        elsewhere = asyncio.create_task(post(other, until(complete)))
        tasks = []
        for _ in range(4):
            tasks.append(asyncio.create_task(post(client, until(complete))))
            await asyncio.sleep(0)
        await poll(lambda: tasks[0].done() and tasks[1].done())
        for task in tasks[:2]:
            problem(task.result(), 503, "overloaded")
        complete.set()
        assert {(await task).status_code for task in (*tasks[2:], elsewhere)} == {200}


class TestSlots:
    async def test_slow_bodies_take_none(self, backend: LocalBackend) -> None:
        rules = config(max_ongoing_requests=1, max_queued_requests=1, min_body_bytes_per_s=0)
        complete = asyncio.Event()
        async with client_of(app_over(backend, rules)) as client:
            slow = [asyncio.create_task(post(client, until(complete))) for _ in range(20)]
            await asyncio.sleep(0.05)
            for _ in range(3):
                assert (await post(client)).status_code == 200
            complete.set()
            await asyncio.gather(*slow)

    async def test_more_than_may_wait_are_refused(self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        release, running = asyncio.Event(), 0
        run: Callable[..., Awaitable[dict[str, object]]] = Engine.run

        async def held(*args: object, **kwargs: object) -> dict[str, object]:
            nonlocal running
            running += 1
            await release.wait()
            return await run(*args, **kwargs)

        monkeypatch.setattr(Engine, "run", held)
        async with client_of(app_over(backend, config(max_ongoing_requests=2, max_queued_requests=3))) as client:
            tasks = [asyncio.create_task(post(client)) for _ in range(10)]
            await poll(lambda: sum(task.done() for task in tasks) == 5)
            for task in tasks:
                if task.done():
                    problem(task.result(), 503, "overloaded")
            assert running == 2
            assert (await client.get("/healthz")).status_code == 200
            release.set()
            answers = [await task for task in tasks]
            assert sorted(answer.status_code for answer in answers) == [200] * 5 + [503] * 5
            assert (await post(client)).status_code == 200

    async def test_one_that_waits_is_given_up_at_its_deadline(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release = asyncio.Event()
        run: Callable[..., Awaitable[dict[str, object]]] = Engine.run

        async def held(*args: object, **kwargs: object) -> dict[str, object]:
            await release.wait()
            return await run(*args, **kwargs)

        monkeypatch.setattr(Engine, "run", held)
        async with client_of(app_over(backend, config(max_ongoing_requests=1))) as client:
            first = asyncio.create_task(post(client))
            await asyncio.sleep(0.05)
            late = await post(client, headers={"X-Request-Timeout-Ms": "50"})
            problem(late, 408, "deadline-exceeded")
            release.set()
            assert (await first).status_code == 200
            assert (await post(client)).status_code == 200


def ask(
    client: httpx.AsyncClient, host: str, path: str = "/v1/pipeline", method: str = "GET"
) -> Awaitable[httpx.Response]:
    return client.request(method, path, headers={"Host": host})


class TestHosts:
    LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

    @pytest.mark.parametrize(
        "host", ["localhost", "localhost:8000", "LOCALHOST:9", "localhost.", "127.0.0.1:8000", "[::1]", "[::1]:8000"]
    )
    async def test_known(self, backend: LocalBackend, host: str) -> None:
        async with client_of(app_over(backend, config(hosts=self.LOOPBACK))) as client:
            assert (await ask(client, host)).status_code == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example.localhost.x",
            "127.0.0.2",
            "[::2]:8000",
            "localhost:8000@evil.example",
            "",
            "localhost, evil.example",
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/pipeline", "/v1/jobs/x", "/docs", "/nothing"])
    async def test_unknown(self, backend: LocalBackend, host: str, path: str) -> None:
        async with client_of(app_over(backend, config(hosts=self.LOOPBACK))) as client:
            body = problem(await ask(client, host, path), 400, "unknown-host")
            assert "gateway.hosts" in body["detail"]

    async def test_probes_name_the_address_of_a_replica(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend, config(hosts=self.LOOPBACK))) as client:
            for path in ("/healthz", "/readyz"):
                assert (await ask(client, "10.1.2.3:30001", path)).status_code == 200

    async def test_wildcards(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend, config(hosts=["*.example.com"]))) as client:
            assert (await ask(client, "a.example.com")).status_code == 200
            assert (await ask(client, "example.com")).status_code == 400
            assert (await ask(client, "a-example.com")).status_code == 400

    async def test_any_by_default(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend)) as client:
            assert (await ask(client, "anything.example")).status_code == 200


class TestRouting:
    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/pipeline", "/v1/schema", "/docs", "/openapi.json"])
    async def test_head_is_get_without_the_body(self, backend: LocalBackend, path: str) -> None:
        async with client_of(app_over(backend)) as client:
            got, asked = await client.get(path), await client.head(path)
            assert asked.status_code == got.status_code == 200
            assert asked.content == b""
            assert asked.headers["content-length"] == got.headers["content-length"]
            assert (await client.head("/v1/images")).status_code == 405
            assert (await client.head("/nothing")).status_code == 404

    async def test_a_slash_at_the_end(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend)) as client:
            assert (await client.get("/v1/pipeline/")).status_code == 200
            response = await client.post("/v1/images/", content=PNG, headers={"Content-Type": "image/png"})
            assert response.status_code == 200
            assert (await client.get("/")).status_code == 200
            assert (await client.get("/v1/pipeline//")).status_code == 404


class TestOrigins:
    """Whether the pages of other hosts may call the API."""

    PREFLIGHT: ClassVar = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-api-key",
    }

    async def test_none_by_default(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend)) as client:
            headers = {"Origin": "https://app.example"}
            preflight = await client.options("/v1/images", headers=headers | self.PREFLIGHT)
            assert preflight.status_code == 405
            response = await client.get("/v1/pipeline", headers=headers)
            assert response.status_code == 200
            for each in (preflight, response):
                assert not [name for name in each.headers if name.startswith("access-control-")]

    async def test_listed(self, backend: LocalBackend, tmp_path: Path) -> None:
        create_key(tmp_path / "keys.json", "acme", ["infer"])
        rules = config(auth={"keys_file": str(tmp_path / "keys.json")}, cors_origins=["https://app.example"])
        async with client_of(app_over(backend, rules)) as client:
            headers = {"Origin": "https://app.example"}
            preflight = await client.options("/v1/images", headers=headers | self.PREFLIGHT)
            assert preflight.status_code == 200  # browsers send no credentials with it
            assert preflight.headers["access-control-allow-origin"] == "https://app.example"
            assert "access-control-allow-credentials" not in preflight.headers
            # and a page can read why it was refused
            refused = await post(client, headers=headers)
            problem(refused, 401)
            assert refused.headers["access-control-allow-origin"] == "https://app.example"
            assert "X-Request-Id" in refused.headers["access-control-expose-headers"]

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "http://app.example", "https://app.example:8443", "null"]
    )
    async def test_unlisted(self, backend: LocalBackend, origin: str) -> None:
        async with client_of(app_over(backend, config(cors_origins=["https://app.example"]))) as client:
            preflight = await client.options("/v1/images", headers={"Origin": origin} | self.PREFLIGHT)
            assert preflight.status_code == 400
            response = await client.get("/v1/pipeline", headers={"Origin": origin})
            for each in (preflight, response):
                assert "access-control-allow-origin" not in each.headers
