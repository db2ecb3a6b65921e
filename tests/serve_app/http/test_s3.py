"""Images in a store that speaks S3: a real one in this process (moto), and who may read what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from brokers import moto_server
from gateways import PNG, app_over, client_of, config, problem

from classifiers import VisionError
from graph import LocalBackend
from serve_app.access.key_file import create_key
from serve_app.buckets import s3_bucket
from serve_app.config.gateway_config import S3Config
from serve_app.images.bucket_images import BucketImages
from serve_app.images.job_sources import is_final
from serve_app.refusals import FetchFailed, Forbidden

KEYS = [
    "Bildschirmfoto 2026-11-30 um 9.41.00\u202fAM.png",
    "no\u00a0break.png",
    "team 👩\u200d🚀.png",
    "a#1?x=y&z.png",
    "100%.png",
    "a%20b+c.png",
    "x:y@z;(1)!'*~|^`{}[]<>\"$,=.png",
    "back\\slash.png",
    "e\u0301.png",
    "\u2028\ue000\ufeff.png",
    " leading and trailing ",
]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def objects(store: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3", endpoint_url=store)
        for bucket in ("photos", "photos-private"):
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="acme/a b?#.png", Body=PNG)
            client.put_object(Bucket=bucket, Key="acme/long.png", Body=b"x" * 100_001)
            client.put_object(Bucket=bucket, Key="acme2/a.png", Body=PNG)
        yield


async def test_reading(backend: LocalBackend, store: str, tmp_path: Any) -> None:
    keys = tmp_path / "keys.json"
    key, other = create_key(keys, "acme", ["infer"]), create_key(keys, "other", ["infer"])
    rules = config(
        auth={"keys_file": str(keys)}, fetch={"s3": {"allow": {"acme": ["s3://photos/acme"]}, "endpoint_url": store}}
    )

    async def ask(client: httpx.AsyncClient, uri: str, credential: str = key) -> httpx.Response:
        return await client.post("/v1/images", json={"uri": uri}, headers={"X-API-Key": credential})

    async with client_of(app_over(backend, rules)) as client:
        response = await ask(client, "s3://photos/acme/a b?#.png")
        assert response.status_code == 200
        assert response.json()["image"]["uri"] == "s3://photos/acme/a b?#.png"
        problem(await ask(client, "s3://photos/acme/a b?#.png", other), 403, "forbidden")
        problem(await ask(client, "s3://photos/acme/none.png"), 502, "fetch-failed")
        problem(await ask(client, "s3://photos/acme/long.png"), 413, "too-many-bytes")
        problem(await ask(client, "s3://photos-private/acme/a b?#.png"), 403, "forbidden")
        problem(await ask(client, "https://example.com/a.png"), 403, "forbidden")


@pytest.mark.parametrize("key", KEYS)
async def test_every_key_that_s3_takes(store: str, key: str) -> None:
    boto3.client("s3", endpoint_url=store).put_object(Bucket="photos", Key=key, Body=key.encode())
    images = BucketImages("s3", {"*": ["s3://photos"]}, lambda name: s3_bucket(name, None, store), 1000)
    uri = f"s3://photos/{key}"
    images.check(uri, "key", "tenant")
    assert await images.read(uri) == key.encode()


async def test_versions(store: str) -> None:
    client = boto3.client("s3", endpoint_url=store)
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first, second = (client.put_object(Bucket="versions", Key="a", Body=body)["VersionId"] for body in (b"1", b"2"))
    images = BucketImages("s3", {}, lambda name: s3_bucket(name, None, store), 1000)
    assert [await images.read("s3://versions/a", version) for version in (first, second, None)] == [b"1", b"2", b"2"]
    client.delete_object(Bucket="versions", Key="a", VersionId=first)
    with pytest.raises(FetchFailed, match=f"no such version.*{first}") as error:
        await images.read("s3://versions/a", first)
    assert is_final(error.value)


async def test_a_store_that_is_away(backend: LocalBackend) -> None:
    s3 = {"allow": {"*": ["s3://photos"]}, "endpoint_url": "http://127.0.0.1:1"}
    async with client_of(app_over(backend, config(fetch={"s3": s3}))) as client:
        problem(await client.post("/v1/images", json={"uri": "s3://photos/a.png"}), 502, "fetch-failed")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://b/f/a.png", True),
        ("S3://b/f/a.png", True),
        ("s3://b/f/g/a.png", True),
        ("s3://b/f", False),
        ("s3://b/f/", False),
        ("s3://b/fa.png", False),
        ("s3://b/f2/a.png", False),
        ("s3://b/f/../secret.png", False),
        ("s3://b/f/./a.png", False),
        ("s3://b/f/\x00.png", False),
        ("s3://b/f/\n.png", False),
        ("s3://b/f/\x7f.png", False),
        ("s3://b/f/\x85.png", False),
        ("s3://b/f/\u202f\u00a0\u200d.png", True),
        ("s3://B/f/a.png", False),
        ("s3://b2/f/a.png", False),
        ("s3://user@b/f/a.png", False),
        ("s3:///b/f/a.png", False),
        ("s3://", False),
        ("s3:", False),
        ("s3://whole/a.png", True),
        ("s3://whole", False),
        ("s3://everybody/a.png", True),
        ("s3://others/a.png", False),
    ],
)
def test_what_is_listed(uri: str, allowed: bool) -> None:
    rows: Any = {"key": ("s3://b/f/",), "tenant": ("s3://whole",), "*": ("s3://everybody",), "x": ("s3://others",)}
    images = BucketImages("s3", S3Config(allow=rows).allow, s3_bucket, 1000)
    if allowed:
        images.check(uri, "key", "tenant")
    else:
        with pytest.raises(Forbidden):
            images.check(uri, "key", "tenant")
    assert issubclass(Forbidden, VisionError)
