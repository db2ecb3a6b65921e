"""Jobs that bring their images: what is stored, whose it is, and what is left after a deletion."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pytest
from gateways import app_over, client_of, config, problem
from intakes import LIMITS, STREET, Place, consuming, place, until
from toys import draw, encoded

from graph import Frame, LocalBackend
from serve_app.access.key_file import create_key
from serve_app.config import SourcesConfig
from serve_app.http.job_desk import JobDesk
from serve_app.images import KeptImages, Sources
from serve_app.queues import queue_from_url
from serve_app.results import Outcome
from serve_app.results.compaction import compact
from serve_app.results.deletion import pending_deletions, purge
from serve_app.results.object_stores import LocalObjects
from serve_app.results.query import query

PNG = {"Content-Type": "image/png"}
OTHER = encoded(draw(("car", 10, 10, 60, 60)))


@asynccontextmanager
async def gateway(at: Place, backend: LocalBackend, **rules: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = config(**rules)
    sources = Sources(SourcesConfig(files=(str(at.images),)), settings.fetch, LIMITS, 4, at.uploads, at.kept)
    desk = JobDesk(queue_from_url(at.url), at.store, sources, at.uploads)
    kept_images = KeptImages(at.uploads, at.store.objects, "failed")
    async with client_of(app_over(backend, settings, desk=desk, kept=at.kept, kept_images=kept_images)) as client:
        yield client


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as found:
        yield found


def stored(at: Place) -> list[str]:
    return list(at.uploads.objects.keys(""))


def everything(at: Place) -> bytes:
    """All objects of the store, one after the other."""
    return b"\n".join(at.store.objects.get(key) or b"" for key in at.store.objects.keys(""))


def form(*images: bytes, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    files = [("image", (f"{place}.png", image, "image/png")) for place, image in enumerate(images)]
    return {"files": files, "data": {} if metadata is None else {"metadata": json.dumps(metadata)}}


async def done(client: httpx.AsyncClient, response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 202, response.text
    return [(await client.get(job["status_url"])).json() for job in response.json()["jobs"]]


async def test_the_bytes_of_one_image(at: Place, backend: LocalBackend) -> None:
    async with gateway(at, backend) as client:
        first = await client.post("/v1/jobs?annotate=true", content=STREET, headers=PNG)
        again = await client.post("/v1/jobs", content=STREET, headers={"Content-Type": "application/octet-stream"})
        assert len(stored(at)) == 1
        async with consuming(at, backend):
            await until(at.is_empty)
        (one,), (two,) = await done(client, first), await done(client, again)
        assert one["result"]["context"] == two["result"]["context"] != {}
        assert one["result"]["image"]["sha256"] == hashlib.sha256(STREET).hexdigest()
        picture = await client.get(f"{first.json()['jobs'][0]['status_url']}/picture")
        assert picture.content[:2] == b"\xff\xd8"


async def test_a_form_with_many_images_and_one_metadata_field(at: Place, backend: LocalBackend) -> None:
    async with gateway(at, backend) as client:
        response = await client.post("/v1/jobs", **form(STREET, OTHER, STREET, metadata={"site": 7}))
        assert len(stored(at)) == 2
        async with consuming(at, backend):
            await until(at.is_empty)
        found = await done(client, response)
    assert [job["result"]["metadata"] for job in found] == [{"site": 7}] * 3
    assert [job["result"]["image"]["sha256"] for job in found] == [
        hashlib.sha256(image).hexdigest() for image in (STREET, OTHER, STREET)
    ]


async def test_a_form_of_a_hundred_images_may_have_more_bytes_than_one_image(at: Place, backend: LocalBackend) -> None:
    chance = np.random.default_rng(0)
    images = [encoded(chance.integers(0, 256, (60, 60, 3), dtype=np.uint8)) for _ in range(100)]
    assert sum(map(len, images)) > 3 * LIMITS.max_bytes
    async with gateway(at, backend) as client:
        assert len((await client.post("/v1/jobs", **form(*images))).json()["jobs"]) == 100
        problem(await client.post("/v1/jobs", **form(*images, STREET)), 400, "malformed")
    assert len(stored(at)) == 100


@pytest.mark.parametrize(
    ("image", "status"),
    [(b"no image", 422), (STREET[:100], 422), (STREET + b"0" * 100_000, 413), (b"", 422)],
    ids=["text", "cut off", "too long", "empty"],
)
async def test_what_is_no_image_is_refused_and_nothing_is_stored(
    at: Place, backend: LocalBackend, image: bytes, status: int
) -> None:
    async with gateway(at, backend) as client:
        sync = await client.post("/v1/images", content=image, headers=PNG)
        assert (await client.post("/v1/jobs", content=image, headers=PNG)).status_code == sync.status_code == status
        if image:
            refused = problem(await client.post("/v1/jobs", **form(STREET, image)), status)
            assert refused["detail"].startswith("image [1]: ")
            assert refused["index"] == 1
    assert (stored(at), list(at.store.objects.keys("jobs/"))) == ([], [])


async def test_the_quota_is_asked_before_anything_is_stored(at: Place, backend: LocalBackend, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", "acme", ["jobs"])
    rules = {
        "auth": {"keys_file": str(tmp_path / "keys.json")},
        "rate_limits": {"default": {"images_per_day": 2}},
    }
    async with gateway(at, backend, **rules) as client:
        refused = await client.post("/v1/jobs", **form(STREET, OTHER, STREET), headers={"X-API-Key": key})
        problem(refused, 429)
        assert stored(at) == []
        assert (await client.post("/v1/jobs", **form(STREET, OTHER), headers={"X-API-Key": key})).status_code == 202


SHA = hashlib.sha256(STREET).hexdigest()

SPELLINGS = [
    f"upload://{SHA.upper()}",
    f"UPLOAD://{SHA}",
    f"upload:{SHA}",
    f"upload:/{SHA}",
    f"upload:///{SHA}",
    f"upload://{SHA}/",
    f"upload://{SHA}?",
    f"upload://{SHA}#x",
    f"upload://{SHA[:2]}/{SHA}",
    f"upload://t-acme/{SHA}",
    f"upload://t-acme/{SHA[:2]}/{SHA}",
    f"upload://../t-acme/{SHA[:2]}/{SHA}",
    f"upload://..%2Ft-acme%2F{SHA[:2]}%2F{SHA}",
    f"upload://acme@{SHA}",
    f"upload://{SHA}\n",
    f" upload://{SHA}",
    f"upload://{SHA[:32]}",
    f"upload://{SHA[:-1]}",
    f"upload://%{ord(SHA[0]):x}{SHA[1:]}",
    f"upload://{SHA}\x00",
    "file://{images}/t-acme/{part}/{sha}",
    "file://localhost{images}/t-acme/{part}/{sha}",
    "file:{images}/t-acme/{part}/{sha}",
    "FILE://{images}/t-acme/{part}/{sha}",
    "file://{images}/./t-acme/{part}/{sha}",
    "file://{images}/../images/t-acme/{part}/{sha}",
    "file://{images}//t-acme/{part}/{sha}",
    "file://{images}/%74-acme/{part}/{sha}",
    "file://{images}/t%2Dacme/{part}/{sha}",
    "file://{images}/t-acme/{part}%2F{sha}",
    "file://{link}/t-acme/{part}/{sha}",
    "file://{pictures}",
]


async def test_no_spelling_of_an_address_names_the_image_of_another_tenant(
    at: Place, backend: LocalBackend, tmp_path: Path
) -> None:
    """Not even where the operator has listed the folder of the store."""
    keys = tmp_path / "keys.json"
    acme, other = create_key(keys, "acme", ["jobs", "infer"]), create_key(keys, "other", ["jobs", "infer"])
    images = Path(at.results) / "images"
    (tmp_path / "link").symlink_to(images)
    rules = {"auth": {"keys_file": str(keys)}}
    async with gateway(at, backend, **rules) as client:
        sent = await client.post("/v1/jobs?annotate=true", content=STREET, headers={**PNG, "X-API-Key": acme})
        async with consuming(at, backend, own={"files": ["/"]}):
            await until(at.is_empty)
            (key,) = stored(at)
            assert key == f"t-acme/{SHA[:2]}/{SHA}"
            own = await client.post("/v1/jobs", json={"uri": f"upload://{SHA}"}, headers={"X-API-Key": acme})
            named = await client.post("/v1/jobs", json={"uri": f"upload://{SHA}"}, headers={"X-API-Key": other})
            fields = {
                "images": images,
                "link": tmp_path / "link",
                "part": SHA[:2],
                "sha": SHA,
                "pictures": f"{at.results}/{next(at.store.objects.keys('pictures/'))}",
            }
            addresses = [spelling.format(**fields) for spelling in SPELLINGS]
            for address in addresses:
                answer = await client.post("/v1/jobs", json={"uri": address}, headers={"X-API-Key": other})
                assert answer.status_code in (202, 400, 403), (address, answer.text)
            # messages without a key, where every folder is listed
            await at.publish(*({"id": f"m{place}", "uri": address} for place, address in enumerate(addresses)))
            await until(at.is_empty, 60)
        headers = {"X-API-Key": acme}
        assert (await client.get(own.json()["jobs"][0]["status_url"], headers=headers)).json()["status"] == "succeeded"
        for job in sent.json()["jobs"]:
            problem(await client.get(job["status_url"], headers={"X-API-Key": other}), 404)
            problem(await client.delete(job["status_url"], headers={"X-API-Key": other}), 404)
        status = (await client.get(named.json()["jobs"][0]["status_url"], headers={"X-API-Key": other})).json()
        assert (status["status"], status["error"]["type"]) == ("failed", "FetchFailed")
    outcomes = [Outcome(**json.loads(at.store.objects.get(key) or b"")) for key in at.store.objects.keys("outcomes/")]
    acmes = {job["id"] for response in (sent, own) for job in response.json()["jobs"]}
    assert {outcome.id for outcome in outcomes if outcome.status == "succeeded"} == acmes


async def test_deletion_leaves_a_record_without_content(at: Place, backend: LocalBackend) -> None:
    secret = {"customer": "number-one-thousand"}
    async with gateway(at, backend) as client:
        kept = await client.post("/v1/jobs", content=OTHER, headers=PNG)
        gone = await client.post("/v1/jobs?annotate=true", **form(STREET, metadata=secret))
        url, job_id = gone.json()["jobs"][0]["status_url"], gone.json()["jobs"][0]["id"]
        async with consuming(at, backend, reuse_results=True):
            await until(at.is_empty)
        compact(at.store.objects)
        assert b"number-one-thousand" in everything(at)
        assert len(query(at.store.objects, "SELECT id FROM results").rows) == 2
        assert (await client.delete(url)).status_code == 202
        for path in (url, f"{url}/picture"):
            assert "was deleted at" in problem(await client.get(path), 410, "gone")["detail"]
        problem(await client.delete(url), 410, "gone")
        assert query(at.store.objects, "SELECT count(*) FROM results").rows == [(1,)]  # at once
        assert purge(at.store.objects, at.uploads.delete) == 1
        left = everything(at)
        for value in (b"number-one-thousand", STREET[20:60], SHA.encode(), b"\xff\xd8\xff"):
            assert value not in left
        assert job_id.encode() in left  # who deleted it, and when
        # a redelivery does not bring it back
        await at.publish({"id": job_id, "uri": at.image("again.png"), "metadata": secret})
        async with consuming(at, backend, reuse_results=True):
            await until(at.is_empty)
        problem(await client.get(url), 410, "gone")
        compact(at.store.objects)
        assert b"number-one-thousand" not in everything(at)
        assert (await done(client, kept))[0]["status"] == "succeeded"


async def test_a_request_that_is_repeated_after_a_deletion_stores_no_image(at: Place, backend: LocalBackend) -> None:
    key = {"Idempotency-Key": "order-7"}
    async with gateway(at, backend) as client:
        for place in (1, 0):  # the marker of the first job has what the key was used for
            job = (await client.post("/v1/jobs", **form(STREET, OTHER), headers=key)).json()["jobs"][place]
            assert (await client.delete(job["status_url"])).status_code == 202
            before = stored(at)
            assert len(before) == place
            repeated = await client.post("/v1/jobs", **form(STREET, OTHER), headers=key)
            assert repeated.status_code == (202 if place else 400)
            assert stored(at) == before
        assert "jobs that were deleted" in problem(repeated, 400)["detail"]


async def test_deletion_of_a_job_that_is_running(at: Place, backend: LocalBackend) -> None:
    """It ends while the model runs; what the worker then knows is stored nowhere."""
    async with gateway(at, backend) as client:
        sent = await client.post("/v1/jobs?annotate=true", **form(STREET, metadata={"customer": "secret"}))
        url = sent.json()["jobs"][0]["status_url"]

        class Late(type(backend)):  # type: ignore[misc]
            """Deletes the job before the last step has ended."""

            def __init__(self) -> None:
                self.deleted = asyncio.Event()

            async def describe(self) -> Any:
                return await backend.describe()

            async def ready(self) -> None:
                await backend.ready()

            async def call(self, step: str, request: Any) -> Any:
                answer = await backend.call(step, request)
                if not self.deleted.is_set():
                    assert (await client.delete(url)).status_code == 202
                    self.deleted.set()
                return answer

            crop_budget_bytes = None

        async with consuming(at, Late(), reuse_results=True):
            await until(at.is_empty)
        problem(await client.get(url), 410, "gone")
        compact(at.store.objects)
        purge(at.store.objects, at.uploads.delete)
        assert b"secret" not in everything(at)
        assert not [key for kind in ("pictures/", "content/", "images/") for key in at.store.objects.keys(kind)]
        assert len(pending_deletions(at.store.objects)) == 1  # for an hour


async def test_a_folder_takes_no_direct_uploads(at: Place, backend: LocalBackend) -> None:
    async with gateway(at, backend) as client:
        refused = await client.post("/v1/uploads", json={"content_type": "image/png", "size": 100})
        assert "POST /v1/jobs" in problem(refused, 501, "not-supported")["detail"]
        problem(await client.post("/v1/uploads", json={"content_type": "text/html", "size": 100}), 400)


async def test_a_direct_upload_to_s3(tmp_path: Path, backend: LocalBackend, moto: str) -> None:
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket="handed-over")
    results = f"s3://handed-over/results?region=us-east-1&endpoint_url={moto}"
    async with place(tmp_path, results=results) as at, gateway(at, backend) as client:
        problem(await client.post("/v1/uploads", json={"content_type": "image/png", "size": 100_001}), 413)
        signed = (await client.post("/v1/uploads", json={"content_type": "image/png", "size": len(STREET)})).json()
        async with httpx.AsyncClient() as outside:
            sent = await outside.request(signed["method"], signed["url"], headers=signed["headers"], content=STREET)
        assert sent.status_code == 200
        assert "content-length" in signed["url"]
        jobs = [{"uri": signed["uri"]}, {"uri": f"upload://{'0' * 32}"}]
        response = await client.post("/v1/jobs", json=jobs)
        async with consuming(at, backend):
            await until(at.is_empty)
        good, missing = await done(client, response)
        assert good["result"]["image"]["sha256"] == SHA
        assert "there is no such upload" in missing["error"]["detail"]


async def test_images_of_failures_are_kept(at: Place, backend: LocalBackend) -> None:
    white = encoded(np.full((32, 32, 3), 255, np.uint8))
    async with gateway(at, backend) as client:
        problem(await client.post("/v1/images", content=white, headers=PNG), 502, "step-failed")
        assert (await client.post("/v1/images", content=STREET, headers=PNG)).status_code == 200
        await until(lambda: stored(at))
    assert stored(at) == [f"open/{Frame.from_bytes(white).sha256[:2]}/{Frame.from_bytes(white).sha256}"]


async def test_the_requests_to_the_store_are_those_of_the_guide(
    at: Place, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        call = getattr(LocalObjects, name)

        def counted(self: Any, key: str, *data: bytes) -> Any:
            counts["reads" if name in ("get", "info") else "writes"] += not key.startswith("journal/")
            return call(self, key, *data)

        monkeypatch.setattr(LocalObjects, name, counted)

    for name in ("get", "info", "put", "create", "delete"):
        count(name)
    async with gateway(at, backend) as client:
        await client.post("/v1/jobs", content=STREET, headers=PNG)
        async with consuming(at, backend):
            await until(at.is_empty)
    assert counts == {"writes": 3, "reads": 3}
