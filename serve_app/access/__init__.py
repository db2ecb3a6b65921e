"""Authentication and limits."""

from serve_app.access.client_addresses import ClientAddresses, budget_key
from serve_app.access.guard import Guard
from serve_app.access.key_file import ApiKey, create_key, read_keys, revoke_key

__all__ = ["ApiKey", "ClientAddresses", "Guard", "budget_key", "create_key", "read_keys", "revoke_key"]
