"""Hashes of what decides a result: plain data, and the code of a class."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import classifiers

__all__ = ["code_digest", "digest"]

_OWN_DISTRIBUTION = "visiongraph"
_OWN_PACKAGES = ("classifiers", "graph", "serve_app")  # to look them up takes half a second


def digest(data: Any) -> str:
    """SHA-256 of data that JSON can hold, as 64 hexadecimal digits. The order of keys does not count."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def code_digest(cls: type) -> str:
    """SHA-256 of the code behind a class: its and its bases' source files and versions, and our own code."""
    modules = sorted(
        {owner.__module__ for owner in cls.__mro__ if owner.__module__ not in ("builtins", "abc", "typing")}
    )
    versions = {name: version for module in modules for name, version in _versions(module.partition(".")[0]).items()}
    return digest([_own_code(), versions, {module: _source_digest(module, cls) for module in modules}])


@functools.cache
def _own_code() -> list[str | None]:
    """Decoding and cropping decide results whatever class is asked; in a checkout they change without the version."""
    files = sorted(Path(classifiers.__file__).parent.glob("*.py"))
    return [_version(_OWN_DISTRIBUTION), *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]


def _source_digest(module: str, cls: type) -> str | None:
    owner = next(owner for owner in cls.__mro__ if owner.__module__ == module)
    try:
        file = inspect.getsourcefile(owner)
    except TypeError:  # made in an interactive session
        return None
    path = Path(file) if file else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None


def _versions(package: str) -> Mapping[str, str | None]:
    if package in _OWN_PACKAGES:
        return {}
    return {name: _version(name) for name in sorted(set(_distributions().get(package, ())))}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
