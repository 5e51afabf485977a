"""Apps whose broker follows a script of the test: any call of a client can fail, wait or change.

`replace` gives a call of an app's clients to a function of the test, until `restore`. Calls have
the names that `transport.testing.Script` uses: "commit" is a call of the consumer's client, and
"producer.commit" is a call of a producer's client. Methods that are not async can be replaced, too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

import attrs
import pytest
import trio

from transport import App
from transport.drivers.base import ConsumerClient, Driver, ProducerClient
from transport.drivers.settings import ClientSettings

A = TypeVar("A", bound=App)

# Called with the client's own method, and then with the arguments of the call.
Function = Callable[..., Any]


@attrs.frozen
class _Replacement:
    function: Function
    once: bool


class ScriptedDriver:
    """A driver whose clients call functions of the test instead of their own methods."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._replaced: dict[tuple[str, str | None], _Replacement] = {}

    @property
    def version(self) -> str:
        return self._driver.version

    def consumer(self, settings: ClientSettings) -> ConsumerClient:
        client = self._driver.consumer(settings)
        return cast(ConsumerClient, _ScriptedClient(client, self, "", None))

    def producer(self, settings: ClientSettings) -> ProducerClient:
        client = self._driver.producer(settings)
        id = settings.transactional_id
        return cast(ProducerClient, _ScriptedClient(client, self, "producer.", id))

    def replace(self, call: str, function: Function, id: str | None, *, once: bool) -> None:
        prefix, _, name = call.rpartition(".")
        protocol = {"": ConsumerClient, "producer": ProducerClient}[prefix]
        assert name in vars(protocol), f"{protocol.__name__} has no method {name!r}"
        self._replaced[call, id] = _Replacement(function, once)

    def restore(self, call: str) -> None:
        self._replaced.pop((call, None), None)

    def method(self, call: str, id: str | None, own: Any) -> Any:
        """Return the function that makes this call of the client with this transactional id."""
        for key in ((call, id), (call, None)):
            if key in self._replaced:
                return functools.partial(self._make, key, own)
        return own

    def _make(self, key: tuple[str, str | None], own: Any, *args: Any, **options: Any) -> Any:
        replacement = self._replaced.get(key)
        if replacement is None:
            return own(*args, **options)
        if replacement.once:
            del self._replaced[key]
        return replacement.function(own, *args, **options)


class _ScriptedClient:
    """A client whose methods a `ScriptedDriver` chooses. No attribute can be set on it."""

    __slots__ = ("_client", "_driver", "_prefix", "_transactional_id")

    def __init__(
        self, client: object, driver: ScriptedDriver, prefix: str, transactional_id: str | None
    ) -> None:
        self._client = client
        self._driver = driver
        self._prefix = prefix
        self._transactional_id = transactional_id

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._client, name)
        return self._driver.method(self._prefix + name, self._transactional_id, own)


def scripted(kind: type[A]) -> type[A]:
    """Return a subclass of `kind` whose apps have a `ScriptedDriver` around their driver."""

    class Scripted(kind.Transport):  # type: ignore[name-defined,misc]
        def __init__(self, url: Any, app: App) -> None:
            super().__init__(url, app)
            self.driver = ScriptedDriver(self.driver)

    return type(kind.__name__, (kind,), {"Transport": Scripted})


def replace(
    app: App,
    call: str,
    function: Function,
    *,
    transactional_id: str | None = None,
    once: bool = False,
) -> None:
    """Let `function` make a call of the app's clients. It replaces an earlier function.

    Args:
        app: from `app_on`, or from a class that `scripted` has returned.
        function: called with the client's own method, and then with the arguments of the call.
        transactional_id: of the producer whose call is replaced; None: of all producers.
        once: only the next call.
    """
    _driver_of(app).replace(call, function, transactional_id, once=once)


def restore(app: App, call: str) -> None:
    """Let the clients make a call themselves again, which was replaced for all of them."""
    _driver_of(app).restore(call)


@contextlib.contextmanager
def replaced(app: App, call: str, function: Function) -> Iterator[None]:
    """Replace a call while the block runs."""
    replace(app, call, function)
    try:
        yield
    finally:
        restore(app, call)


def hold(app: App, call: str) -> trio.Event:
    """Let a call wait for the returned event, and then be made."""
    may_go_on = trio.Event()
    replace(app, call, waits_for(may_go_on))
    return may_go_on


def _driver_of(app: App) -> ScriptedDriver:
    driver = app.driver
    assert isinstance(driver, ScriptedDriver), "make this app with app_on() or scripted()"
    return driver


# Functions for `replace`


def fails(error: Exception | type[Exception]) -> Callable[..., Awaitable[Any]]:
    """Return a function that raises `error` and does not make the call."""

    async def fail(own: Function, *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


def loses_the_answer(
    error: Exception | type[Exception], *, made: bool = True
) -> Callable[..., Awaitable[Any]]:
    """Return a function that raises `error`, after the call was made if `made` is true."""

    async def lose(own: Function, *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if made:
            await own(*args, **options)
        raise error

    return lose


async def hangs(own: Function, *args: Any, **options: Any) -> Any:
    """Wait until cancelled, and do not make the call."""
    await trio.sleep_forever()


def late(seconds: float) -> Callable[..., Awaitable[Any]]:
    """Return a function that makes the call after `seconds`, unless it is cancelled by then."""

    async def make_late(own: Function, *args: Any, **options: Any) -> Any:
        await trio.sleep(seconds)
        return await own(*args, **options)

    return make_late


def waits_for(
    event: trio.Event, *, asked: trio.Event | None = None
) -> Callable[..., Awaitable[Any]]:
    """Return a function that makes the call after `event`. It sets `asked` before it waits."""

    async def wait(own: Function, *args: Any, **options: Any) -> Any:
        if asked is not None:
            asked.set()
        await event.wait()
        return await own(*args, **options)

    return wait


def is_not_called(why: str) -> Function:
    """Return a function that fails the test; `why` says why the call is wrong."""

    def fail(own: Function, *args: Any, **options: Any) -> Any:
        pytest.fail(why)

    return fail
