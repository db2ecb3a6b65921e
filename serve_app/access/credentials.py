"""Credentials in the headers of a request."""

from __future__ import annotations

from starlette.datastructures import Headers

from serve_app.access.key_checks import ApiKeys
from serve_app.access.principal import ANONYMOUS, Principal
from serve_app.access.tokens import Tokens
from serve_app.config import AuthConfig
from serve_app.refusals import Unauthorized

__all__ = ["Authenticator"]

# A key has some 60 characters, a token with many claims a few thousand.
_MAX_LENGTH = 8192

_HOW = "send 'Authorization: Bearer ...' or 'X-API-Key: ...'"


class Authenticator:
    """Identifies clients by the headers of their requests."""

    def __init__(self, config: AuthConfig) -> None:
        """Read the keys.

        Raises:
            SetupError: the key file or the file with the provider's keys cannot be read.
        """
        self._open = config.is_open
        self._keys = None if config.keys_file is None else ApiKeys(config.keys_file)
        self._tokens = None if config.jwt is None else Tokens(config.jwt)

    async def authenticate(self, headers: Headers) -> Principal:
        """Check the one credential that the headers hold.

        Raises:
            Unauthorized: there is none, more than one, or it is invalid; the message does not say which part of it.
            NotReady: it cannot be checked now.
        """
        if self._open:
            return ANONYMOUS
        credential = _credential(headers)
        # A token is three parts with dots between; a key is two.
        checker: ApiKeys | Tokens | None = self._tokens if credential.count(".") == 2 else self._keys
        if checker is None:
            raise Unauthorized("this kind of credential is not accepted here; ask the operator for a key")
        return await checker.check(credential)


def _credential(headers: Headers) -> str:
    """The one credential. Other schemes than Bearer are for a proxy in front, and empty headers are ignored."""
    authorizations = [value.split(None, 1) for value in headers.getlist("authorization")]
    tokens = [rest[0] for scheme, *rest in filter(None, authorizations) if scheme.lower() == "bearer" and rest]
    sent = list(dict.fromkeys(filter(None, map(str.strip, (*headers.getlist("x-api-key"), *tokens)))))
    if not sent:
        other = "; Authorization has a scheme that is not accepted here" if any(authorizations) else ""
        raise Unauthorized(f"there is no credential; {_HOW}{other}")
    if len(sent) > 1:
        raise Unauthorized("there is more than one credential; send one")
    credential = sent[0]
    if len(credential) > _MAX_LENGTH or not credential.isascii() or not credential.isprintable():
        raise Unauthorized(f"the credential is malformed; {_HOW}")
    return credential
