"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status", "error", "ok", "warning"]

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        check: what was looked at, a word or two.
        fix: what to do; empty where nothing is to be done.
    """

    status: Status
    check: str
    message: str
    fix: str = ""


def ok(check: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", check, message)


def warning(check: str, message: str, fix: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding("warning", check, message, fix)


def error(check: str, message: str, fix: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding("error", check, message, fix)
