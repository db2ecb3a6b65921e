"""Hashes of what decides a result: plain data, and the code of a class."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import classifiers
from classifiers.base import BaseClassifier

__all__ = ["code_digest", "digest"]

_OWN_DISTRIBUTION = "visiongraph"
_OWN_PACKAGES = ("classifiers", "graph", "serve_app")
_DATA = (".csv", ".json", ".toml", ".txt", ".yaml", ".yml")  # labels and settings; models have their own digest
_MAX_DATA_BYTES = 2**20  # of a larger file only the size is used
_MAX_FILES = 5_000  # in a package with more, only the source files are used
_MAX_PARSED = 500  # source files of a package that are searched for imports; 20 ms each at worst


def digest(data: Any) -> str:
    """SHA-256 of data that JSON can hold, as 64 hexadecimal digits. The order of keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@functools.lru_cache(maxsize=256)  # of the code as it was imported; reading a package may take a while
def code_digest(cls: type) -> str:
    """SHA-256 of the code behind a class, and our own code.

    These are the packages of the class and its bases, with their small data files, and the packages that they import
    from outside ``site-packages``. Of packages in ``site-packages`` the version is used, and the files of those with
    a classifier.
    """
    return digest([_own_code(), _code_behind(cls)])


@functools.cache
def _own_code() -> list[Any]:
    """Decoding and cropping decide the results of every class; in a checkout they change without the version."""
    return [_version(_OWN_DISTRIBUTION), _files_in(Path(classifiers.__file__).parent)]


def _code_behind(cls: type) -> dict[str, Mapping[str, str | None]]:
    """Hashes of files and versions of distributions, by package."""
    found: dict[str, Mapping[str, str | None]] = {}
    classifiers_first = sorted(cls.__mro__, key=lambda base: not issubclass(base, BaseClassifier))
    pending: list[tuple[str, type | None]] = [(base.__module__, base) for base in classifiers_first]
    for module, base in pending:
        spec = _package_of(module)
        if spec is None or spec.name in found:
            continue
        if {"site-packages", "dist-packages"}.isdisjoint(Path(spec.origin or "").parts):
            found[spec.name] = _files_of(spec)
            pending += [(name, None) for name in _imported(spec)]  # which this loop goes on with
        elif base is not None:
            files = _files_of(spec) if issubclass(base, BaseClassifier) else {}
            found[spec.name] = {**files, **_versions(spec.name.partition(".")[0])}
    return found


def _files_of(spec: ModuleSpec) -> dict[str, str]:
    archive = getattr(spec.loader, "archive", None)
    if archive is not None:  # in a ZIP file, which is hashed as a whole
        return {"": _hash_of(Path(archive))}
    if spec.submodule_search_locations is None:
        return {"": _hash_of(Path(spec.origin or ""))}
    return _files_in(Path(spec.origin or "").parent)


def _package_of(module: str) -> ModuleSpec | None:
    """The outermost package with an ``__init__`` that a module is in, or the module itself where it is in none.
    ``None`` for what is part of Python, of this project, or in no file."""
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] in _OWN_PACKAGES:
        return None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            return None
        except ValueError:  # a script, or made in an interactive session
            file = getattr(sys.modules[name], "__file__", None)
            return None if file is None else importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.has_location:
            return spec
    return None


def _imported(spec: ModuleSpec) -> Iterator[str]:
    """The names of modules that a package or module imports from outside of itself, those of functions among them."""
    path, is_package = Path(spec.origin or ""), spec.submodule_search_locations is not None
    for file in sorted(path.parent.rglob("*.py"))[:_MAX_PARSED] if is_package else [path]:
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):  # not importable, or not source code
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level and (is_package or not spec.parent):
                    continue
                if node.level:
                    base = importlib.util.resolve_name("." * node.level + base, spec.parent)
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _files_in(folder: Path) -> dict[str, str]:
    """The hashes of the source files and of the small data files of a package."""
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        files += [Path(place, name) for name in names if name.endswith((".py", *_DATA))]
    if len(files) > _MAX_FILES:
        files = [file for file in files if file.suffix == ".py"]
    return {file.relative_to(folder).as_posix(): _hash_of(file) for file in files}


def _hash_of(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > _MAX_DATA_BYTES and file.suffix in _DATA:
            return str(size)
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # a broken link, or an interactive session's source
        return ""


def _versions(package: str) -> dict[str, str | None]:
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
