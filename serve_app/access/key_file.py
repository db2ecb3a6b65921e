"""API keys: the client has ``id.secret``; a file that all nodes share has only its hash."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime, Field, ValidationError, field_validator

from classifiers import SetupError
from classifiers.validation import Closed, sentence
from serve_app.config import JWT_TENANTS, read_json

__all__ = [
    "KEY_SCOPES",
    "ApiKey",
    "KeyFile",
    "Scope",
    "create_key",
    "key_hash",
    "matches",
    "read_keys",
    "revoke_key",
    "unreadable",
]

Scope = Literal["infer", "jobs", "admin"]
"""What a key can allow: running images, jobs in the queue, and the rest."""

KEY_SCOPES: tuple[str, ...] = get_args(Scope)

_ID_BYTES = 8
_SECRET_BYTES = 32  # 256 bits cannot be guessed, so a fast hash is enough


class ApiKey(Closed):
    """One key, without its secret."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The part before the dot; it appears in logs")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole key, id.secret")
    tenant: str = Field(
        pattern=r"^[\x21-\x7e]{1,128}$", description="Whose key it is; tenants share limits and see only their own jobs"
    )
    scopes: tuple[Scope, ...] = Field(min_length=1, description="What it allows")
    created: AwareDatetime = Field(description="When it was created")
    expires: AwareDatetime | None = Field(None, description="When it expires")
    revoked: AwareDatetime | None = Field(None, description="When it was revoked")

    @field_validator("tenant")
    @classmethod
    def _is_of_no_token(cls, tenant: str) -> str:
        if tenant.startswith(JWT_TENANTS):
            raise ValueError(f"'{JWT_TENANTS}' begins the names of tenants of tokens; choose another name")
        return tenant

    def is_good(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired at that time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyFile(Closed):
    """The file: every key that was ever created."""

    keys: tuple[ApiKey, ...] = ()

    @field_validator("keys")
    @classmethod
    def _one_row_for_each(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for key_id, count in Counter(key.id for key in keys).items():
            if count > 1:
                raise ValueError(f"two keys have the id {key_id!r}; keep one")
        return keys


def key_hash(key: str) -> str:
    """The part of a key that is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def matches(key: str, stored: str) -> bool:
    """Whether a key has the stored hash; takes the same time for any two."""
    return hmac.compare_digest(key_hash(key), stored)


def read_keys(path: Path) -> KeyFile:
    """Read the file.

    Raises:
        SetupError: it cannot be read, or is not a key file.
    """
    try:
        return KeyFile.model_validate(read_json(path.read_bytes()))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValidationError as error:
        # The values stay out of the message: a file of the wrong kind may hold anything.
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {sentence(e, values=False)}" for e in error.errors()[:5]
        )
        raise SetupError(f"{path} is not a key file: {found}") from error
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{path} is not a key file: {error}") from error


def unreadable(path: Path, error: OSError) -> SetupError:
    """The error for a file that is missing or cannot be opened."""
    return SetupError(f"the key file {path} cannot be read: {error.strerror}; make it with: visiongraph keys create")


def create_key(path: Path, tenant: str, scopes: Sequence[str], expires: datetime | None = None) -> str:
    """Create a key and store its hash; the file is created when it is missing.

    Returns:
        The key, ``id.secret``. It cannot be shown again.

    Raises:
        SetupError: the file cannot be changed, or the tenant or a scope is invalid.
    """
    key_id = secrets.token_hex(_ID_BYTES)
    key = f"{key_id}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        entry = ApiKey.model_validate(
            {
                "id": key_id,
                "sha256": key_hash(key),
                "tenant": tenant,
                "scopes": tuple(scopes),
                "created": _now(),
                "expires": expires,
            }
        )
    except ValidationError as error:
        found = "; ".join(f"{e['loc'][0]}: {sentence(e, values=False)}" for e in error.errors())
        raise SetupError(f"the key cannot be created: {found}") from error
    with _locked(path):
        keys = read_keys(path).keys if path.exists() else ()
        _write(path, KeyFile(keys=(*keys, entry)))
    return key


def revoke_key(path: Path, key_id: str) -> None:
    """Revoke a key; its row stays, so that logs can be read later.

    Raises:
        SetupError: there is no such key, or the file cannot be changed.
    """
    with _locked(path):
        keys = {key.id: key for key in read_keys(path).keys}
        if key_id not in keys:
            raise SetupError(f"there is no key '{key_id}' in {path}; visiongraph keys list shows all keys")
        keys[key_id] = keys[key_id].model_copy(update={"revoked": keys[key_id].revoked or _now()})
        _write(path, KeyFile(keys=tuple(keys.values())))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. The lock is another file, since this one is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise SetupError(f"the key file {path} cannot be changed: {error.strerror}") from error


def _write(path: Path, keys: KeyFile) -> None:
    """Replace the file atomically: a reader finds the old one or the new one."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(keys.model_dump(mode="json", exclude_none=True), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
