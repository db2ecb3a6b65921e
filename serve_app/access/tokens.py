"""Checks tokens (JWT) of an identity provider, with its public keys (JWKS) from a URL or a file."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from pathlib import Path
from typing import Any, get_args

import httpx
import jwt

from classifiers import SetupError
from serve_app.access.key_file import KEY_SCOPES
from serve_app.access.principal import Principal
from serve_app.config import JWT_TENANTS, Algorithm, JwtConfig, read_json
from serve_app.refusals import NotReady, Unauthorized

__all__ = ["Tokens"]

_log = logging.getLogger(__name__)

_FETCH_TIMEOUT_S = 3.0

# Tokens with invented key ids must not cause a request to the provider each time.
_ASK_AGAIN_S = 10.0

# Keys that were read stay valid for so long when the provider is unavailable: not forever, since it may revoke them.
_STALE_AFTER_S = 3600.0

_TENANT = re.compile(r"[\x21-\x7e]{1,128}")

_INVALID = "the token is invalid"


class Tokens:
    """The tokens of one provider.

    Raises:
        SetupError: the keys are in a file, and it cannot be read.
    """

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        self._url = config.jwks if "://" in config.jwks else None
        self._keys: list[tuple[object, str, jwt.PyJWK]] = []  # its kid, and an algorithm that it is for
        self._read_at = self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        if self._url is None:
            try:
                self._take(read_json(Path(config.jwks).read_bytes()))
            except (OSError, ValueError, jwt.PyJWTError) as error:
                raise SetupError(f"the keys of {config.issuer} in {config.jwks} cannot be read: {error}") from error

    async def check(self, credential: str) -> Principal:
        """Identify the client by its token.

        Raises:
            Unauthorized: it is invalid; the message says why only where that helps an honest client.
            NotReady: the provider's keys are unavailable.
        """
        config = self._config
        try:
            header = jwt.get_unverified_header(credential)
        except jwt.PyJWTError as error:
            raise Unauthorized(_INVALID) from error
        algorithm = header.get("alg")
        if algorithm not in config.algorithms:
            taken = ", ".join(config.algorithms)
            raise Unauthorized(f"{_INVALID}: it is signed with {str(algorithm)[:20]!r}, and not with {taken}")
        key = await self._key(header.get("kid"), algorithm)
        try:
            claims = jwt.decode(
                credential,
                key,
                algorithms=list(config.algorithms),
                issuer=config.issuer,
                audience=config.audience,
                leeway=config.leeway_s,
                options={"require": ["exp", "iss", "aud", config.tenant_claim]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("the token has expired; get a new one") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Unauthorized(_INVALID) from error
        return self._principal(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        tenant = claims[self._config.tenant_claim]
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
            raise Unauthorized(f"{_INVALID}: its {self._config.tenant_claim} is not a valid name")
        said = claims.get(self._config.scopes_claim, [])
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        # No tenant of a key has this prefix: a user of the provider cannot become the tenant of a key by its name.
        name = f"{JWT_TENANTS}{tenant}"
        return Principal(name, name, frozenset(scope for scope in KEY_SCOPES if scope in words))

    async def _key(self, kid: object, algorithm: str) -> jwt.PyJWK:
        """The key that a token was signed with: the one with its id, or else the only possible one."""
        now = time.monotonic()
        fitting = self._fitting(kid, algorithm)
        if now - self._read_at > self._config.refresh_s or not fitting:
            await self._ask(now)
            fitting = self._fitting(kid, algorithm)
        if time.monotonic() - self._read_at > max(_STALE_AFTER_S, self._config.refresh_s):
            raise NotReady("tokens cannot be checked now; try again", retry_after_s=5)
        if not fitting:
            raise Unauthorized(f"{_INVALID}: its key is not one of the provider's")
        if len(fitting) > 1:
            raise Unauthorized(f"{_INVALID}: it does not say which of the provider's keys it was signed with (kid)")
        return fitting[0]

    def _fitting(self, kid: object, algorithm: str) -> list[jwt.PyJWK]:
        """A key without ``kid`` may be any token's, and a token without it may be signed by any key."""
        named = [key for key in self._keys if kid is not None and key[0] == kid]
        keys = named or [key for key in self._keys if kid is None or key[0] is None]
        return [jwk for _, known, jwk in keys if known == algorithm]

    async def _ask(self, now: float) -> None:
        """Read the keys again, unless that was done in the last seconds. One request reads them; the others wait."""
        async with self._asking:
            if now < self._asked_at or time.monotonic() - self._asked_at < _ASK_AGAIN_S:
                return
            try:
                self._take(await self._document())
            except (OSError, ValueError, httpx.HTTPError, jwt.PyJWTError) as error:
                _log.warning("the keys of %s cannot be read (%s); those read last are used", self._config.issuer, error)
            finally:
                self._asked_at = time.monotonic()

    async def _document(self) -> Any:
        if self._url is None:
            return read_json(await asyncio.to_thread(Path(self._config.jwks).read_bytes))
        async with asyncio.timeout(_FETCH_TIMEOUT_S), httpx.AsyncClient() as client:
            return read_json((await client.get(self._url)).raise_for_status().content)

    def _take(self, document: Any) -> None:
        rows = document.get("keys") if isinstance(document, dict) else None
        keys = [
            (row.get("kid"), algorithm, jwk)
            for row in (rows if isinstance(rows, list) else ())
            for algorithm in get_args(Algorithm)
            if isinstance(row, dict) and (jwk := _usable(row, algorithm)) is not None
        ]
        if not keys:
            raise ValueError("it has no key that signatures can be checked with")
        self._keys = keys
        self._read_at = time.monotonic()


def _usable(row: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key for one algorithm. A key that names its algorithm is for that alone; the others for each that fits."""
    operations = row.get("key_ops")
    if (
        row.get("use") not in (None, "sig")
        or row.get("alg") not in (None, algorithm)
        or (isinstance(operations, list) and "verify" not in operations)
    ):
        return None
    try:
        key = jwt.PyJWK(row, algorithm)
        key.Algorithm.prepare_key(key.key)  # checks the curve
    except (jwt.PyJWTError, TypeError):  # of another type, or damaged; the others may be valid
        return None
    return key
