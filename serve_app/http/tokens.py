"""Checks tokens (JWT) of an identity provider, with its public keys (JWKS) from a URL or a file."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from pathlib import Path
from typing import Any

import httpx
import jwt

from classifiers import SetupError
from serve_app.blocks import read_json
from serve_app.gateway_config import JwtConfig
from serve_app.http.principal import Principal
from serve_app.http.problems import NotReady, Unauthorized
from serve_app.keys import KEY_SCOPES

__all__ = ["Tokens"]

_log = logging.getLogger(__name__)

_FETCH_TIMEOUT_S = 3.0
_MAX_JWKS_BYTES = 1 << 20

# Tokens that name made-up keys must not make us ask the provider each time.
_ASK_AGAIN_S = 10.0

# A provider that is away must not lock everybody out at once, nor may keys that it has taken back be good for ever.
_BLIND_S = 3600.0

_TENANT = re.compile(r"[\x21-\x7e]{1,128}")

_BAD = "the token is not good"


class Tokens:
    """The tokens of one provider.

    Raises:
        SetupError: the keys are in a file, and it cannot be read.
    """

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        self._url = config.jwks if "://" in config.jwks else None
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        if self._url is None:
            try:
                self._take(read_json(Path(config.jwks).read_bytes()))
            except (OSError, ValueError, jwt.PyJWTError) as error:
                raise SetupError(f"the keys of {config.issuer} in {config.jwks} cannot be read: {error}") from error

    async def check(self, credential: str) -> Principal:
        """Tell whose token it is.

        Raises:
            Unauthorized: it is not good; the message says why only where that helps an honest client.
            NotReady: the provider's keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(credential)
        except jwt.PyJWTError as error:
            raise Unauthorized(_BAD) from error
        key = await self._key(header.get("kid"))
        if key is None:
            raise Unauthorized(f"{_BAD}: its key is none of the provider's")
        config = self._config
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
            raise Unauthorized(_BAD) from error
        return self._principal(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        tenant = claims[self._config.tenant_claim]
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
            raise Unauthorized(f"{_BAD}: its {self._config.tenant_claim} is no name")
        said = claims.get(self._config.scopes_claim, [])
        words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        return Principal(f"jwt:{tenant}", tenant, frozenset(scope for scope in KEY_SCOPES if scope in words))

    async def _key(self, kid: object) -> jwt.PyJWK | None:
        kid = kid if isinstance(kid, str) else None
        now = time.monotonic()
        if now - self._read_at > self._config.refresh_s or kid not in self._keys:
            await self._ask(now)
        if time.monotonic() - self._read_at > max(_BLIND_S, self._config.refresh_s):
            raise NotReady("tokens cannot be checked now; try again", retry_after_s=5)
        return self._keys.get(kid)

    async def _ask(self, now: float) -> None:
        """Read the keys again, if nobody has in the last seconds. One request asks, and the others wait for it."""
        async with self._asking:
            if now < self._asked_at or time.monotonic() - self._asked_at < _ASK_AGAIN_S:
                return
            try:
                self._take(await self._document())
            except (OSError, ValueError, httpx.HTTPError, jwt.PyJWTError) as error:
                _log.warning(
                    "the keys of %s cannot be read (%s); going on with those read last", self._config.issuer, error
                )
            finally:
                self._asked_at = time.monotonic()

    async def _document(self) -> Any:
        if self._url is None:
            return read_json(await asyncio.to_thread(Path(self._config.jwks).read_bytes))
        data = b""
        async with (
            asyncio.timeout(_FETCH_TIMEOUT_S),
            httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S) as client,
            client.stream("GET", self._url) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > _MAX_JWKS_BYTES:
                    raise ValueError(f"the answer of {self._url} is no set of keys: it is too long")
        return read_json(data)

    def _take(self, document: Any) -> None:
        if not isinstance(document, dict):
            raise ValueError("it is no set of keys")  # noqa: TRY004 - as json.loads
        found = jwt.PyJWKSet.from_dict(document).keys
        self._keys = {key.key_id: key for key in found if key.public_key_use in (None, "sig")}
        self._read_at = time.monotonic()
