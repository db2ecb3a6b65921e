"""The ``gateway:`` and ``intake:`` blocks."""

from serve_app.config.blocks import read_json
from serve_app.config.gateway_config import (
    JWT_TENANTS,
    LOOPBACK_HOSTS,
    Algorithm,
    AuthConfig,
    FetchConfig,
    GatewayConfig,
    JwtConfig,
    Limits,
    read_gateway_config,
)
from serve_app.config.intake_config import KEEP_IMAGES, IntakeConfig, Retention, SourcesConfig, read_intake_config

__all__ = [
    "JWT_TENANTS",
    "KEEP_IMAGES",
    "LOOPBACK_HOSTS",
    "Algorithm",
    "AuthConfig",
    "FetchConfig",
    "GatewayConfig",
    "IntakeConfig",
    "JwtConfig",
    "Limits",
    "Retention",
    "SourcesConfig",
    "read_gateway_config",
    "read_intake_config",
    "read_json",
]
