"""Who sent a request, after it has been checked."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANONYMOUS", "Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A client that has come in.

    Attributes:
        key_id: names the key, stands in logs; ``anonymous`` where everybody may come in.
        tenant: to whom limits and jobs belong.
        scopes: what it may do.
    """

    key_id: str
    tenant: str
    scopes: frozenset[str]


ANONYMOUS = Principal("anonymous", "anonymous", frozenset(("infer", "jobs", "admin")))
"""Everybody, where the configuration says ``auth: none``."""
