"""Secrets: the manifests name them, and never contain what is in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.kubernetes.target import Target

__all__ = ["GATEWAY_FOLDER", "References", "with_mounted_files"]

GATEWAY_FOLDER = "/etc/visiongraph/gateway"
"""Where the files that the gateway block names are mounted."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class References:
    """What pods take from Secrets.

    Attributes:
        token: name of the Secret with Ray's token, under ``auth_token``.
        gateway: name of the Secret with ``files``.
        files: files that the gateway reads: where they are here, by the name that they get.
        credentials: name of the Secret with ``variables``.
        variables: environment variables that ``${NAME}`` in a URL stands for.
    """

    token: str
    gateway: str
    files: Mapping[str, str]
    credentials: str
    variables: tuple[str, ...]

    @classmethod
    def of(cls, target: Target, gateway: GatewayConfig, intake: IntakeConfig | None) -> References:
        """What an application needs."""
        urls = [target.redis or "", "" if intake is None else intake.queue]
        return cls(
            token=f"{target.name}-ray-token",
            gateway=f"{target.name}-gateway",
            files=_files(gateway),
            credentials=f"{target.name}-credentials",
            variables=tuple(sorted({name for url in urls for name in _VARIABLE.findall(url)})),
        )

    def value(self, variable: str) -> dict[str, Any]:
        """``valueFrom`` of a variable."""
        return {"secretKeyRef": {"name": self.credentials, "key": variable}}

    def commands(self, namespace: str) -> list[str]:
        """What creates the Secrets, one command a line."""
        create = f"kubectl -n {namespace} create secret generic"
        lines = [f'{create} {self.token} --from-literal=auth_token="$(openssl rand -hex 32)"']
        if self.files:
            options = " ".join(f"--from-file={name}={Path(path).name}" for name, path in self.files.items())
            lines.append(f"{create} {self.gateway} {options}")
        if self.variables:
            options = " ".join(f"--from-literal={name}=..." for name in self.variables)
            lines.append(f"{create} {self.credentials} {options}")
        return lines


def with_mounted_files(gateway: GatewayConfig) -> GatewayConfig:
    """The block with the paths that its files have in a pod."""
    mounted = {name: f"{GATEWAY_FOLDER}/{name}" for name in _files(gateway)}
    auth = gateway.auth
    if auth.jwt is not None and "jwks.json" in mounted:
        jwt = auth.jwt.model_copy(update={"jwks": mounted["jwks.json"]})
        auth = auth.model_copy(update={"jwt": jwt})
    if "keys.json" in mounted:
        auth = auth.model_copy(update={"keys_file": mounted["keys.json"]})
    return gateway.model_copy(update={"auth": auth})


def _files(gateway: GatewayConfig) -> dict[str, str]:
    files = {}
    if gateway.auth.keys_file is not None:
        files["keys.json"] = gateway.auth.keys_file
    if gateway.auth.jwt is not None and "://" not in gateway.auth.jwt.jwks:
        files["jwks.json"] = gateway.auth.jwt.jwks
    return files
