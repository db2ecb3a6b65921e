"""Signed requests: what a store takes, and what it refuses since it is not what was signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcs_server import gcs_server

from serve_app.buckets import BucketUnavailable
from serve_app.presigning import PresignedPut, presigned_gcs_put, presigned_s3_put
from serve_app.results import objects_from_uri

MINUTE = timedelta(minutes=1)
KEY = "a folder/t-acme%2B/ab/0123~é"
DATA = b"an image"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that knows the key of the service account in the environment."""
    pair = rsa.generate_private_key(65537, 2048)
    private = pair.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "signer@project.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
        "private_key": private.decode(),
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    public = pair.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with gcs_server(public) as url:
        yield url


def send(signed: PresignedPut, data: bytes = DATA, path: str = "", **headers: str) -> int:
    given = {**signed.headers, **headers, "Content-Length": str(len(data))}
    url = signed.url.replace("0123~", path) if path else signed.url
    return httpx.put(url, content=data, headers=given).status_code


def test_google_takes_what_was_signed_and_nothing_else(google: str) -> None:
    signed = presigned_gcs_put("photos", KEY, "image/png", len(DATA), MINUTE, google)
    assert send(signed, DATA + b"1") == 400
    assert send(signed, DATA[1:]) == 400
    assert send(signed, **{"Content-Type": "text/html"}) == 403
    assert send(signed, DATA + b"1", **{"x-goog-content-length-range": "0,1000"}) == 403
    assert send(signed, **{"x-goog-acl": "public-read"}) == 403
    assert send(signed, path="0124~") == 403
    assert send(PresignedPut(signed.url, {"Content-Type": "image/png"})) == 403
    objects = objects_from_uri(f"gs://photos?endpoint_url={google}")
    assert list(objects.keys("")) == []
    assert send(signed) == 200
    assert [objects.get(key) for key in objects.keys("")] == [DATA]


def test_a_signature_of_google_expires(google: str) -> None:
    assert send(presigned_gcs_put("photos", KEY, "image/png", len(DATA), -MINUTE, google)) == 400


def test_without_credentials_of_google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(BucketUnavailable, match="uploads to gs://photos cannot be signed"):
        presigned_gcs_put("photos", KEY, "image/png", 1, MINUTE)


def test_type_and_size_are_part_of_the_signature_of_s3(moto: str) -> None:
    """moto takes everything: that the signature has them is all that can be seen here."""
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket="signed")
    signed = presigned_s3_put("signed", "a.png", "image/png", len(DATA), MINUTE, "us-east-1", moto)
    names = httpx.URL(signed.url).params["X-Amz-SignedHeaders"].split(";")
    assert {"content-length", "content-type", "host"} <= set(names)
    assert send(signed) == 200
