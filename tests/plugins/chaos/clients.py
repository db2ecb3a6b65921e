"""Those who hand in images: over HTTP, and right at the broker. Neither gives up where it may work in a moment."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from chaos.ledger import Ledger
from chaos.places import Place
from chaos.plan import UPLOADS, Image
from serve_app.queues import Queue, QueueUnavailable, queue_from_url

__all__ = ["Clients", "NotAccepted"]

_AT_A_TIME = 20
_PATIENCE_S = 120.0
_AGAIN_S = 0.3
_EVERY = 4  # one request of so many is sent once more although it was accepted


class NotAccepted(Exception):
    """A client was refused, was told something else than before, or has waited too long."""


class Clients:
    """They hand in images, and write down what was accepted.

    Args:
        place: of the queue and the images.
        jobs_url: of POST /v1/jobs.
        name: begins ids and idempotency keys.
        ledger: gets what was accepted.
    """

    def __init__(self, place: Place, jobs_url: str, name: str, ledger: Ledger) -> None:
        self._place = place
        self._url = jobs_url
        self._uploads_url = f"{jobs_url.removesuffix('jobs')}uploads"
        self._name = name
        self._ledger = ledger
        self.tried_again: Counter[str] = Counter()
        """What went wrong on the way, and how often."""

    async def hand_in(self, images: Sequence[Image], room: Callable[[], Awaitable[object]]) -> None:
        """Hand in all, in their order, in parts; ``room`` returns when there is room for one.

        Raises:
            NotAccepted: it is over for a client.
        """
        async with queue_from_url(self._place.queue) as queue, httpx.AsyncClient(timeout=30) as http:
            for start in range(0, len(images), _AT_A_TIME):
                await room()
                part = images[start : start + _AT_A_TIME]
                ways = {way: [image for image in part if image.way == way] for way in ("http", "raw", *UPLOADS)}
                number = int(part[0].name)
                await asyncio.gather(
                    self._over_http(http, number, ways["http"]),
                    self._as_form(http, number, ways["form"]),
                    self._one_by_one(http, ways["bytes"]),
                    self._past_the_gateway(http, number, ways["presigned"]),
                    self._at_the_broker(queue, ways["raw"]),
                )

    async def _over_http(self, http: httpx.AsyncClient, number: int, images: Sequence[Image]) -> None:
        if not images:
            return
        jobs = [{"uri": self._place.uri(image), "metadata": _metadata(image)} for image in images]
        await self._accepted(http, f"{self._name}-{number}", images, json=jobs)

    async def _as_form(self, http: httpx.AsyncClient, number: int, images: Sequence[Image]) -> None:
        if images:
            files = [("image", (f"{image.name}.png", self._place.bytes_of(image), "image/png")) for image in images]
            await self._accepted(http, f"{self._name}-{number}-form", images, files=files)

    async def _one_by_one(self, http: httpx.AsyncClient, images: Sequence[Image]) -> None:
        for image in images:
            body = {"content": self._place.bytes_of(image), "type": "image/png"}
            await self._accepted(http, f"{self._name}-{image.name}-bytes", [image], **body)

    async def _past_the_gateway(self, http: httpx.AsyncClient, number: int, images: Sequence[Image]) -> None:
        if not images:
            return
        addresses = await asyncio.gather(*(self._to_the_store(http, image) for image in images))
        self._ledger.presigned.update(addresses)
        jobs = [{"uri": address} for address in addresses]
        await self._accepted(http, f"{self._name}-{number}-presigned", images, json=jobs)

    async def _to_the_store(self, http: httpx.AsyncClient, image: Image) -> str:
        data = self._place.bytes_of(image)
        wanted = {"content_type": "image/png", "size": len(data)}
        signed = (await self._until(201, lambda: http.post(self._uploads_url, json=wanted))).json()
        await self._until(200, lambda: http.put(signed["url"], content=data, headers=signed["headers"]))
        address: str = signed["uri"]
        return address

    async def _accepted(self, http: httpx.AsyncClient, key: str, images: Sequence[Image], **body: Any) -> None:
        ids = await self._post(http, key, **body)
        self._ledger.jobs.update(zip(ids, images, strict=True))
        if zlib.crc32(key.encode()) % _EVERY == 0 and (again := await self._post(http, key, **body)) != ids:
            raise NotAccepted(f"the same Idempotency-Key gave other jobs: first {ids}, then {again}")

    async def _post(self, http: httpx.AsyncClient, key: str, type: str = "", **body: Any) -> list[str]:  # noqa: A002
        headers = {"Idempotency-Key": key} | ({"Content-Type": type} if type else {})
        answer = await self._until(202, lambda: http.post(self._url, **body, headers=headers))
        return [job["id"] for job in answer.json()["jobs"]]

    async def _until(self, status: int, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Send a request again until it is answered so."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            try:
                answer = await send()
            except httpx.TransportError as error:
                self.tried_again[type(error).__name__] += 1
            else:
                if answer.status_code == status:
                    return answer
                is_ours = answer.headers.get("content-type") == "application/problem+json"
                if answer.status_code < 500 and (is_ours or status == 200):
                    raise NotAccepted(f"{answer.request.method} {answer.url.path}: {answer.text}")
                self.tried_again[f"{answer.status_code}{'' if is_ours else ' of another server'}"] += 1
            await asyncio.sleep(_AGAIN_S)
        raise NotAccepted(f"a request did not work for {_PATIENCE_S:.0f} s: {dict(self.tried_again)}")

    async def _at_the_broker(self, queue: Queue, images: Sequence[Image]) -> None:
        bodies = [self._message(image) for image in images]
        messages = [body for image, body in zip(images, bodies, strict=True) for _ in range(image.messages)]
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                await queue.publish(messages)
                break
            except QueueUnavailable as error:
                if time.monotonic() > until:
                    raise NotAccepted(f"the broker took nothing for {_PATIENCE_S:.0f} s: {error}") from error
                self.tried_again["broker away"] += 1
                await asyncio.sleep(_AGAIN_S)
        for image, body in zip(images, bodies, strict=True):
            if image.is_job:
                self._ledger.jobs[self._id(image)] = image
            else:
                self._ledger.messages[body] = image

    def _id(self, image: Image) -> str:
        return f"{self._name}-{image.name}"

    def _message(self, image: Image) -> bytes:
        if image.kind == "no json":
            return f"image {image.name}".encode()
        job = {"id": self._id(image), "metadata": _metadata(image)}
        return json.dumps(job if image.kind == "no uri" else {**job, "uri": self._place.uri(image)}).encode()


def _metadata(image: Image) -> dict[str, object]:
    return {"image": image.name} | ({"slow": True} if image.is_slow else {})
