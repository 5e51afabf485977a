"""What is needed and not to be shown: passwords, and URLs with a password in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

# Of the client's options; the last one is an URL that may hold a login.
_SECRETS = ("sasl_plain_password", "ssl_password", "proxy_url")


class Secret(str):
    """A password, which repr() does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Url(str):
    """A broker's URL; it works as it was given, and is shown without its password."""

    __slots__ = ()

    def __new__(cls, url: str) -> Self:
        return super().__new__(cls, url[:])  # the bare text: of another Url too, and not as shown

    def __str__(self) -> str:
        return without_password(self)

    def __repr__(self) -> str:
        return repr(without_password(self))

    def __format__(self, spec: str) -> str:
        return format(without_password(self), spec)


def without_password(url: str) -> str:
    """The URL as it may be shown, whatever is wrong with it."""
    # A password may hold an @ that nobody encoded: the last one ends it.
    head, at, hosts = url.rpartition("@")
    if not at:
        return url[:]
    scheme, separator, login = head.partition("://")
    if not separator:
        scheme, login = "", head
    return f"{scheme}{separator}{login.partition(':')[0]}:***@{hosts}"


def secretive(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the client whose passwords are shown by no repr()."""
    return {
        name: Secret(value) if name in _SECRETS and isinstance(value, str) else value
        for name, value in options.items()
    }
