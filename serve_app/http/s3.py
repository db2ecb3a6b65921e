"""Reads images from S3, from the buckets and folders that are listed for a client."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from classifiers import TooManyBytes
from serve_app.gateway_config import S3Config
from serve_app.http.problems import FetchFailed, Forbidden

__all__ = ["S3Images"]

_TIMEOUT_S = 10
_MAX_THREADS = 32


class S3Images:
    """The store behind ``s3://``. Connects with the first image.

    Args:
        config: which client may read what, and where the store is.
        max_bytes: the longest image.
        concurrent: images that are read at a time.
    """

    def __init__(self, config: S3Config, max_bytes: int, concurrent: int = 8) -> None:
        self._config = config
        self._max_bytes = max_bytes
        self._concurrent = min(concurrent, _MAX_THREADS)

    def check(self, uri: str, key_id: str, tenant: str) -> None:
        """Let a client read only what is listed for its key, its tenant or everybody.

        Raises:
            Forbidden: it is not listed.
        """
        bucket, key = _parts(uri)
        allow = self._config.allow
        prefixes = [*allow.get(key_id, ()), *allow.get(tenant, ()), *allow.get("*", ())]
        # Some stores resolve dots in keys as in paths.
        climbs = any(part in (".", "..") for part in key.split("/"))
        # The slash: s3://photos must not open s3://photos-private.
        listed = any(f"s3://{bucket}/{key}".startswith(f"{prefix}/") for prefix in prefixes)
        if not key or key.endswith("/") or climbs or not key.isprintable() or not listed:
            raise Forbidden("this object is in none of the buckets and folders that this key may read")

    async def read(self, uri: str) -> bytes:
        """Read an object that has been checked.

        Raises:
            FetchFailed: it cannot be read.
            TooManyBytes: it is over the limit.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, uri)

    def _read(self, uri: str) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, key = _parts(uri)
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                if answer["ContentLength"] <= self._max_bytes:
                    data: bytes = body.read(self._max_bytes + 1)
                    return data
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            why = "there is no such object" if code in ("NoSuchKey", "404") else "the store does not give it"
            later = status >= 500 or status == 429
            raise FetchFailed(f"the image could not be read from S3: {why}", retryable=later) from error
        except (BotoCoreError, OSError) as error:
            detail = "the image could not be read from S3: the store does not answer"
            raise FetchFailed(detail, retryable=True) from error
        raise TooManyBytes(f"the image has more than {self._max_bytes:,} bytes", limit=self._max_bytes)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._concurrent, thread_name_prefix="s3")

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = Config(
            connect_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
            retries={"total_max_attempts": 2},
            max_pool_connections=self._concurrent,
        )
        return boto3.client(
            "s3", endpoint_url=self._config.endpoint_url, region_name=self._config.region, config=settings
        )


def _parts(uri: str) -> tuple[str, str]:
    """Bucket and key. Taken apart by hand: a key may hold ? and #."""
    bucket, _, key = uri.partition(":")[2].removeprefix("//").partition("/")
    return bucket, key
