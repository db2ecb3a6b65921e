"""Clients that keep their connections, and what they were answered."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from soak.steps import picture

__all__ = ["Answer", "Clients", "slow_bodies"]

_TIMEOUT_S = 120.0
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or what came in its place.

    Attributes:
        began, ended: by the monotonic clock.
        status: of the response; 0 where there was none.
        retry_after: whether the response says when to try again.
        result: of a 200.
        problem: what another response said, or the error of the connection.
    """

    began: float
    ended: float
    status: int
    retry_after: bool = False
    result: dict[str, Any] | None = None
    problem: str = ""


class Clients:
    """Post good images until they are stopped, each over one connection.

    Args:
        url: of the server.
        count: how many.
    """

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self._count = count
        self._stopped = asyncio.Event()
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """They are at it while the block lasts."""
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._all()), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stopped.set)
            thread.join(_TIMEOUT_S)

    def until(self, is_so: Callable[[Answer], bool], since: float, timeout_s: float) -> float | None:
        """Seconds from ``since`` to the first answer to a request that began later and is so; ``None``: there was none
        in time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for answer in self.answers[-2000:]:
                if answer.began > since and is_so(answer):
                    return answer.ended - since
            time.sleep(0.1)
        return None

    async def _all(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(self._count)))

    async def _one(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=_TIMEOUT_S) as client:
            while not self._stopped.is_set():
                self.answers.append(await post(client, picture(next(self._numbers))))
                await asyncio.sleep(_PAUSE_S)


async def post(client: httpx.AsyncClient, body: bytes) -> Answer:
    """Post an image."""
    began = time.monotonic()
    try:
        response = await client.post("/v1/images", content=body, headers={"Content-Type": "image/png"})
    except httpx.HTTPError as error:
        return Answer(began, time.monotonic(), 0, problem=type(error).__name__)
    ended, retry_after = time.monotonic(), "retry-after" in response.headers
    if response.status_code == 200:
        return Answer(began, ended, 200, result=response.json())
    return Answer(began, ended, response.status_code, retry_after, problem=response.text[:300])


@contextmanager
def slow_bodies(url: str, count: int, bytes_per_s: float) -> Iterator[None]:
    """Connections that send an image's body slowly, and begin anew where they are cut off."""
    stopped = threading.Event()
    body = picture(0)

    async def one() -> None:
        host, port = url.removeprefix("http://").split(":")
        fields = f"Host: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(body)}"
        while not stopped.is_set():
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"POST /v1/images HTTP/1.1\r\n{fields}\r\n\r\n".encode())
                for byte in body:
                    if stopped.is_set():
                        break
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1 / bytes_per_s)
                writer.close()
            except OSError:
                await asyncio.sleep(0.5)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(10)
