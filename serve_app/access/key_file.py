"""API keys: ``id.secret`` in the client's hands, and only a hash of it in a file that all nodes share."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError, field_validator

from classifiers import SetupError
from classifiers.validation import Closed, sentence
from serve_app.config import JWT_TENANTS, read_json

__all__ = [
    "KEY_SCOPES",
    "ApiKey",
    "KeyFile",
    "create_key",
    "key_hash",
    "matches",
    "read_keys",
    "revoke_key",
    "unreadable",
]

KEY_SCOPES = ("infer", "jobs", "admin")
"""What a key can be good for: running images, jobs in the queue, and the rest."""

_ID_BYTES = 8
_SECRET_BYTES = 32  # 256 bits: nothing to guess, so a plain fast hash keeps it


class ApiKey(Closed):
    """One key, without its secret."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The part before the dot; no secret, it stands in logs"
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole key, id.secret")
    tenant: str = Field(
        pattern=r"^[\x21-\x7e]{1,128}$", description="Whose key it is; tenants share limits and see only their own jobs"
    )
    scopes: tuple[Literal["infer", "jobs", "admin"], ...] = Field(min_length=1, description="What it is good for")
    created: AwareDatetime = Field(description="When it was made")
    expires: AwareDatetime | None = Field(None, description="When it ends by itself")
    revoked: AwareDatetime | None = Field(None, description="When it was taken back")

    @field_validator("tenant")
    @classmethod
    def _is_of_no_token(cls, tenant: str) -> str:
        if tenant.startswith(JWT_TENANTS):
            raise ValueError(f"'{JWT_TENANTS}' begins the names of tenants of tokens; choose another name")
        return tenant

    def is_good(self, now: datetime) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyFile(Closed):
    """The file: every key that was ever made."""

    keys: tuple[ApiKey, ...] = ()

    @field_validator("keys")
    @classmethod
    def _one_row_for_each(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        seen: set[str] = set()
        for key in keys:
            if key.id in seen:
                raise ValueError(f"two keys have the id {key.id!r}; keep one")
            seen.add(key.id)
        return keys


def key_hash(key: str) -> str:
    """What of a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def matches(key: str, stored: str) -> bool:
    """Whether a key has the stored hash; takes the same time for any two."""
    return hmac.compare_digest(key_hash(key), stored)


def read_keys(path: Path) -> KeyFile:
    """Read the file.

    Raises:
        SetupError: it cannot be read, or is none.
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
    """What to say of a file that is not there, or not for us."""
    return SetupError(f"the key file {path} cannot be read: {error.strerror}; make it with: visiongraph keys create")


def create_key(path: Path, tenant: str, scopes: Sequence[str], expires: datetime | None = None) -> str:
    """Make a key and store its hash; the file is made where there is none.

    Returns:
        The key, ``id.secret``. Nobody can show it again.

    Raises:
        SetupError: the file cannot be changed, or the tenant or a scope is none.
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
        raise SetupError(f"not a key that can be made: {found}") from error
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
        keys = read_keys(path).keys
        if all(key.id != key_id for key in keys):
            raise SetupError(f"there is no key '{key_id}' in {path}; visiongraph keys list shows those that there are")
        _write(
            path,
            KeyFile(
                keys=tuple(k.model_copy(update={"revoked": k.revoked or _now()}) if k.id == key_id else k for k in keys)
            ),
        )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. The lock is a file beside it, since the file itself is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise SetupError(f"the key file {path} cannot be changed: {error.strerror}") from error


def _write(path: Path, keys: KeyFile) -> None:
    """Replace the file in one step, so that a reader finds the old one or the new one and never half of it."""
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
