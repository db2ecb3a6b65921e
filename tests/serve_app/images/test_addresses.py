from __future__ import annotations

import pytest

from serve_app.images.addresses import AddressRules

INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:7f00:1 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 100::1 2001::1 2001:0:7f00:1::1 2001:db8::1 2002:7f00:1::
2002:a9fe:a9fe::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%1 fe80::1%eth0 fec0::1 ff02::1
2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:10.0.0.1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 172.15.0.1 172.32.0.1 192.167.0.1 100.63.0.1 2606:4700::1111 2a00:1450:4001::1 ::ffff:8.8.8.8
64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_what_is_not_public(address: str) -> None:
    assert not AddressRules().allows(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_what_is(address: str) -> None:
    assert AddressRules().allows(address)


@pytest.mark.parametrize("text", ["", "localhost", "0x7f.1", "2130706433", "127.1", "1.1.1.1.", "1.1.1.1/8"])
def test_what_a_resolver_never_gives(text: str) -> None:
    assert not AddressRules().allows(text)


def test_networks_that_the_operator_names() -> None:
    rules = AddressRules(["10.1.0.0/16", "fd00::/64"])
    assert rules.allows("10.1.2.3")
    assert rules.allows("::ffff:10.1.2.3")
    assert rules.allows("fd00::1")
    assert not rules.allows("10.2.0.1")
    assert not rules.allows("127.0.0.1")
