"""Everything that is used of Ray beyond its public interface; ``tests/serve_app/test_ray_internals.py`` checks that a
new version of Ray still has it.

Ray is imported in the functions: it reads its environment when it is imported, and that is set up first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = [
    "CALL_BYTES",
    "ClusterStore",
    "application_states",
    "bootstrap_address",
    "controller",
    "crop_budget_bytes",
    "free_resources",
    "http_options",
    "is_gone",
    "metrics_discovery_file",
    "replica_count",
    "session_dir",
]

CALL_BYTES = 512 * 1024
"""Room in a message for each call or answer beside its pixels or its encoded image: detections, contexts, shapes."""

_KV_NAMESPACE = "visiongraph"
_ANSWER_S = 5.0


def application_states() -> dict[str, str]:
    """State of each Serve application by its name, for example ``"RUNNING"``.

    ``serve.status()`` also rebuilds the configuration of every deployment: with five of them that is a quarter of a
    second of CPU time, which the replicas that are starting need.

    Raises:
        RayServeException: Serve is not running.
        RayError: its controller has died.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None  # noqa: S101 - it raises where Serve is not running
    return {one.name: str(one.app_status.status.value) for one in client.list_serve_statuses()}


def bootstrap_address(address: str) -> str:
    """``HOST:PORT`` of a cluster's head, for an address that ``ray.init`` takes, such as ``auto``.

    Raises:
        ConnectionError: there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die(address))


def controller() -> Any:
    """Serve's controller.

    Raises:
        ValueError: there is none.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)


def crop_budget_bytes() -> int:
    """Bytes of pixels that one message between two replicas may carry, of what
    ``RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH`` allows in this process."""
    from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH

    return max(0, int(RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH) - CALL_BYTES)


def free_resources() -> dict[str, dict[str, float]]:
    """What is not reserved on each node, by the node's id."""
    from ray._private.state import available_resources_per_node

    return cast("dict[str, dict[str, float]]", cast("Any", available_resources_per_node)())


def http_options() -> Any:
    """``host`` and ``port`` of Serve's HTTP endpoint.

    Raises:
        ValueError: Serve is not running.
    """
    import ray

    return ray.get(controller().get_http_config.remote())


def session_dir() -> Path:
    """The folder that Ray keeps for this cluster on this node; Ray must be initialized."""
    from ray._private.worker import global_worker

    return Path(cast("Any", global_worker).node.get_session_dir_path())


def metrics_discovery_file() -> Path:
    """The file by which Ray's dashboard announces Ray's own metrics to Prometheus; Ray must be initialized."""
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    return session_dir() / PROMETHEUS_SERVICE_DISCOVERY_FILE


class ClusterStore(MutableMapping[str, bytes]):
    """A part of the cluster's key-value store, which outlives every process but the head's.

    Its methods block, for milliseconds while the head answers, and raise :class:`ray.exceptions.RayError` where it does
    not. Not for an event loop.

    Args:
        prefix: of the keys in the store; those of the mapping are without it.
    """

    def __init__(self, prefix: str) -> None:
        from ray.experimental import internal_kv

        self._kv: Any = internal_kv
        self._prefix = prefix

    def __getitem__(self, key: str) -> bytes:
        value: bytes | None = self._kv._internal_kv_get(self._prefix + key, namespace=_KV_NAMESPACE)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        self._kv._internal_kv_put(self._prefix + key, value, overwrite=True, namespace=_KV_NAMESPACE)

    def __delitem__(self, key: str) -> None:
        self._kv._internal_kv_del(self._prefix + key, namespace=_KV_NAMESPACE)

    def __iter__(self) -> Iterator[str]:
        keys = self._kv._internal_kv_list(self._prefix, namespace=_KV_NAMESPACE)
        return (key.decode().removeprefix(self._prefix) for key in keys)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def replica_count(handle: DeploymentHandle[Any]) -> int:
    """The number of replicas that calls of a handle can go to, as far as this process knows."""
    router = cast("Any", handle)._init_router()._asyncio_router.request_router
    return 0 if router is None else len(router.curr_replicas)


async def is_gone(handle: DeploymentHandle[Any]) -> bool:
    """Whether a handle's deployment was removed, or Serve has given up starting it: calls would wait forever.

    ``False`` where Serve's controller does not answer.
    """
    from ray.exceptions import RayError
    from ray.serve._private.common import DeploymentStatus, DeploymentStatusInfo, DeploymentStatusTrigger
    from ray.serve.generated import serve_pb2

    try:
        async with asyncio.timeout(_ANSWER_S):
            status = await controller().get_deployment_status.remote(handle.deployment_name, handle.app_name)
    except (RayError, ValueError, TimeoutError):  # it is restarting
        return False
    if status is None:
        return True
    info = DeploymentStatusInfo.from_proto(cast("Any", serve_pb2).DeploymentStatusInfo.FromString(status))
    return bool(
        info.status == DeploymentStatus.DEPLOY_FAILED or info.status_trigger == DeploymentStatusTrigger.DELETING
    )
