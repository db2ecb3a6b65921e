"""A new version of a pipeline replaces the old one as a whole, or not at all.

Serve rolls each deployment by itself: where one step of a new version cannot load its model, the others would take over
and answer the old gateway. So a replica is not ready before every deployment of its version has a replica that has
loaded its models. Their progress is kept in the cluster's key-value store, under the application and the version.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ray import serve

from classifiers import SetupError
from graph import Plan
from graph.pipeline_file import INGRESS, AutoscalingConfig
from serve_app.ray_internals import ClusterStore

__all__ = ["Rollout", "awaited_hosts"]

_POLL_S = 0.2
_SAY_EVERY_S = 10.0
# Serve restarts a replica that failed at once: a step that has not begun to load again after this time has failed.
_FAILED_FOR_S = 30.0
_LONGEST_S = 600.0
_COMPLETE = "complete"

_log = logging.getLogger(__name__)


def awaited_hosts(plan: Plan, gateway: AutoscalingConfig | None) -> list[str]:
    """The hosts that a new version waits for: those that must have a replica.

    Args:
        plan: of the version.
        gateway: how the gateway is scaled; ``None``: not at all.
    """
    ingress = [] if gateway is not None and gateway.min_replicas == 0 else [INGRESS]
    return ingress + [name for name in plan.hosts if not plan[name].serve.scales_to_zero]


class Rollout:
    """The part of one process in the rollout of its version.

    A version that was complete once is not waited for again: a replica that is restarted or added later is ready as
    soon as it has loaded its own models.

    Args:
        structure: the pipeline without its tunables, which identifies the version, along with the code of its classes.
        plan: the same, planned.
        host: the step that has the deployment of this process, or ``INGRESS``.
        awaited: see :func:`awaited_hosts`.
    """

    def __init__(self, structure: Mapping[str, Any], plan: Plan, host: str, awaited: Sequence[str]) -> None:
        self._store = ClusterStore(f"rollout/{serve.get_replica_context().app_name}/")
        identity = json.dumps([structure, plan.structure_digest], sort_keys=True)
        self._version = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._awaited = awaited
        self._host = host
        self._is_over = self._store.get(_COMPLETE) == self._version.encode()
        if not self._is_over:
            self._note("loading")

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Load the models in the block; afterwards it waits until those of the whole version are loaded. Only the first
        call has an effect.

        Raises:
            SetupError: another process of the version could not load its models.
        """
        if self._is_over:
            yield
            return
        try:
            yield
        except Exception as error:
            self._note("failed", f"{type(error).__name__}: {error}")
            raise
        self._note("loaded")
        missing, began, logged = self._awaited, time.monotonic(), time.monotonic()
        while missing := await asyncio.to_thread(self._not_loaded, missing, time.monotonic() - began):
            if time.monotonic() - logged > _SAY_EVERY_S:
                logged = time.monotonic()
                _log.warning("ready, and waiting for the rest of this version to load: %s", ", ".join(missing))
            await asyncio.sleep(_POLL_S)
        await asyncio.to_thread(self._complete)
        self._is_over = True

    def _not_loaded(self, hosts: Sequence[str], waited_s: float) -> list[str]:
        """Those of ``hosts`` that have not loaded yet.

        Raises:
            SetupError: one of them failed, or is not done after the longest time.
        """
        missing, is_late = [], waited_s > _LONGEST_S
        for host in hosts:
            noted = self._store.get(f"{self._version}/{host}")
            state: dict[str, Any] = {"state": "not started"} if noted is None else json.loads(noted)
            if state["state"] == "loaded":
                continue
            has_failed = state["state"] == "failed" and min(waited_s, time.time() - state["at"]) > _FAILED_FOR_S
            if has_failed or (is_late and noted is not None):
                raise SetupError(
                    f"this version does not take over, because its {host} could not be loaded: "
                    f"{state['error'] or 'it did not finish'}; the previous version stays in service"
                )
            if is_late:
                _log.warning(
                    "%s of this version has no replica after %.0f s, as if the cluster had no room for it; this "
                    "process takes over without it",
                    host,
                    waited_s,
                )
            else:
                missing.append(host)
        return missing

    def _complete(self) -> None:
        """Record that this version was complete, and delete the records of earlier ones."""
        self._store[_COMPLETE] = self._version.encode()
        for key in list(self._store):
            if key != _COMPLETE and not key.startswith(f"{self._version}/"):
                del self._store[key]

    def _note(self, state: str, error: str = "") -> None:
        noted = {"state": state, "error": error, "at": time.time()}
        self._store[f"{self._version}/{self._host}"] = json.dumps(noted).encode()
