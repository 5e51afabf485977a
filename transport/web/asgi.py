"""`probes`: an ASGI app with `/livez`, `/readyz` and `/metrics` of an app."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from transport.inspecting.health import Health

_NO_METRICS = "the metrics need the extra prometheus: pip install 'kafka-nursery[prometheus]'\n"


class Probed(Protocol):
    """An app, or an app for the tasks of asyncio."""

    def health(self) -> Health: ...


def probes(app: Probed, registry: Any = None) -> Starlette:
    """Return an ASGI app to mount in your own, or to serve.

    - `/livez` answers 200 if the app is live, else 503.
    - `/readyz` answers 200 if the app is ready, else 503.
    - `/metrics` answers with the metrics of a registry, or with 404 without the extra `prometheus`.

    The body of the first two is `{"live": true, "ready": false, "reasons": ["..."]}`. Nothing can
    be changed through it.

    Args:
        app: an `App`, or an `AioApp` in an asyncio program. It need not be open yet.
        registry: a `CollectorRegistry` of prometheus_client. None: its default registry.
    """

    async def livez(request: Request) -> Response:
        health = app.health()
        return _answer(health, health.live)

    async def readyz(request: Request) -> Response:
        health = app.health()
        return _answer(health, health.ready)

    def metrics(request: Request) -> Response:  # not async: so it runs in a thread
        if find_spec("prometheus_client") is None:
            return PlainTextResponse(_NO_METRICS, 404)
        from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

        content = generate_latest(REGISTRY if registry is None else registry)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=routes)


def _answer(health: Health, is_good: bool) -> Response:
    body = {"live": health.live, "ready": health.ready, "reasons": health.reasons}
    # A proxy that keeps an answer would hide a change.
    return JSONResponse(body, 200 if is_good else 503, headers={"Cache-Control": "no-store"})
