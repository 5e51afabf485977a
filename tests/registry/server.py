"""A schema registry on a loopback port, with the part of Confluent's API that the client uses.

Tests make it fail, wait or refuse, which a real registry does only by chance.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import attrs


@attrs.define
class Refusal(Exception):
    """An answer other than 200."""

    status: int
    code: int
    text: str


class Registry:
    """The server, as a context manager.

    Attributes:
        requests: the method and path of each request, without its query, in order.
        refusal: the answer to all requests. None: they are served.
        gate: a request waits until it is set.
        login: the only "user:password" that is let in. None: no login is needed.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.refusal: Refusal | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.login: str | None = None
        self._schemas: list[dict[str, Any]] = []  # by their id, from 1 on
        self._subjects: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                registry._handle(self, "GET", None)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                registry._handle(self, "POST", json.loads(self.rfile.read(length)))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """The address without "http://"."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def add(self, subject: str, schema: object, kind: str = "AVRO") -> int:
        """Register a schema, as another program would, and return its id."""
        return self._register(subject, {"schema": json.dumps(schema), "schemaType": kind})

    def _handle(self, handler: BaseHTTPRequestHandler, method: str, body: Any) -> None:
        path = unquote(urlsplit(handler.path).path)
        with self._lock:
            self.requests.append(f"{method} {path}")
        self.gate.wait()
        try:
            if self.refusal is not None:
                raise self.refusal
            if self.login is not None:
                given = handler.headers.get("Authorization", "")
                if given != f"Basic {base64.b64encode(self.login.encode()).decode()}":
                    raise Refusal(401, 401, "wrong login")
            with self._lock:
                status, answer = 200, self._answer(method, path, body)
        except Refusal as refusal:
            status = refusal.status
            answer = {"error_code": refusal.code, "message": refusal.text}
        data = json.dumps(answer).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except ConnectionError:
            pass  # the client waits no longer

    def _answer(self, method: str, path: str, body: Any) -> Any:
        if method == "POST" and (found := re.fullmatch(r"/subjects/([^/]+)/versions", path)):
            return {"id": self._register(found[1], body)}
        if method == "POST" and (found := re.fullmatch(r"/subjects/([^/]+)", path)):
            for version, number in enumerate(self._subjects.get(found[1], []), 1):
                if self._schemas[number - 1]["schema"] == body["schema"]:
                    return self._version(found[1], version)
            raise Refusal(404, 40403, "Schema not found")
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            if int(found[1]) > len(self._schemas):
                raise Refusal(404, 40403, "Schema not found")
            return self._schemas[int(found[1]) - 1]
        if found := re.fullmatch(r"/subjects/([^/]+)/versions/(latest|\d+)", path):
            versions = self._subjects.get(found[1], [])
            if not versions:
                raise Refusal(404, 40401, "Subject not found")
            latest = found[2] == "latest"
            return self._version(found[1], len(versions) if latest else int(found[2]))
        raise Refusal(404, 404, "no such path")

    def _version(self, subject: str, version: int) -> dict[str, Any]:
        number = self._subjects[subject][version - 1]
        schema = self._schemas[number - 1]
        return {"subject": subject, "version": version, "id": number, **schema}

    def _register(self, subject: str, body: Any) -> int:
        schema = {
            "schema": body["schema"],
            "schemaType": body.get("schemaType", "AVRO"),
            "references": body.get("references") or [],
        }
        if schema not in self._schemas:
            self._schemas.append(schema)
        number = self._schemas.index(schema) + 1
        versions = self._subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number
