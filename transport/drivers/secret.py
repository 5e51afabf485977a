"""Strings that hide passwords in `repr()`: passwords, and URLs that contain one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

# The secret options of the client. `proxy_url` may contain a login.
_SECRETS = ("sasl_plain_password", "ssl_password", "proxy_url")


class Secret(str):
    """A password that `repr()` does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Url(str):
    """A broker's URL that contains its password and is shown without it."""

    __slots__ = ()

    def __new__(cls, url: str) -> Self:
        return super().__new__(cls, url[:])  # the whole text: `str()` of a Url hides the password

    def __str__(self) -> str:
        return without_password(self)

    def __repr__(self) -> str:
        return repr(without_password(self))

    def __format__(self, spec: str) -> str:
        return format(without_password(self), spec)


def without_password(url: str) -> str:
    """Return a URL without its password, even if the URL is not valid."""
    # A password may contain an @ that is not encoded, so the last @ ends it.
    head, at, hosts = url.rpartition("@")
    if not at:
        return url[:]
    scheme, separator, login = head.partition("://")
    if not separator:
        scheme, login = "", head
    return f"{scheme}{separator}{login.partition(':')[0]}:***@{hosts}"


def secretive(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the client with passwords that `repr()` does not show."""
    return {
        name: Secret(value) if name in _SECRETS and isinstance(value, str) else value
        for name, value in options.items()
    }
