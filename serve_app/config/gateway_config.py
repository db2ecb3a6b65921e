"""The ``gateway:`` block: authentication, limits, what is fetched, and the deployment options of the entry."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from classifiers.validation import Closed
from graph.pipeline_file import AutoscalingConfig
from serve_app.config.blocks import AbsolutePath, absolute_path, read_block

__all__ = [
    "JWT_TENANTS",
    "LOOPBACK_HOSTS",
    "AbsolutePath",
    "Algorithm",
    "AuthConfig",
    "FetchConfig",
    "FolderPath",
    "GatewayConfig",
    "JwtConfig",
    "Limits",
    "RateLimitsConfig",
    "S3Config",
    "read_gateway_config",
]

T = TypeVar("T")

_AUTH_CHOICES = (
    "configure authentication: 'none' allows everyone; "
    "{keys_file: /path/keys.json} requires an API key, {jwt: {...}} a token, and both together either"
)

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""The names of this machine for its own clients. A request with another host comes from a web page elsewhere."""

JWT_TENANTS = "jwt:"
"""Begins the names of the tenants of tokens; no tenant of a key has it."""

_HOST_NAME = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*")


def _network(text: object) -> str:
    try:
        return str(ipaddress.ip_network(str(text)))
    except ValueError as error:
        raise ValueError(f"{error}; write an address or a network such as 10.0.0.0/8") from error


def _redis_url(text: str) -> str:
    if urlsplit(text).scheme not in ("redis", "rediss"):
        raise ValueError("must start with redis:// or rediss://")
    return text


def _folder_at(scheme: str) -> AfterValidator:
    def check(text: str) -> str:
        bucket, _, prefix = _without_pattern(text).removeprefix(scheme).partition("/")
        if not text.startswith(scheme) or not bucket:
            raise ValueError(f"'{text}' is not {scheme}BUCKET or {scheme}BUCKET/FOLDER")
        return f"{scheme}{bucket}/{prefix.strip('/')}".rstrip("/")

    return AfterValidator(check)


def _without_pattern(text: str) -> str:
    if "*" in text:
        folder = text.partition("*")[0].rpartition("/")[0]
        fix = f"write {folder}" if folder and not folder.endswith("/") else "write each by its name"
        raise ValueError(f"'{text}' is a pattern; a bucket or a folder includes all below it, {fix}")
    return text


def _host(text: str) -> str:
    if _HOST_NAME.fullmatch(text):
        return text
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as error:
        raise ValueError(
            f"'{text}' matches no host; write a name such as images.example.com, or *.example.com for all below it, "
            "without scheme, port and path"
        ) from error


def _origin(text: str) -> str:
    parts = urlsplit(text)
    origin = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in text or "*" in text or text != origin:
        raise ValueError(f"'{text}' is not an origin; write scheme and host, such as https://app.example.com")
    return text.lower()


def _jwks(text: str, info: ValidationInfo) -> str:
    parts = urlsplit(text)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise ValueError("keys that are sent over http could be replaced on the way; use https, or a file")
    return text if parts.scheme in ("http", "https") else absolute_path(text, info)


