"""What state Serve's applications are in, asked often."""

from __future__ import annotations

__all__ = ["application_states"]


def application_states() -> dict[str, str]:
    """State of each application by its name, for example ``"RUNNING"``.

    ``serve.status()`` says more, and builds every deployment's configuration again to say it: with five of them a
    quarter of a second of CPU time, which is missing to the replicas that are to start.

    Raises:
        RayServeException: Serve does not run.
        RayError: its controller has died.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None  # noqa: S101 - it raises where Serve does not run
    return {one.name: str(one.app_status.status.value) for one in client.list_serve_statuses()}
