"""Access to a router: the scope that its requests need, and what they take from their key's budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from serve_app.access import Guard

__all__ = ["access"]

# For the OpenAPI document only: the guard reads the headers itself.
_CREDENTIALS = [
    Security(
        HTTPBearer(scheme_name="bearer", description="An API key or a token of the identity provider", auto_error=False)
    ),
    Security(APIKeyHeader(name="X-API-Key", scheme_name="key", description="An API key", auto_error=False)),
]


def access(guard: Guard, scope: str | None, images: int = 0) -> list[Any]:
    """The dependencies of a router. They are resolved before anything of a request's body is read.

    Args:
        scope: what the credential must allow; ``None``: everyone may.
        images: that each request takes from the daily quota; a route that runs several counts them itself.
    """
    if scope is None:
        return []

    async def admit(request: Request) -> AsyncIterator[None]:
        async with guard.admitted(request, scope, images):
            yield

    return [*([] if guard.is_open else _CREDENTIALS), Depends(admit, scope="function")]
