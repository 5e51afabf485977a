"""`Guard`: which requests the page answers, and the headers of its answers.

A page that listens at the loopback address can be asked by other programs, and by web sites that
are open in a browser of the same machine. Look here for what they are refused.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Only files of this server, no inline code, and no text that becomes HTML.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_HOW_TO_REACH = (
    "the page of an app answers only programs of its own machine. Connect through a tunnel, such as"
    " ssh -L or kubectl port-forward, and ask for localhost or 127.0.0.1. Or set"
    ' web_page="remote", if all that can connect may see the state of the app.\n'
)


class Guard:
    """An ASGI app around another one. It refuses requests, and adds headers to the answers.

    Args:
        remote: False: only programs of this machine get an answer, and only if they ask for a name
            of this machine. A web site that gives its own name the address of this machine (DNS
            rebinding) asks for another name.
    """

    def __init__(self, app: ASGIApp, *, remote: bool) -> None:
        self._app = app
        self._remote = remote

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if self._remote or (_is_from_here(scope) and _is_for_here(scope)):
            await self._app(scope, receive, with_headers)
        else:
            await PlainTextResponse(_HOW_TO_REACH, 403)(scope, receive, with_headers)


def _is_from_here(scope: Scope) -> bool:
    """Return whether the program that asks is on this machine."""
    client = scope.get("client")
    return client is None or _is_loopback(client[0])  # a local socket has no address


def _is_for_here(scope: Scope) -> bool:
    """Return whether the request names this machine, with or without a port."""
    hosts = Headers(scope=scope).getlist("host")
    if len(hosts) != 1:
        return False
    host = hosts[0]
    if host.startswith("["):  # an address of IPv6
        name, bracket, port = host[1:].partition("]")
        is_whole = bracket == "]" and (not port or port.startswith(":"))
        return is_whole and _is_loopback(name)
    name = host.partition(":")[0].lower()
    return name == "localhost" or _is_loopback(name)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # as ::ffff:127.0.0.1
    return (mapped or address).is_loopback
