"""Where this server may go, and the one way out: whatever connects to what a caller named asks here.

A caller names hosts; what they lead to is theirs to choose, also between two look-ups. So a host is resolved
once, every address it has is checked, and the connection is made to a checked address: nobody resolves a
second time. By default only public addresses on the https port are gone to; an administrator lists more
(``outbound_allow``), never a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from gradient_jupyter.resources.errors import Forbidden, OutsideFailed
from gradient_jupyter.workspace.repository import DEFAULT_PORTS, parse_host, parse_port

Address = IPv4Address | IPv6Address
#: The addresses of a host at a port, as text. ``OSError`` when it has none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_RESOLVE_S = 20.0
_CONNECT_S = 15.0
_MOST_ADDRESSES = 8

#: IANA's special-purpose registry, and multicast.
_SPECIAL_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
#: The one range that is given out to hosts, and the special parts in it.
_GLOBAL_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
#: Never a host, whatever is listed.
_NOWHERE = (
    IPv4Network("0.0.0.0/8"), IPv4Network("224.0.0.0/4"), IPv4Network("255.255.255.255/32"),
    IPv6Network("::/128"), IPv6Network("ff00::/8"),
)  # fmt: skip
#: What a listed *name* may lead to beside public addresses. Link-local is not among it: cloud machines find
#: their credentials there, and no repository.
_INNER = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7",
        "::1/128",
    )
)  # fmt: skip
#: IPv6 forms that reach an IPv4 address: the network, and how far right that address stands.
_EMBEDDING = tuple(
    (IPv6Network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0), ("::ffff:0:0:0/96", 0), ("::/96", 0), ("64:ff9b::/96", 0),
        ("64:ff9b:1::/48", 0), ("2002::/16", 80),
    )
)  # fmt: skip
_TEREDO = IPv6Network("2001::/32")


class Rule(NamedTuple):
    """One line of an administrator's list: a host by name, or a network, at one port, by one scheme."""

    scheme: str
    host: str | None
    network: IPv4Network | IPv6Network | None
    port: int

    def allows(self, scheme: str, host: str, port: int, address: Address) -> bool:
        if (scheme, port) != (self.scheme, self.port):
            return False
        if self.network is not None:
            return address in self.network
        return host == self.host and (is_public(address) or any(address in network for network in _INNER))


class Target(NamedTuple):
    """A host that may be gone to, and the one address of it to connect to."""

    scheme: str
    host: str
    port: int
    address: str


def parse_rule(text: str) -> Rule:
    """``10.1.0.0/16``, ``git.example.com``, ``git.example.com:8443``, ``[fd00::1]:8443``,
    ``http://10.1.2.3:8080``: https on its usual port unless it says otherwise. ``ValueError`` with a
    sentence."""
    scheme, slashes, rest = text.strip().rpartition("://")
    scheme = scheme.lower() if slashes else "https"
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"{text!r} begins with something else than https:// or http://.")
    place, colon, port = rest.rpartition(":")
    if not colon or "]" in port or (":" in place and not place.endswith("]")):
        place, port = rest, ""
    number = parse_port(port) if port else DEFAULT_PORTS[scheme]
    bare = place[1:-1] if place.startswith("[") and place.endswith("]") else place
    try:
        if "%" in bare:
            raise ValueError("it names an interface of this machine")
        return Rule(scheme, None, ip_network(bare), number)
    except ValueError as error:
        if any(letter in place for letter in "/:%"):
            raise ValueError(f"{text!r} is no network: {error}.") from None
    try:
        return Rule(scheme, parse_host(place), None, number)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a host nor a network. {error}") from None


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could have this address, and only as itself."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)


async def resolve(host: str, port: int) -> Sequence[str]:
    """As this system resolves names. ``OSError`` when it does not."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(each[4][0]) for each in found]


class Outbound:
    """The policy in force. ``ca_file`` holds the authorities to trust in place of the system's."""

    def __init__(
        self, rules: Sequence[Rule] = (), *, ca_file: str | None = None, resolve: Resolve = resolve
    ) -> None:
        self._rules = tuple(rules)
        self._resolve = resolve
        self.ca_file = ca_file

    async def target(self, scheme: str, host: str, port: int) -> Target:
        """An address of ``host`` that may be gone to and takes connections.

        ``Forbidden`` when the way there is not open; nothing has been connected to then. ``OutsideFailed``
        when there is nobody.
        """
        self._check_way(scheme, host, port)
        addresses = await self._addresses(host, port)
        for address in addresses:
            if not self._allows(scheme, host, port, address):
                raise Forbidden(
                    f"'{host}' leads to an address that this server does not go to.",
                    next="It goes to public addresses. An administrator opens others: "
                    "GradientServer.outbound_allow.",
                    code="address-refused",
                )
        if (answering := await _first_to_answer(addresses, port)) is not None:
            return Target(scheme, host, port, answering)
        raise OutsideFailed(
            f"'{host}' does not answer on port {port}.",
            next="Check the name and the port, and try again later.",
            code="host-unreachable",
        )

    def _check_way(self, scheme: str, host: str, port: int) -> None:
        """Before a name is even resolved: whether any address at this port could be right."""
        if (scheme, port) == ("https", DEFAULT_PORTS["https"]):
            return
        if any(
            (rule.scheme, rule.port) == (scheme, port) and rule.host in (None, host) for rule in self._rules
        ):
            return
        what = f"port {port}" if scheme == "https" else f"{scheme} (without encryption)"
        raise Forbidden(
            f"This server does not go to '{host}' by {what}.",
            next="It goes out by https on port 443. An administrator opens more: "
            "GradientServer.outbound_allow.",
            code="address-refused",
        )

    def _allows(self, scheme: str, host: str, port: int, address: Address) -> bool:
        if any(address in network for network in _NOWHERE):
            return False
        # Whoever opens a translating network has not opened what lies behind it.
        within = _embedded(address)
        if within is not None and not self._allows(scheme, host, port, within):
            return False
        if (scheme, port) == ("https", DEFAULT_PORTS["https"]) and is_public(address):
            return True
        return any(rule.allows(scheme, host, port, address) for rule in self._rules)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        with contextlib.suppress(ValueError):
            return [ip_address(host)]
        try:
            found = await asyncio.wait_for(self._resolve(host, port), _RESOLVE_S)
            addresses = [ip_address(text) for text in dict.fromkeys(found)][:_MOST_ADDRESSES]
        except (OSError, TimeoutError, UnicodeError, ValueError):  # ValueError: an address with a zone
            addresses = []
        if not addresses:
            raise OutsideFailed(
                f"There is no host '{host}'.", next="Check the name for a typing error.", code="host-unknown"
            )
        return addresses


def _embedded(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address in _TEREDO:
        return IPv4Address(int(address) & 0xFFFFFFFF ^ 0xFFFFFFFF)
    for network, shift in _EMBEDDING:
        if address in network and int(address) > 1:  # :: and ::1 embed nothing
            return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return None


async def _first_to_answer(addresses: Sequence[Address], port: int) -> str | None:
    """All are tried at once: a host whose IPv6 leads nowhere must not cost its users a time limit."""
    tries = [asyncio.ensure_future(_connect(str(address), port)) for address in addresses]
    try:
        for each in asyncio.as_completed(tries, timeout=_CONNECT_S):
            with contextlib.suppress(OSError):
                return await each
    except TimeoutError:
        pass
    finally:
        for one in tries:
            one.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    return None


async def _connect(address: str, port: int) -> str:
    """``address``, once it has taken a connection. ``OSError`` when it does not."""
    _, writer = await asyncio.open_connection(address, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return address
