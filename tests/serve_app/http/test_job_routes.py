"""Jobs over HTTP: all of a list or none, whose they are, and how they end, with a real queue and a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from gateways import app_over, client_of, config, problem
from intakes import LIMITS, Place, consuming, place, until

from graph import LocalBackend
from serve_app.access.key_file import create_key
from serve_app.config.intake_config import SourcesConfig
from serve_app.http.job_desk import JobDesk
from serve_app.images.job_sources import Sources
from serve_app.queues import Queue, QueueUnavailable, queue_from_url
from serve_app.results import Outcome, ResultStore, objects_from_uri


@asynccontextmanager
async def gateway(
    at: Place, backend: LocalBackend, queue: Queue | None = None, store: ResultStore | None = None, **rules: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that takes jobs for ``at``; files of its folder may be named."""
    settings = config(**rules)
    sources = Sources(SourcesConfig(files=(str(at.images),)), settings.fetch, LIMITS, 4, at.uploads, at.kept)
    desk = JobDesk(queue or queue_from_url(at.url), store or at.store, sources, at.uploads)
    async with client_of(app_over(backend, settings, desk=desk, kept=at.kept)) as client:
        yield client


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as found:
        yield found


async def waiting(at: Place) -> int:
    async with queue_from_url(at.url) as queue:
        return (await queue.stats()).waiting or 0


async def test_jobs_from_the_first_request_to_the_result(at: Place, backend: LocalBackend) -> None:
    uri = at.image()
    async with gateway(at, backend) as client:
        jobs = [{"uri": uri, "metadata": {"n": 1}, "annotate": True}, {"uri": at.image("bad.png", b"no image")}]
        response = await client.post("/v1/jobs", json=jobs)
        assert response.status_code == 202, response.text
        (good, bad) = response.json()["jobs"]
        assert good["status_url"] == f"/v1/jobs/{good['id']}"
        assert (await client.get(good["status_url"])).json() == {
            "id": good["id"],
            "status": "queued",
            "result": None,
            "error": None,
        }
        problem(await client.get(f"{good['status_url']}/picture"), 404, "not-found")
        async with consuming(at, backend):
            await until(at.is_empty)
        done = (await client.get(good["status_url"])).json()
        assert (done["status"], done["error"]) == ("succeeded", None)
        assert (done["result"]["id"], done["result"]["metadata"]) == (good["id"], {"n": 1})
        picture = await client.get(f"{good['status_url']}/picture")
        assert (picture.headers["content-type"], picture.content[:2]) == ("image/jpeg", b"\xff\xd8")
        failed = (await client.get(bad["status_url"])).json()
        assert (failed["status"], failed["result"], failed["error"]["type"]) == ("failed", None, "BadImage")


async def test_one_job_needs_no_list(at: Place, backend: LocalBackend) -> None:
    async with gateway(at, backend) as client:
        response = await client.post("/v1/jobs", json={"uri": at.image()})
    assert response.status_code == 202
    assert len(response.json()["jobs"]) == await waiting(at) == 1


async def test_null_counts_as_left_out(at: Place, backend: LocalBackend) -> None:
    async with gateway(at, backend) as client:
        body = {"uri": at.image(), "metadata": None, "annotate": None, "id": None, "base64": None}
        for sent in (body, [body]):
            response = await client.post("/v1/jobs", json=sent)
            assert response.status_code == 202, response.text
        async with consuming(at, backend):
            await until(at.is_empty)
        job = response.json()["jobs"][0]
        assert (await client.get(job["status_url"])).json()["result"]["metadata"] == {}
        problem(await client.get(f"{job['status_url']}/picture"), 404)
        problem(await client.post("/v1/jobs", json={"uri": None}), 400, "malformed")


@pytest.mark.parametrize("job_id", ["2026/11/a b#1?.png", "ü" * 200, "../../etc", "%2F", "7"])
async def test_every_id_that_a_message_may_have_can_be_asked_for(at: Place, backend: LocalBackend, job_id: str) -> None:
    await at.publish({"id": job_id, "uri": at.image()})
    async with gateway(at, backend) as client, consuming(at, backend):
        await until(at.is_empty)
        response = await client.get(f"/v1/jobs/{quote(job_id, safe='')}")
        assert (response.json()["id"], response.json()["status"]) == (job_id, "succeeded")
        problem(await client.get(f"/v1/jobs/{quote(job_id, safe='')}/picture"), 404, "not-found")
        problem(await client.get(f"/v1/jobs/{'x' * 201}"), 404, "not-found")


