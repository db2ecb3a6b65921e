"""The HTTP side: routes, bodies, problems. Knows the engine, not Ray."""

from serve_app.http.application import make_app

__all__ = ["make_app"]
