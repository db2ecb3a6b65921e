"""Which scope each route wants: the one table, and the routes that hold to it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serve_app.access import Guard

__all__ = ["SCOPES", "SECURITY_SCHEMES", "guarded_route"]

SCOPES: dict[tuple[str, str], str | None] = {
    ("POST", "/v1/images"): "infer",
    ("POST", "/v1/jobs"): "jobs",
    ("GET", "/v1/jobs/{job_id}"): "jobs",
    ("GET", "/v1/jobs/{job_id}/picture"): "jobs",
    ("GET", "/v1/pipeline"): "infer",
    ("GET", "/v1/schema"): None,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/"): None,
}
"""By method and path. ``None``: everybody may. An application with a route that has no row does not start."""

_IMAGES: dict[tuple[str, str], int] = {("POST", "/v1/images"): 1}
"""Images that a request takes from the day's quota before it runs; a route that runs several counts them itself."""

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the identity provider"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key"},
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def guarded_route(guard: Guard) -> type[APIRoute]:
    """The class of routes that ask ``guard`` before anything of the request's body is read."""

    class GuardedRoute(APIRoute):
        """Looks up its scope when it is made."""

        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            methods = options.get("methods") or {"GET"}
            rows = [(method, path.replace(":path}", "}")) for method in methods]
            missing = [row for row in rows if row not in SCOPES]
            if missing:
                raise LookupError(f"{missing} has no row in the table of scopes, serve_app.http.access.SCOPES")
            self.scope = SCOPES[rows[0]]
            self.images = _IMAGES.get(rows[0], 0)
            if self.scope is not None and not guard.is_open:
                security: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
                options["openapi_extra"] = {**(options.get("openapi_extra") or {}), "security": security}
            super().__init__(path, endpoint, **options)

        def get_route_handler(self) -> Handler:
            handler: Handler = super().get_route_handler()
            scope, images = self.scope, self.images
            if scope is None:
                return handler

            async def guarded(request: Request) -> Response:
                async with guard.admitted(request, scope, images):
                    return await handler(request)

            return guarded

    return GuardedRoute
