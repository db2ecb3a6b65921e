"""The address of the client, behind trusted and other proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

__all__ = ["ClientAddresses", "budget_key"]


class ClientAddresses:
    """Finds the addresses of clients.

    Args:
        trusted: addresses and networks of proxies whose ``X-Forwarded-For`` is trusted.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted]

    def address(self, scope: Scope) -> str:
        """The nearest address that is not a trusted proxy; ``unknown`` where the server does not know it."""
        peer = (scope.get("client") or ("unknown", 0))[0]
        if not self._trusted or not self._is_trusted(peer):
            return str(peer)
        # Each proxy appends its peer: from the right, the first address that is not trusted is the client's. The client
        # itself may have sent those before it.
        hops = [hop.strip() for value in Headers(scope=scope).getlist("x-forwarded-for") for hop in value.split(",")]
        nearest = str(peer)
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break
            nearest = str(address)
            if not self._is_trusted(nearest):
                break
        return nearest

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._trusted)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as proxies write it: also with a port, and IPv6 in brackets."""
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def budget_key(address: str) -> str:
    """The owner of the budget of an address without a key: an IPv6 customer has a /64 to choose from."""
    known = _address(address)
    if isinstance(known, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((known, 64), strict=False))
    return address
