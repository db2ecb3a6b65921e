"""Requests that are signed here and sent by somebody else: ``PUT`` of one object, of one type and size, for a while."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from serve_app.buckets import BucketUnavailable

if TYPE_CHECKING:
    from google.auth.crypt import Signer

__all__ = ["PresignedPut", "presigned_gcs_put", "presigned_s3_put"]

_GCS = "https://storage.googleapis.com"
_GCS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_IAM_SCOPE = "https://www.googleapis.com/auth/iam"


class PresignedPut(NamedTuple):
    """Where to send the object, and the headers that are part of the signature."""

    url: str
    headers: dict[str, str]


def presigned_s3_put(
    bucket: str,
    key: str,
    content_type: str,
    size: int,
    valid_for: timedelta,
    region: str | None = None,
    endpoint_url: str | None = None,
) -> PresignedPut:
    """A ``PUT`` of an object of S3, or of a store that speaks its protocol.

    Raises:
        BucketUnavailable: there are no credentials to sign with.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    session = boto3.session.Session(region_name=region)
    try:
        client = session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            endpoint_url=endpoint_url,
            config=Config(signature_version="s3v4"),
        )
        url: str = client.generate_presigned_url(
            "put_object",
            {"Bucket": bucket, "Key": key, "ContentType": content_type, "ContentLength": size},
            ExpiresIn=round(valid_for.total_seconds()),
        )
    except BotoCoreError as error:
        raise BucketUnavailable(f"uploads to s3://{bucket} cannot be signed: {error}") from error
    return PresignedPut(url, {"Content-Type": content_type, "Content-Length": str(size)})


def presigned_gcs_put(
    bucket: str, key: str, content_type: str, size: int, valid_for: timedelta, endpoint_url: str | None = None
) -> PresignedPut:
    """A ``PUT`` of an object of Google Cloud Storage, by its process "V4 signing" with RSA.

    ``Content-Length`` cannot be signed there; ``x-goog-content-length-range`` has the same effect.

    Raises:
        BucketUnavailable: there are no credentials to sign with.
    """
    signer, email = _gcs_signer(bucket)
    headers = {"Content-Type": content_type, "x-goog-content-length-range": f"{size},{size}"}
    endpoint, now = urlsplit(endpoint_url or _GCS), datetime.now(UTC)
    signed = {"host": endpoint.netloc} | {name.lower(): value for name, value in headers.items()}
    names, time, scope = ";".join(sorted(signed)), f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}/auto/storage/goog4_request"
    path = f"/{bucket}/{quote(key, safe='/~')}"
    query = urlencode(
        {
            "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
            "X-Goog-Credential": f"{email}/{scope}",
            "X-Goog-Date": time,
            "X-Goog-Expires": round(valid_for.total_seconds()),
            "X-Goog-SignedHeaders": names,
        },
        quote_via=quote,
        safe="",
    )
    lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
    request = "\n".join(["PUT", path, query, *lines, "", names, "UNSIGNED-PAYLOAD"])
    text = "\n".join(["GOOG4-RSA-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = signer.sign(text.encode()).hex()
    url = f"{endpoint.scheme}://{endpoint.netloc}{path}?{query}&X-Goog-Signature={signature}"
    return PresignedPut(url, headers | {"Content-Length": str(size)})


def _gcs_signer(bucket: str) -> tuple[Signer, str]:
    """What signs, and for whom: the key of a service account, or Google's IAM for the service account of the machine.

    The latter needs the role Service Account Token Creator on itself.
    """
    try:
        import google.auth
        from google.auth import credentials, exceptions, iam
        from google.auth.transport.requests import Request
    except ModuleNotFoundError as error:
        raise BucketUnavailable(
            f"uploads to gs://{bucket} cannot be signed without google-auth: pip install 'visiongraph[gcs]'"
        ) from error
    try:
        found, _ = google.auth.default(scopes=[_GCS_SCOPE, _IAM_SCOPE])
        if isinstance(found, credentials.Signing):
            return found.signer, found.signer_email
        request = Request()
        found.refresh(request)
        email: str | None = getattr(found, "service_account_email", None)
        if email is None:
            raise BucketUnavailable(
                f"uploads to gs://{bucket} cannot be signed by a person's credentials; use a service account"
            )
        return iam.Signer(request, found, email), email
    except exceptions.GoogleAuthError as error:
        raise BucketUnavailable(f"uploads to gs://{bucket} cannot be signed: {error}") from error
