"""A client that calls one handler of an app with a message, on a broker in the process.

`handler_call.py` has the call itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import trio

from transport.anyio.guest import guest_of_loop
from transport.app import App
from transport.arguments import instance, or_none, seconds, shown, wrong_type
from transport.drivers.memory import MemoryBroker
from transport.handling.plan import Plan
from transport.message import Batch, Message
from transport.testing.handler_call import HandlerCall
from transport.testing.replacement import broker_for
from transport.testing.results import Result
from transport.types import HeadersArg, K, V

AnyHandler: TypeAlias = Callable[[Any], Awaitable[Any]] | str


@contextlib.asynccontextmanager
async def handler_client(
    app: App, *, broker: MemoryBroker | None = None
) -> AsyncIterator[HandlerClient]:
    """Yield a client that calls the handlers of an app.

    The app may be that of a module, with a `kafka://` broker: it never connects to that. On
    asyncio, the calls are made in a trio run in the same thread, as with `transport.anyio`.

    Args:
        app: an app that is not open.
        broker: see `in_memory`. Several clients may share a broker.
    """
    instance("app", app, App, "an App")
    or_none(instance, "broker", broker, kind=MemoryBroker, expected="a MemoryBroker or None")
    client = HandlerClient(app, broker_for(app) if broker is None else broker)
    if trio.lowlevel.in_trio_task():
        yield client
    else:
        async with guest_of_loop() as guest:
            client._run = guest.call
            yield client


class HandlerClient:
    """A client that calls one handler at a time. `handler_client` makes it.

    For each call, the app is opened with only that handler, on the broker of the client. The
    message is sent, and the app is closed when the handler has finished it. So filters, decoding,
    timeouts, retries, dead letters and transactions work as they do in production. Retries are made
    at once, without their delays.

    Attributes:
        broker: the broker, with what all calls have sent so far.
    """

    def __init__(self, app: App, broker: MemoryBroker) -> None:
        self.broker = broker
        self._app = app
        self._lock = trio.Lock()
        self._run: Callable[[Callable[[], Awaitable[Result]]], Awaitable[Result]] = _run_here

    @overload
    async def call(
        self,
        handler: Callable[[Message[K, V]], Awaitable[Any]],
        *,
        key: K | bytes | None = None,
        value: V | bytes | None = None,
        headers: HeadersArg = None,
        partition: int | None = None,
        timestamp: float | None = None,
        topic: str | None = None,
        timeout: float = 60.0,
    ) -> Result: ...
    @overload
    async def call(
        self,
        handler: Callable[[Batch[K, V]], Awaitable[Any]],
        *,
        key: K | bytes | None = None,
        value: V | bytes | None = None,
        headers: HeadersArg = None,
        partition: int | None = None,
        timestamp: float | None = None,
        topic: str | None = None,
        timeout: float = 60.0,
    ) -> Result: ...
    @overload
    async def call(
        self,
        handler: str,
        *,
        key: Any = None,
        value: Any = None,
        headers: HeadersArg = None,
        partition: int | None = None,
        timestamp: float | None = None,
        topic: str | None = None,
        timeout: float = 60.0,
    ) -> Result: ...
    async def call(
        self,
        handler: AnyHandler,
        *,
        key: Any = None,
        value: Any = None,
        headers: HeadersArg = None,
        partition: int | None = None,
        timestamp: float | None = None,
        topic: str | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """Call a handler with one message, and return what it did.

        A checkpoint. Cancelled: the app is closed in order.

        Args:
            handler: the function of a handler, or the name of the handler. A batch handler gets a
                batch of one message.
            key: encoded by the key type of the handler's topic. Bytes are sent as they are, so they
                may also be what the type cannot decode.
            value: the same with the value type.
            headers: as in `Topic.send`.
            partition: as in `Topic.send`.
            timestamp: as in `Topic.send`.
            topic: the name of the message's topic, for a handler of a pattern.
            timeout: seconds for the whole call, on trio's clock.

        Raises:
            Exception: the error of the message, if the handler has `dead_letters="fail"`.
            CallTimeout: the handler has not finished in time.
            ValueError: the app has no such handler.
            RuntimeError: the app is open.
        """
        message = {
            "key": key,
            "value": value,
            "headers": headers,
            "partition": partition,
            "timestamp": timestamp,
        }
        return await self._call_handler(handler, [message], topic, timeout)

    async def call_many(
        self,
        handler: AnyHandler,
        messages: Iterable[tuple[Any, Any] | Mapping[str, Any]],
        *,
        topic: str | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """Call a handler with several messages, for example a batch handler; see `call`.

        Args:
            messages: each is a pair of key and value, or a mapping of the arguments of `call`.
        """
        listed = [_arguments(message) for message in messages]
        if not listed:
            raise ValueError("there is no message to call the handler with")
        return await self._call_handler(handler, listed, topic, timeout)

    async def _call_handler(
        self,
        handler: AnyHandler,
        messages: Sequence[Mapping[str, Any]],
        topic: str | None,
        timeout: float,
    ) -> Result:
        plan = _find(self._app, handler)
        seconds("timeout", timeout)
        call = HandlerCall(self._app, self.broker, plan, messages, _topic_of(plan, topic), timeout)

        async def make() -> Result:
            async with self._lock:
                return await call.make()

        return await self._run(make)


async def _run_here(make: Callable[[], Awaitable[Result]]) -> Result:
    return await make()


def _arguments(message: Any) -> Mapping[str, Any]:
    match message:
        case (key, value):
            return {"key": key, "value": value}
        case Mapping():
            return message
        case _:
            expected = "a pair of key and value, or a mapping of the arguments of call"
            raise wrong_type("each of messages", expected, message)


def _find(app: App, wanted: Any) -> Plan:
    """Return the plan of a handler, by its function or its name."""
    plans = [handler.plan for handler in app.handlers]
    found = [plan for plan in plans if wanted in (plan.fn, plan.name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(repr(plan.name) for plan in found)
        raise ValueError(f"the handlers {names} have this function: pass the name of one of them")
    names = ", ".join(plan.name for plan in plans) or "none"
    raise ValueError(
        f"the app {app.id!r} has no handler {shown(wanted)}: pass the function or the name of one"
        f" of its handlers ({names})"
    )


def _topic_of(plan: Plan, name: str | None) -> str:
    """Return the name of the topic to which the messages are sent."""
    if name is None:
        if plan.topic.pattern is not None:
            raise ValueError(
                f"the handler {plan.name!r} reads the topics of a pattern: pass topic= with the"
                " name of one"
            )
        return plan.topic.name
    if not plan.topic.matches(name):
        raise ValueError(f"the handler {plan.name!r} does not read the topic {name!r}")
    return name