async def test_a_list_is_accepted_whole_or_not_at_all(at: Place, backend: LocalBackend) -> None:
    good = {"uri": at.image()}
    async with gateway(at, backend) as client:
        for bad, status, where in [
            ({"uri": "ftp://example.com/a.png"}, 403, "[1].uri: addresses of this kind"),
            ({"uri": "file:///etc/hostname"}, 403, "[1].uri: the file is in none of the folders"),
            ({"uri": "s3://photos/a.png"}, 403, "[1].uri: this object is in none of the buckets"),
            ({}, 400, "1.uri: is missing"),
            ({"uri": "", "metadata": {}}, 400, "1.uri"),
            ({**good, "meta": {}}, 400, "no key '1.meta'; did you mean 'metadata'?"),
            ({**good, "metadata": [1]}, 400, "1.metadata"),
            ({**good, "metadata": {"a": "x" * 70_000}}, 400, "[1].metadata has more than 65,536 bytes"),
        ]:
            response = await client.post("/v1/jobs", json=[good, bad])
            assert where in problem(response, status)["detail"]
        for body in (b"[]", b"{", b"3", b'[{"uri": "\\ud800"}]'):
            sent = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
            problem(sent, 400, "malformed")
        problem(await client.post("/v1/jobs", json=[good] * 1001), 400, "malformed")
        problem(await client.post("/v1/jobs", content=b"x", headers={"Content-Type": "text/csv"}), 415)
    assert not list(at.store.objects.keys("jobs/"))
    assert await waiting(at) == 0


class Refusing(Queue):
    """Takes some of the messages, and then the broker is away."""

    def __init__(self, queue: Queue, takes: int) -> None:
        self._queue, self._takes = queue, takes

    @property
    def name(self) -> str:
        return self._queue.name

    async def publish(self, bodies: Any) -> None:
        if len(bodies) <= self._takes:
            await self._queue.publish(bodies)
            return
        await self._queue.publish(bodies[: self._takes])
        raise QueueUnavailable("the broker is away")

    async def _no(self, *_: Any) -> Any:
        raise NotImplementedError

    open = close = receive = ack = nack = extend = dead_letter = stats = _no

    def dead(self) -> Queue:
        return self._queue.dead()


async def test_what_the_broker_did_not_take_is_taken_back(at: Place, backend: LocalBackend) -> None:
    jobs = [{"uri": at.image()}] * 3
    async with gateway(at, backend, Refusing(queue_from_url(at.url), takes=2)) as client:
        problem(await client.post("/v1/jobs", json=jobs), 503, "jobs-unavailable")
        markers = list(at.store.objects.keys("jobs/"))
        for key in markers:
            job_id = key.split("/")[-1].removesuffix(".json")
            problem(await client.get(f"/v1/jobs/{job_id}"), 404)
    assert len(markers) == 3
    async with consuming(at, backend) as consumer:
        await until(at.is_empty)
        assert consumer.in_hand == 0
    assert not list(at.store.objects.keys("outcomes/"))


async def test_the_same_idempotency_key_gives_the_same_jobs(at: Place, backend: LocalBackend) -> None:
    jobs = [{"uri": at.image()}, {"uri": at.image("b.png")}]
    key = {"Idempotency-Key": "order-7"}
    refusing = Refusing(queue_from_url(at.url), takes=1)
    async with gateway(at, backend, refusing) as client:
        problem(await client.post("/v1/jobs", json=jobs, headers=key), 503)
        refusing._takes = 2
        first = await client.post("/v1/jobs", json=jobs, headers=key)
        async with consuming(at, backend):
            await until(at.is_empty)
        again = await client.post("/v1/jobs", json=jobs, headers=key)
        assert first.status_code == again.status_code == 202
        assert first.json() == again.json()
        assert await waiting(at) == 0  # what has ended is not queued again
        for job in again.json()["jobs"]:
            assert (await client.get(job["status_url"])).json()["status"] == "succeeded"
        detail = problem(await client.post("/v1/jobs", json=jobs[:1], headers=key), 400, "malformed")["detail"]
        assert "was used for other jobs" in detail
        problem(await client.post("/v1/jobs", json=jobs, headers={"Idempotency-Key": "two words"}), 400)
        other = await client.post("/v1/jobs", json=jobs, headers={"Idempotency-Key": "order-8"})
        assert {job["id"] for job in other.json()["jobs"]}.isdisjoint({job["id"] for job in first.json()["jobs"]})