# only asymmetric signatures: with HS256 the public key could be used for signing
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
FolderPath = Annotated[AbsolutePath, AfterValidator(_without_pattern)]
Network = Annotated[str, BeforeValidator(_network)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Jwks = Annotated[str, AfterValidator(_jwks)]
Host = Annotated[str, AfterValidator(_host)]
Origin = Annotated[str, AfterValidator(_origin)]
S3Prefix = Annotated[str, _folder_at("s3://")]
GcsPrefix = Annotated[str, _folder_at("gs://")]


class JwtConfig(Closed):
    """The tokens of an identity provider that are accepted."""

    issuer: str = Field(min_length=1, description="What the claim iss must be")
    audience: str = Field(min_length=1, description="What the claim aud must be or hold")
    jwks: Jwks = Field(description="The provider's public keys: an https URL, or an absolute path")
    algorithms: tuple[Algorithm, ...] = Field(("RS256", "ES256", "EdDSA"), min_length=1)
    leeway_s: int = Field(30, ge=0, le=300, description="Tolerated clock skew")
    refresh_s: int = Field(300, ge=1, description="How often the keys are read again; at once for an unknown key id")
    scopes_claim: str = Field("scope", min_length=1, description="Claim with the scopes: a list, or a string of words")
    tenant_claim: str = Field(
        "sub", min_length=1, description="Claim that names the tenant, who owns limits and jobs: alice is jwt:alice"
    )


class AuthConfig(Closed):
    """Authentication. ``auth: none`` allows everyone."""

    keys_file: AbsolutePath | None = Field(None, description="API keys; see visiongraph keys; the same on all nodes")
    jwt: JwtConfig | None = Field(None, description="Tokens of an identity provider")

    @property
    def is_open(self) -> bool:
        """Whether there is no authentication."""
        return self.keys_file is None and self.jwt is None

    @model_validator(mode="wrap")
    @classmethod
    def _explicit(cls, value: object, handler: ModelWrapValidatorHandler[AuthConfig]) -> AuthConfig:
        if isinstance(value, cls):
            return value
        if value == "none":
            return handler({})
        config = handler(value) if isinstance(value, Mapping) else None
        if config is None or config.is_open:
            raise ValueError(_AUTH_CHOICES)
        return config

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return "none" if self.is_open else handler(self)


class Limits(Closed):
    """The budget of one key. ``null``: no limit."""

    requests_per_second: float | None = Field(None, gt=0, le=1_000_000, description="On average")
    burst: int | None = Field(None, ge=1, description="Requests at once, after a pause; default: those of one second")
    images_per_day: int | None = Field(None, ge=1, description="From midnight to midnight UTC")
    concurrent: int | None = Field(None, ge=1, description="Concurrent requests")

    @model_validator(mode="after")
    def _burst_needs_a_rate(self) -> Limits:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst: has no effect without requests_per_second")
        return self

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no limit."""
        return self.requests_per_second is None and self.images_per_day is None and self.concurrent is None

    @property
    def burst_size(self) -> int:
        """Requests at once; 0 where the rate is not limited."""
        if self.requests_per_second is None:
            return 0
        return self.burst or max(1, math.ceil(self.requests_per_second))

    def share(self, shares: int) -> Limits:
        """One of ``shares`` equal parts, for a replica that counts by itself; at least one request."""
        if shares == 1:
            return self
        return Limits(
            requests_per_second=None if self.requests_per_second is None else self.requests_per_second / shares,
            burst=None if self.requests_per_second is None else max(1, self.burst_size // shares),
            images_per_day=None if self.images_per_day is None else max(1, self.images_per_day // shares),
            concurrent=None if self.concurrent is None else max(1, self.concurrent // shares),
        )


# the budget of a key without a configured one: enough for a busy client, not for a runaway loop
_DEFAULT_LIMITS = Limits(requests_per_second=100, burst=200, concurrent=64)


class RateLimitsConfig(Closed):
    """The budgets of keys. With ``auth: none``, each client address has one."""

    default: Limits | None = Field(
        None,
        description=(
            f"For keys without a row; default: {_DEFAULT_LIMITS.requests_per_second:g} requests/s, "
            f"{_DEFAULT_LIMITS.burst} at once, {_DEFAULT_LIMITS.concurrent} concurrent; with auth: none no limit"
        ),
    )
    keys: dict[str, Limits] = Field({}, description="By key id, or by tenant, whose keys share it; jwt:NAME for tokens")
    redis_url: RedisUrl | None = Field(None, description="Counts for all replicas; without it each counts its share")
    redis_prefix: str = Field("visiongraph", min_length=1, description="Begins the names of the entries in Redis")


class S3Config(Closed):
    """Images in S3 or in a store with its protocol."""

    allow: dict[str, tuple[S3Prefix, ...]] = Field(
        {}, description="Buckets and folders (s3://BUCKET/FOLDER) by key id or tenant; '*' applies to everyone"
    )
    endpoint_url: str | None = Field(None, description="Of a store that is not AWS")
    region: str | None = Field(None, description="The region; default: as the machine is configured")


class GcsConfig(Closed):
    """Images in Google Cloud Storage."""

    allow: dict[str, tuple[GcsPrefix, ...]] = Field(
        {}, description="Buckets and folders (gs://BUCKET/FOLDER) by key id or tenant; '*' applies to everyone"
    )
    endpoint_url: str | None = Field(None, description="Of an emulator, which is used without credentials")


class FetchConfig(Closed):
    """What is fetched for clients that send a ``uri``. Nothing, by default."""

    schemes: tuple[Literal["http", "https"], ...] = Field((), description="Of web addresses: [https], [https, http]")
    hosts: tuple[Host, ...] = Field((), description="Allowed hosts: names, or *.example.com; empty: every public host")
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field((80, 443), description="Allowed ports")
    private_networks: tuple[Network, ...] = Field((), description="Networks that are not public and still allowed")
    content_types: tuple[str, ...] = Field((), description="Allowed types of the response; empty: the bytes decide")
    max_redirects: int = Field(3, ge=0, le=10, description="Each is checked like the first address")
    timeout_s: float = Field(10, gt=0, description="For the whole fetch; the request's own deadline applies too")
    concurrent: int = Field(16, ge=1, description="Concurrent fetches of one replica; more get 503")
    s3: S3Config = Field(default_factory=S3Config, description="s3:// addresses")
    gs: GcsConfig = Field(default_factory=GcsConfig, description="gs:// addresses")

    @field_validator("content_types")
    @classmethod
    def _no_patterns(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if "*" in kind or "/" not in kind:
                raise ValueError(f"'{kind}' matches nothing; write each content type, such as image/jpeg")
        return tuple(kind.lower() for kind in kinds)


class GatewayConfig(Closed):
    """The HTTP entry: authentication, limits, and the options of its deployment."""

    auth: AuthConfig = Field(description=_AUTH_CHOICES)
    rate_limits: RateLimitsConfig = Field(default_factory=RateLimitsConfig, description="The budgets of keys")
    fetch: FetchConfig = Field(default_factory=FetchConfig, description="What is fetched for clients that send a uri")
    trusted_proxies: tuple[Network, ...] = Field((), description="Proxies whose X-Forwarded-For is trusted")
    hosts: tuple[Host, ...] | None = Field(
        None,
        description="Allowed Host headers, without port; *.example.com for all below it. Default: any; bound to a "
        "loopback address, the names of this machine",
    )
    cors_origins: tuple[Origin, ...] = Field(
        (), description="Origins whose pages may call the API from a browser: https://app.example.com; default: none"
    )
    access_log: bool = Field(True, description="A JSON line per request in the replica's log")
    timeout_ms: int = Field(30_000, ge=1, description="Deadline of a request; X-Request-Timeout-Ms can only lower it")
    max_bodies_mb: int = Field(
        96, ge=1, description="MiB of bodies that a replica holds; more get 503. Memory takes up to three times that"
    )
    min_body_bytes_per_s: int = Field(1024, ge=0, description="Slower bodies, over 5 s, get 408. 0: no minimum")
    max_arriving_per_client: int = Field(
        256, ge=1, description="Bodies of one address that take longer than 5 s to arrive; the oldest of more get 503"
    )
    num_cpus: float = Field(0.25, ge=0, description="CPUs that a replica reserves on its node; not a limit")
    num_replicas: int | None = Field(None, ge=1, description="Replicas; default 1. Not together with autoscaling")
    autoscaling: AutoscalingConfig | None = Field(None, description="Let Serve choose the number of replicas")
    max_ongoing_requests: int = Field(
        64, ge=1, description="Concurrent requests of one replica, not counting those whose body is still arriving"
    )
    max_queued_requests: int | None = Field(
        256, ge=1, description="Requests that wait in one replica; more get 503. null: no limit"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _rows_of_tokens(cls, value: object, handler: ModelWrapValidatorHandler[GatewayConfig]) -> GatewayConfig:
        """Without API keys, a row can only mean the tenant of a token."""
        config = handler(value)
        if config.auth.jwt is None or config.auth.keys_file is not None:
            return config
        limits, fetch = config.rate_limits, config.fetch
        limits = limits.model_copy(update={"keys": _of_tokens(limits.keys)})
        s3 = fetch.s3.model_copy(update={"allow": _of_tokens(fetch.s3.allow)})
        gs = fetch.gs.model_copy(update={"allow": _of_tokens(fetch.gs.allow)})
        return config.model_copy(update={"rate_limits": limits, "fetch": fetch.model_copy(update={"s3": s3, "gs": gs})})

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> GatewayConfig:
        if self.num_replicas is not None and self.autoscaling is not None:
            raise ValueError("give num_replicas or autoscaling, not both")
        if self.autoscaling is not None and self.autoscaling.target_ongoing_crops is not None:
            raise ValueError("autoscaling.target_ongoing_crops is for steps; here write target_ongoing_requests")
        return self

    def bound_to(self, address: str) -> GatewayConfig:
        """The configuration of an entry that binds ``address``: on a loopback address ``hosts`` are, by default, the
        names of this machine."""
        if self.hosts is not None or address not in LOOPBACK_HOSTS:
            return self
        return self.model_copy(update={"hosts": LOOPBACK_HOSTS})

    @property
    def shares(self) -> int:
        """The most replicas: the parts of a budget when they do not count together."""
        return self.autoscaling.max_replicas if self.autoscaling is not None else self.num_replicas or 1

    def limits_of(self, key_id: str, tenant: str) -> tuple[str, Limits]:
        """The owner of a key's budget, and the budget: its own row's, its tenant's row's, or the default for itself."""
        rows = self.rate_limits.keys
        if key_id in rows:
            return f"key:{key_id}", rows[key_id]
        if tenant in rows:
            return f"tenant:{tenant}", rows[tenant]
        if self.rate_limits.default is not None:
            return f"key:{key_id}", self.rate_limits.default
        return f"key:{key_id}", Limits() if self.auth.is_open else _DEFAULT_LIMITS


def _of_tokens(rows: Mapping[str, T]) -> dict[str, T]:
    return {
        name if name == "*" or name.startswith(JWT_TENANTS) else f"{JWT_TENANTS}{name}": row
        for name, row in rows.items()
    }


def read_gateway_config(block: str | Path | Mapping[str, Any]) -> GatewayConfig:
    """Read the block, or the YAML file that a path names; see :func:`serve_app.config.blocks.read_block`."""
    return read_block(GatewayConfig, "gateway", block, {"auth": _AUTH_CHOICES})
