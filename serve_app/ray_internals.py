"""Everything that is used of Ray beyond its public interface; ``tests/serve_app/test_ray_internals.py`` holds a new
version of Ray to it.

Ray is imported in the functions: it reads its environment when it is imported, and that is set up first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = [
    "application_states",
    "bootstrap_address",
    "controller",
    "crop_budget_bytes",
    "free_resources",
    "http_options",
    "is_gone",
    "kv_delete",
    "kv_get",
    "kv_keys",
    "kv_put",
    "replica_count",
    "session_dir",
]

# Detections, contexts and the bytes of pickle beside the pixels.
_ROOM_BYTES = 512 * 1024
_KV_NAMESPACE = "visiongraph"


def application_states() -> dict[str, str]:
    """State of each Serve application by its name, for example ``"RUNNING"``.

    ``serve.status()`` says more, and rebuilds every deployment's configuration to say it: with five of them a quarter
    of a second of CPU time, which the replicas that are starting need.

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
    """Serve's controller. ``graceful_shutdown.remote(wait=False)`` stops Serve without waiting for it.

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

    return max(0, int(RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH) - _ROOM_BYTES)


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


def kv_put(key: str, value: bytes) -> None:
    """Store a value in the cluster's key-value store, which outlives every process but the head's.

    This and the other ``kv_`` functions block, for milliseconds while the head answers. Not for an event loop.

    Raises:
        RayError: the head does not answer.
    """
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, overwrite=True, namespace=_KV_NAMESPACE)


def kv_get(key: str) -> bytes | None:
    """The value of a key; ``None`` where there is none."""
    from ray.experimental.internal_kv import _internal_kv_get

    return cast("bytes | None", _internal_kv_get(key, namespace=_KV_NAMESPACE))


def kv_keys(prefix: str) -> list[str]:
    """The keys that start with ``prefix``."""
    from ray.experimental.internal_kv import _internal_kv_list

    return [key.decode() for key in _internal_kv_list(prefix, namespace=_KV_NAMESPACE)]


def kv_delete(key: str) -> None:
    """Delete a key; nothing happens where there is none."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=_KV_NAMESPACE)


def replica_count(handle: DeploymentHandle[Any]) -> int:
    """Replicas that calls of a handle can go to now, as far as this process has been told."""
    router = cast("Any", handle)._init_router()._asyncio_router.request_router
    return 0 if router is None else len(router.curr_replicas)


async def is_gone(handle: DeploymentHandle[Any]) -> bool:
    """Whether a handle's deployment was removed, or Serve has given up to start it: calls would wait for ever.

    Raises:
        RayError: Serve's controller does not answer.
        ValueError: there is none.
    """
    from ray.serve._private.common import DeploymentStatus, DeploymentStatusInfo, DeploymentStatusTrigger
    from ray.serve.generated import serve_pb2

    status = await controller().get_deployment_status.remote(handle.deployment_name, handle.app_name)
    if status is None:
        return True
    info = DeploymentStatusInfo.from_proto(cast("Any", serve_pb2).DeploymentStatusInfo.FromString(status))
    return bool(
        info.status == DeploymentStatus.DEPLOY_FAILED or info.status_trigger == DeploymentStatusTrigger.DELETING
    )