async def test_a_repeat_with_the_same_key_is_free(at: Place, backend: LocalBackend) -> None:
    jobs = [{"uri": at.image()}, {"uri": at.image("b.png")}]
    refusing = Refusing(queue_from_url(at.url), takes=1)
    limits = {"rate_limits": {"default": {"images_per_day": 3}}}

    async with gateway(at, backend, refusing, **limits) as client:

        async def post(key: str | None, *sent: dict[str, str]) -> httpx.Response:
            return await client.post("/v1/jobs", json=sent, headers={"Idempotency-Key": key} if key else {})

        problem(await post("order-7", *jobs), 503)  # it has paid
        refusing._takes = 2
        for _ in range(5):
            assert (await post("order-7", *jobs)).status_code == 202
        for key in (None, "order-8"):
            for _ in range(2):
                problem(await post(key, *jobs), 429, "too-many-requests")
        problem(await post("order-7", jobs[0]), 400, "malformed")  # which costs nothing
        assert (await post("order-9", jobs[0])).status_code == 202
        assert (await post("order-9", jobs[0])).status_code == 202
        problem(await post(None, jobs[0]), 429, "too-many-requests")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_encodings_and_content_types(at: Place, backend: LocalBackend, encoding: str) -> None:
    async with gateway(at, backend) as client:
        body = json.dumps([{"uri": at.image()}]).encode(encoding)
        for kind in ("application/json; charset=utf-8", "text/json", "application/vnd.api+json"):
            response = await client.post("/v1/jobs", content=body, headers={"Content-Type": kind})
            assert response.status_code == 202, response.text
        gzipped = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert "gzip" in problem(await client.post("/v1/jobs", content=body, headers=gzipped), 415)["detail"]
        detail = problem(await client.post("/v1/jobs", json={"url": at.image()}), 400)["detail"]
        assert "did you mean 'uri'?" in detail


async def test_a_store_that_is_away(at: Place, backend: LocalBackend, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("in the way")
    store = ResultStore(objects_from_uri(str(tmp_path / "a-file")))
    async with gateway(at, backend, store=store) as client:
        problem(await client.post("/v1/jobs", json={"uri": at.image()}), 503, "jobs-unavailable")
        problem(await client.get("/v1/jobs/job-1"), 503, "jobs-unavailable")
    assert await waiting(at) == 0
    await store.close()


async def test_jobs_are_a_tenants_own(at: Place, backend: LocalBackend, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    acme, same, other = (create_key(file, tenant, ["jobs"]) for tenant in ("acme", "acme", "other"))
    admin, infer = create_key(file, "ops", ["jobs", "admin"]), create_key(file, "acme", ["infer"])
    rules: dict[str, Any] = {
        "auth": {"keys_file": str(file)},
        "fetch": {"schemes": ["https"], "hosts": ["images.example"], "s3": {"allow": {"acme": ["s3://photos/acme"]}}},
        "rate_limits": {"keys": {"acme": {"images_per_day": 3}}},
    }
    await at.store.finish(Outcome("from-a-bucket", "failed", error={"type": "BadImage", "detail": "bad"}))
    async with gateway(at, backend, **rules) as client:

        async def post(key: str, *uris: str) -> httpx.Response:
            return await client.post("/v1/jobs", json=[{"uri": uri} for uri in uris], headers={"X-API-Key": key})

        async def get(key: str, job_id: str) -> httpx.Response:
            return await client.get(f"/v1/jobs/{job_id}", headers={"X-API-Key": key})

        ours = "s3://photos/acme/a.png"
        response = await post(acme, ours, "https://images.example/a.png")
        assert response.status_code == 202, response.text
        job = response.json()["jobs"][0]["id"]
        marker = await at.store.job(job)
        assert marker is not None
        assert (marker.owner, (marker.policy or {})["tenant"]) == ("acme", "acme")
        assert (await get(same, job)).status_code == 200
        problem(await get(other, job), 404, "not-found")
        problem(await client.get(f"/v1/jobs/{job}/picture", headers={"X-API-Key": other}), 404, "not-found")
        problem(await get(infer, job), 403)
        problem(await client.get(f"/v1/jobs/{job}"), 401)
        problem(await post(other, ours), 403)
        problem(await post(acme, at.image()), 403)  # folders are for messages that no key answers for
        problem(await post(acme, ours, ours), 429)  # one image is left of the day
        problem(await get(acme, "from-a-bucket"), 404)
        assert (await get(admin, "from-a-bucket")).json()["status"] == "failed"
    assert await waiting(at) == 2


async def test_without_a_queue_the_answer_says_how_to_have_one(backend: LocalBackend) -> None:
    async with client_of(app_over(backend)) as client:
        for response in (await client.post("/v1/jobs", json={"uri": "s3://a/b"}), await client.get("/v1/jobs/job-1")):
            assert "'intake'" in problem(response, 404, "not-found")["detail"]


async def test_many_jobs_are_taken_at_once(at: Place, backend: LocalBackend) -> None:
    uri = at.image()
    async with gateway(at, backend) as client:
        answers = await asyncio.gather(*(client.post("/v1/jobs", json=[{"uri": uri}] * 50) for _ in range(3)))
    ids = [job["id"] for answer in answers for job in answer.json()["jobs"]]
    assert len(set(ids)) == await waiting(at) == 150
