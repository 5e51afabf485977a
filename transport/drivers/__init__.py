"""Drivers, chosen by the scheme of a broker's URL. To add a driver, start with `base.py`.

    memory://NAME                             a broker inside this process
    kafka://HOST:PORT,HOST:PORT               Kafka, in the clear
    kafka+ssl://HOST:PORT                     Kafka over TLS
    kafka+sasl://USER:PASSWORD@HOST:PORT      Kafka with a login, in the clear
    kafka+sasl+ssl://USER:PASSWORD@HOST:PORT  Kafka with a login, over TLS

A login uses SASL's PLAIN unless `client_options` name another mechanism. A URL may leave out the
login or the password: then they are among the `client_options`, as certificates and other options
of the client are. In a user or password, each of `:/@%` is percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from transport.drivers.admin import AdministeredDriver
from transport.drivers.secret import without_password

SCHEMES = ("memory", "kafka", "kafka+ssl", "kafka+sasl", "kafka+sasl+ssl")
DEFAULT_PORT = 9092

_PROTOCOLS = {
    "kafka": "PLAINTEXT",
    "kafka+ssl": "SSL",
    "kafka+sasl": "SASL_PLAINTEXT",
    "kafka+sasl+ssl": "SASL_SSL",
}
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/?#]+)(:(?P<port>.*))?")


def driver_for(urls: Sequence[str]) -> AdministeredDriver:
    """Return the driver for a cluster.

    Args:
        urls: one or more URLs with the same scheme and login. The driver uses all their hosts. The
            default port is 9092.

    Raises:
        ValueError: a URL is not valid. The text names the problem and the URL without its password.
    """
    if not urls:
        raise ValueError(f"no URL of a broker was given; {_schemes()}")
    parsed = [_split(url) for url in urls]
    scheme = parsed[0][0]
    if any(other != scheme for other, _, _ in parsed):
        raise _bad(urls, "all URLs must have the same scheme")
    if scheme == "memory":
        return _memory(urls, [hosts for _, _, hosts in parsed])
    servers = [
        _server(url, each)
        for url, (_, _, hosts) in zip(urls, parsed, strict=True)
        for each in hosts.split(",")
    ]
    return _kafka(urls, scheme, {login for _, login, _ in parsed}, servers)


def _split(url: str) -> tuple[str, str | None, str]:
    """Return the scheme, login and hosts of a URL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise _bad([url], "no scheme, such as kafka:// before the host")
    if scheme not in SCHEMES:
        raise _bad([url], "unknown scheme")
    # The last @ ends a login: a password may contain an @ that is not encoded.
    login, at, hosts = rest.rpartition("@")
    if "," in login.partition("@")[2]:
        raise _bad([url], "give one login for all hosts, before the first host")
    return scheme, login if at else None, hosts.removesuffix("/")


def _memory(urls: Sequence[str], names: list[str]) -> AdministeredDriver:
    if len(set(names)) != 1:
        raise _bad(urls, "all memory:// URLs must name the same broker")
    from transport.drivers.memory import MemoryDriver

    return MemoryDriver(names[0])


def _kafka(
    urls: Sequence[str], scheme: str, logins: set[str | None], servers: list[str]
) -> AdministeredDriver:
    if len(logins) != 1:
        raise _bad(urls, "all URLs must have the same login")
    security: dict[str, object] = {"security_protocol": _PROTOCOLS[scheme]}
    login = logins.pop()
    if "sasl" in scheme.split("+"):
        user, colon, password = (login or "").partition(":")
        security["sasl_mechanism"] = "PLAIN"
        if user:
            security["sasl_plain_username"] = unquote(user)
        if colon:
            security["sasl_plain_password"] = unquote(password)
    elif login is not None:
        raise _bad(urls, "a login needs kafka+sasl:// or kafka+sasl+ssl://")
    # Imported late: kafka-python takes a tenth of a second, which memory:// must not cost.
    from transport.drivers.kafka import KafkaDriver

    return KafkaDriver(servers, security)


def _server(url: str, text: str) -> str:
    match = _HOST.fullmatch(text)
    if match is None:
        raise _bad([url], "no host" if not text or text.startswith(":") else "bad host")
    port = match["port"]
    if port is None:
        return f"{text}:{DEFAULT_PORT}"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _bad([url], "bad port")
    return text


def _bad(urls: Sequence[str], reason: str) -> ValueError:
    shown = ", ".join(repr(without_password(url)) for url in urls)
    return ValueError(f"{reason}: {shown}; {_schemes()}")


def _schemes() -> str:
    return f"the schemes are {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
