"""A new version of a pipeline replaces the old one as a whole, or not at all.

Serve rolls each deployment by itself: where one step of a new version cannot load its model, the others would take over
and answer the old gateway. So a replica is not ready before every process of its version has loaded its models, in any
replica. How far they are stands in the cluster's key-value store, under the application and the version.
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
from serve_app.ray_internals import kv_delete, kv_get, kv_keys, kv_put

__all__ = ["Rollout", "awaited_hosts"]

_POLL_S = 0.2
_SAY_EVERY_S = 10.0
# Serve starts a replica that failed again at once: a step that has not begun to load for so long has failed for good.
_FAILED_FOR_S = 30.0
_LONGEST_S = 600.0

_log = logging.getLogger(__name__)


def awaited_hosts(plan: Plan, gateway: AutoscalingConfig | None) -> list[str]:
    """Whose processes a new version waits for: those that are not allowed to have no replica.

    Args:
        plan: of the version.
        gateway: how the gateway is scaled; ``None``: not at all.
    """
    ingress = [] if gateway is not None and gateway.min_replicas == 0 else [INGRESS]
    return ingress + [name for name in plan.hosts if not plan[name].serve.scales_to_zero]


class Rollout:
    """What one process has to do with the rollout of its version.

    A version that was complete once is not waited for again: a replica that is started anew, or added, is ready as soon
    as it has loaded its own models.

    Args:
        structure: the pipeline without its tunables, which the version is told by, along with the code of its classes.
        plan: the same, planned.
        host: whose process this is: the step that has the deployment, or ``INGRESS``.
        awaited: see :func:`awaited_hosts`.
    """

    def __init__(self, structure: Mapping[str, Any], plan: Plan, host: str, awaited: Sequence[str]) -> None:
        self._application = f"rollout/{serve.get_replica_context().app_name}/"
        identity = json.dumps([structure, plan.structure_digest], sort_keys=True)
        self._version = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._awaited = awaited
        self._host = host
        self._is_over = kv_get(f"{self._application}complete") == self._version.encode()
        if not self._is_over:
            self._note("loading")

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Load the models in the block; it ends when those of the whole version are loaded. After the first time it
        does nothing.

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
        await self._wait_for_the_others()
        self._is_over = True

    async def _wait_for_the_others(self) -> None:
        missing, began, said = self._awaited, time.monotonic(), time.monotonic()
        while missing := await asyncio.to_thread(self._not_loaded, missing, time.monotonic() - began):
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                _log.warning("ready, and waiting for the rest of this version to load: %s", ", ".join(missing))
            await asyncio.sleep(_POLL_S)
        await asyncio.to_thread(self._complete)

    def _not_loaded(self, hosts: Sequence[str], waited_s: float) -> list[str]:
        """Those of ``hosts`` that are not loaded yet.

        Raises:
            SetupError: one of them failed, or is not done after the longest time.
        """
        missing, is_late = [], waited_s > _LONGEST_S
        for host in hosts:
            noted = kv_get(self._key(host))
            if noted is None:
                if is_late:
                    _log.warning(
                        "%s of this version has no replica after %.0f s, as if the cluster had no room for it; this "
                        "process takes over without it",
                        host,
                        waited_s,
                    )
                else:
                    missing.append(host)
                continue
            state = json.loads(noted)
            if state["state"] == "loaded":
                continue
            has_failed = state["state"] == "failed" and min(waited_s, time.time() - state["at"]) > _FAILED_FOR_S
            if has_failed or is_late:
                raise SetupError(
                    f"this version does not take over, for {host} of it is not loaded: "
                    f"{state['error'] or 'it did not end'}; the version before it goes on"
                )
            missing.append(host)
        return missing

    def _complete(self) -> None:
        """Remember that this version was complete, and forget those before it."""
        kv_put(f"{self._application}complete", self._version.encode())
        for key in kv_keys(self._application):
            if not key.startswith((self._key(""), f"{self._application}complete")):
                kv_delete(key)

    def _note(self, state: str, error: str = "") -> None:
        noted = {"state": state, "error": error, "at": time.time()}
        kv_put(self._key(self._host), json.dumps(noted).encode())

    def _key(self, host: str) -> str:
        return f"{self._application}{self._version}/{host}"
