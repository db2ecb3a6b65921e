"""What is on a node, collected in a process there."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from classifiers.weights import digest_weights, find_model
from graph import load_plan
from serve_app.local.haproxy import find_haproxy
from serve_app.local.model_downloads import required_models

__all__ = ["NodeFacts", "node_facts", "unmet_requirements"]

_WATCHED = re.compile("RAY_SERVE_.*|RAY_AUTH_MODE|VISIONGRAPH_MODELS")
_OWN_PACKAGES = ("serve_app", "graph", "classifiers")


@dataclass(frozen=True)
class NodeFacts:
    """What is on a node.

    Attributes:
        name: for messages.
        python: its version.
        packages: version of each package that this project needs, and of itself, by name.
        code: digest of this project's own code.
        environment: variables of Ray Serve and of this project.
        haproxy: HAProxy runs there.
        runs_replicas: the node has CPUs for replicas.
        clock_offset_s: its clock compared to that of the process that asks; positive: it is ahead.
        models: by the name in the pipeline file, the digest of each model; ``"hub"``: the cache of its own library has
            it; ``None``: it is missing.
    """

    name: str
    python: str
    packages: Mapping[str, str]
    code: str
    environment: Mapping[str, str]
    haproxy: bool
    runs_replicas: bool = True
    clock_offset_s: float = 0.0
    models: Mapping[str, str | None] = field(default_factory=dict)


def node_facts(pipeline: dict[str, Any] | str | None = None) -> NodeFacts:
    """The facts of the machine that this process runs on.

    Args:
        pipeline: whose models are looked for, a file or the same inline.
    """
    return NodeFacts(
        name=socket.gethostname(),
        python=platform.python_version(),
        packages={name: _installed(name) for name in sorted({"visiongraph", *(r.name for r in _requirements())})},
        code=_code_digest(),
        environment={key: value for key, value in sorted(os.environ.items()) if _WATCHED.fullmatch(key)},
        haproxy=find_haproxy() is not None,
        models={} if pipeline is None else _models(pipeline),
    )


def unmet_requirements() -> list[str]:
    """Requirements of this project that the packages of this process do not meet, for example ``ray>=2.60 (2.59)``."""
    found = [(each, _installed(each.name)) for each in _requirements()]
    return [
        f"{each.name}{each.specifier} ({installed})"
        for each, installed in found
        if installed == "not installed" or not each.specifier.contains(installed, prereleases=True)
    ]


def _requirements() -> list[Requirement]:
    """Those without an extra."""
    requirements = [Requirement(text) for text in requires("visiongraph") or ()]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _code_digest() -> str:
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for package in _OWN_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _models(pipeline: dict[str, Any] | str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for model in required_models(load_plan(pipeline)):
        path = find_model(model.ref)
        found[model.ref] = digest_weights(path) if path is not None else "hub" if model.is_there else None
    return found
