"""The requests of Confluent's client to the registry, made in threads and never by its caller.

Confluent's serializers are synchronous: in the middle of a call they ask the registry over HTTP.
So their client gets `Requests` in place of its own HTTP client. `Requests` answers only from what
was fetched before. For all else it raises `NotLoaded`, and the serializer is called again after the
fetch. Confluent's client keeps each answer in its cache, so each schema is fetched once.

A fetch cannot be cancelled. If all its waiters are cancelled, its thread ends within the timeouts
of the client, and the answer is kept for the next call.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from outcome import Error, Outcome, Value

from transport.codecs.errors import NotLoaded
from transport.errors import AuthorizationFailed, RegistryUnavailable

# The answers that say nothing about the schema: a later request may have another one.
_LATER = frozenset({408, 425, 429})
_FORBIDDEN = frozenset({401, 403})


@attrs.frozen
class Request:
    """One request of Confluent's client.

    Attributes:
        verb: the name of the method of its HTTP client.
        path: the path after the registry's address.
        body, query: as JSON, so that equal requests are equal.
    """

    verb: str
    path: str
    body: str
    query: str

    def __str__(self) -> str:
        return f"{self.verb.upper()} {self.path}"


@attrs.define(eq=False)
class _Fetch:
    """A request in progress, and the tasks of one trio run that wait for it."""

    ended: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None


class Requests:
    """Stands in for the HTTP client of Confluent's client.

    Args:
        conf: the configuration of Confluent's client.
    """

    def __init__(self, conf: Mapping[str, Any]) -> None:
        self._conf = dict(conf)
        self._address = without_login(str(conf["url"]))
        self._answers: dict[Request, object] = {}
        self._fetches: dict[tuple[trio.lowlevel.TrioToken, Request], _Fetch] = {}
        self._count: dict[Request, int] = {}  # how often each request was answered

    # Called by Confluent's client

    def get(self, url: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._answer("get", url, query=query)

    def post(self, url: str, body: Mapping[str, Any] | None, **_: Any) -> Any:
        return self._answer("post", url, body=body)

    def put(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._answer("put", url, body=body)

    def delete(self, url: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._answer("delete", url, query=query)

    def _answer(self, verb: str, url: str, *, body: Any = None, query: Any = None) -> Any:
        """Return the answer that was fetched, once: Confluent's client keeps it."""
        request = Request(verb, url, _as_json(body), _as_json(query))
        try:
            return self._answers.pop(request)
        except KeyError:
            seen = self._count.get(request, 0)
            raise NotLoaded(
                f"{request} was not fetched from the registry yet: send one message with"
                " `await topic.send(...)` first, which waits for it",
                functools.partial(self.load, request, seen),
            ) from None

    # Called by tasks

    async def load(self, request: Request, seen: int) -> None:
        """Fetch an answer in a thread. Equal requests at the same time share one fetch.

        Args:
            seen: how often the request was answered before. If it was answered since, nothing is
                fetched.

        A checkpoint. Cancelling ends only the waiting. Raises:
            RegistryUnavailable: the registry did not answer, or with an error of its own.
            AuthorizationFailed: it refused the login.
            ValueError: it refused the request, so that it has no such schema or does not accept it.
        """
        if self._count.get(request, 0) != seen:
            await trio.lowlevel.checkpoint()
            return
        key = trio.lowlevel.current_trio_token(), request
        if (fetch := self._fetches.get(key)) is None:
            fetch = self._fetches[key] = _Fetch()
            trio.lowlevel.start_thread_soon(
                functools.partial(self._fetch, request),
                functools.partial(self._deliver, key, fetch),
                f"schema registry {request}",
            )
        await fetch.ended.wait()
        if (error := fetch.error) is not None:
            # A new error for each waiter, because each adds its own traceback.
            raise type(error)(*error.args) from error.__cause__

    def _deliver(
        self,
        key: tuple[trio.lowlevel.TrioToken, Request],
        fetch: _Fetch,
        result: Outcome[object],
    ) -> None:
        """Pass the result to the trio run. Called in the thread."""
        token, _ = key
        try:
            token.run_sync_soon(self._end, key, fetch, result)
        except trio.RunFinishedError:
            self._fetches.pop(key, None)

    def _end(
        self,
        key: tuple[trio.lowlevel.TrioToken, Request],
        fetch: _Fetch,
        result: Outcome[object],
    ) -> None:
        del self._fetches[key]
        _, request = key
        match result:
            case Value(answer):
                self._answers[request] = answer
                self._count[request] = self._count.get(request, 0) + 1
            case Error(Exception() as error):
                fetch.error = self._translated(request, error)
            case Error(fatal):
                raise fatal
        fetch.ended.set()

    # In a thread

    def _fetch(self, request: Request) -> object:
        # A client for each fetch: fetches are rare, and no open connection is left to be closed.
        client = SchemaRegistryClient(self._conf)
        try:
            call: Callable[..., object] = getattr(client._rest_client, request.verb)
            body, query = json.loads(request.body), json.loads(request.query)
            if request.verb in ("post", "put"):
                return call(request.path, body)
            return call(request.path, query)
        except SchemaRegistryError as error:
            if error.http_status_code == 404 and request.path.startswith("associations/"):
                return []  # the strategy ASSOCIATED then falls back to its next one
            raise
        finally:
            client.close()

    def _translated(self, request: Request, error: Exception) -> Exception:
        what = f"the registry at {self._address}"
        if not isinstance(error, SchemaRegistryError):
            translated: Exception = RegistryUnavailable(
                f"{what} did not answer {request}: {type(error).__name__}: {error}"
            )
        elif (status := error.http_status_code) in _FORBIDDEN:
            translated = AuthorizationFailed(f"{what} refused the login for {request}: {error}")
        elif status in _LATER or status >= 500:
            translated = RegistryUnavailable(f"{what} could not answer {request}: {error}")
        else:
            translated = ValueError(f"{what} refused {request}: {error}")
        translated.__cause__ = error
        return translated


def _as_json(value: Mapping[str, Any] | None) -> str:
    return json.dumps(value, sort_keys=True)


def without_login(urls: str) -> str:
    """Return one or several addresses, separated by commas, without user and password in them.

    They need not be valid, because an error about them shows them as well.
    """
    shown = []
    for url in urls.split(","):
        scheme, separator, rest = url.strip().rpartition("://")
        host, slash, path = rest.partition("/")
        shown.append(scheme + separator + host.rpartition("@")[2] + slash + path)
    return ", ".join(shown)
