"""The authenticated client of a request."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANONYMOUS", "Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated client.

    Attributes:
        key_id: names the key, for logs; ``anonymous`` without authentication.
        tenant: owns limits and jobs.
        scopes: what it may do.
    """

    key_id: str
    tenant: str
    scopes: frozenset[str]


ANONYMOUS = Principal("anonymous", "anonymous", frozenset(("infer", "jobs", "admin")))
"""Everyone, with ``auth: none``."""
