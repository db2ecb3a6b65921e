"""The addresses that images may be fetched from: the public internet, and networks that the operator names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

__all__ = ["AddressRules"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# not covered by is_global in every supported version of Python, or global but for internal use
_INTERNAL = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this network": Linux connects to itself
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
        "168.63.129.16/32",  # Azure's platform service
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "224.0.0.0/3",  # multicast and reserved
        "::/96",  # IPv4-compatible, unspecified, loopback
        "::ffff:0:0:0/96",  # IPv4-translated (SIIT)
        "64:ff9b:1::/48",  # local NAT64: only the network knows its meaning
        "100::/64",  # discard
        "2001::/23",  # IETF protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: leads to the IPv4 address inside
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Interface identifiers of ISATAP (RFC 5214): an IPv4 address follows.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


class AddressRules:
    """Decides about addresses.

    Args:
        allowed: networks that are not public and still allowed.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed]

    def allows(self, text: str) -> bool:
        """Whether a connection may be made to an address, in the form that a resolver gives."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return all(
            any(each in network for network in self._allowed)
            or (each.is_global and not any(each in network for network in _INTERNAL))
            for each in _destinations(address)
        )


def _destinations(address: Address) -> Iterator[Address]:
    """The addresses that packets may reach: the address itself, or the IPv4 address that it embeds."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.scope_id is not None:
        address = ipaddress.IPv6Address(int(address))
    number = int(address)
    embedded = ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None or address in _NAT64:
        yield embedded
    else:
        yield address
        if (number >> 32) & 0xFFFF_FFFF in _ISATAP:
            yield embedded
