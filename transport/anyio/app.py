"""An app, for the tasks of an asyncio loop."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, Unpack, overload

from nurseries import Node
from transport.anyio.conductor import AioConductor
from transport.anyio.consumer import AioConsumer
from transport.anyio.guest import Guest
from transport.anyio.options import AioAfterFailure, AioBatchOptions, AioHandlerOptions
from transport.anyio.producer import AioProducer
from transport.anyio.topic import AioTopic
from transport.app import App
from transport.arguments import async_function
from transport.codecs import CodecArg
from transport.handling.plan import AfterFailure, Order, check_topic, name_of
from transport.handling.retry import Retry
from transport.inspecting.health import Health
from transport.inspecting.recent_events import RecentEvents
from transport.inspecting.status import Status
from transport.message import Batch, Message
from transport.settings import Settings
from transport.types import K, V

R = TypeVar("R")


class AioApp:
    """An app for the tasks of an asyncio loop, made by `open_app`.

    Attributes:
        native: the app. Asyncio's tasks may make only the calls that do not wait.
        consumer, producer, conductor: their calls, for asyncio's tasks.
        handlers: the handlers, each with its counts; see `App`.
    """

    def __init__(self, app: App, guest: Guest) -> None:
        self.native = app
        self.handlers = app.handlers
        self.consumer = AioConsumer(app.consumer, guest)
        self.producer = AioProducer(app.producer, guest)
        self.conductor = AioConductor(app.conductor, guest)
        self._guest = guest

    @property
    def id(self) -> str:
        """The consumer group, and the name in the tree."""
        return self.native.id

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.native.settings

    @property
    def monitor(self) -> Any:
        """The sensor in the setting `monitor`. None: there is no monitor."""
        return self.native.monitor

    @property
    def tracing(self) -> Any:
        """The object in the setting `tracing`. None: tracing is off."""
        return self.native.tracing

    @property
    def is_open(self) -> bool:
        """Whether the app is open."""
        return self.native.is_open

    def topic(
        self,
        name: str | re.Pattern[str],
        *,
        key_type: CodecArg[K] = None,
        value_type: CodecArg[V] = None,
    ) -> AioTopic[K, V]:
        """Return a topic object for asyncio's tasks; see `App.topic`."""
        topic = self.native.topic(name, key_type=key_type, value_type=value_type)
        return AioTopic(topic, self._guest)

    @overload
    def handler(
        self,
        topic: AioTopic[K, V],
        fn: None = None,
        *,
        name: str | None = None,
        **options: Unpack[AioHandlerOptions[K, V]],
    ) -> Callable[
        [Callable[[Message[K, V]], Awaitable[R]]], Callable[[Message[K, V]], Awaitable[R]]
    ]: ...
    @overload
    def handler(
        self,
        topic: AioTopic[K, V],
        fn: Callable[[Message[K, V]], Awaitable[R]],
        *,
        name: str | None = None,
        **options: Unpack[AioHandlerOptions[K, V]],
    ) -> Callable[[Message[K, V]], Awaitable[R]]: ...
    def handler(
        self,
        topic: AioTopic[K, V],
        fn: Callable[[Message[K, V]], Awaitable[Any]] | None = None,
        *,
        concurrency: int = 1,
        order: Order = "partition",
        key: Callable[[Message[K, V]], Hashable] | None = None,
        filter: Callable[[Message[K, V]], object] | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        dead_letters: AioAfterFailure = "fail",
        name: str | None = None,
    ) -> Any:
        """Call an async function for each message of a topic; see `App.handler`.

        The function runs in a task of the asyncio loop. At its timeout, that task is cancelled.
        """
        add = functools.partial(
            self.native.handler,
            concurrency=concurrency,
            order=order,
            key=key,
            filter=filter,
            timeout=timeout,
            retry=retry,
            dead_letters=_native(dead_letters),
        )
        return self._add(add, topic, fn, name)

    @overload
    def batch_handler(
        self,
        topic: AioTopic[K, V],
        fn: None = None,
        *,
        name: str | None = None,
        **options: Unpack[AioBatchOptions[K, V]],
    ) -> Callable[
        [Callable[[Batch[K, V]], Awaitable[R]]], Callable[[Batch[K, V]], Awaitable[R]]
    ]: ...
    @overload
    def batch_handler(
        self,
        topic: AioTopic[K, V],
        fn: Callable[[Batch[K, V]], Awaitable[R]],
        *,
        name: str | None = None,
        **options: Unpack[AioBatchOptions[K, V]],
    ) -> Callable[[Batch[K, V]], Awaitable[R]]: ...
    def batch_handler(
        self,
        topic: AioTopic[K, V],
        fn: Callable[[Batch[K, V]], Awaitable[Any]] | None = None,
        *,
        max_size: int = 1024,
        linger: float = 0.0,
        split: bool = True,
        concurrency: int = 1,
        filter: Callable[[Message[K, V]], object] | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        dead_letters: AioAfterFailure = "fail",
        name: str | None = None,
    ) -> Any:
        """Call an async function for each batch of a topic's messages; see `App.batch_handler`.

        The function runs in a task of the asyncio loop. At its timeout, that task is cancelled.
        """
        add = functools.partial(
            self.native.batch_handler,
            max_size=max_size,
            linger=linger,
            split=split,
            concurrency=concurrency,
            filter=filter,
            timeout=timeout,
            retry=retry,
            dead_letters=_native(dead_letters),
        )
        return self._add(add, topic, fn, name)

    def _add(
        self,
        add: Callable[..., Any],
        topic: AioTopic[Any, Any],
        fn: Callable[[Any], Awaitable[Any]] | None,
        name: str | None,
    ) -> Any:
        """Add a handler whose function runs in asyncio, or return a decorator that does."""
        check_topic(topic, AioTopic)

        def decorate(fn: Callable[[Any], Awaitable[Any]]) -> Any:
            async_function("fn", fn, "an async function of a message or a batch")

            async def in_asyncio(held: Any) -> None:
                await self._guest.in_asyncio(fn, held)

            add(topic.native, in_asyncio, name=name or name_of(fn))
            return fn

        return decorate if fn is None else decorate(fn)

    def stop(self) -> None:
        """End all iterators, each after the message that its loop handles; see `App.stop`."""
        self.native.stop()

    async def wait_stopped(self) -> None:
        """Wait until delivery has ended; see `App.wait_stopped`."""
        await self._guest.call(self.native.wait_stopped)

    def stop_on_signals(self, *, timeout: float = 8.0) -> None:
        """Stop the app in order at SIGTERM or Ctrl-C; see `App.stop_on_signals`."""
        self.native.stop_on_signals(timeout=timeout)

    def tree(self) -> Node:
        """Return the tree of services and tasks; see `App.tree`."""
        return self.native.tree()

    @property
    def recent_events(self) -> RecentEvents | None:
        """The last rebalances, errors and dead letters; see `App.recent_events`."""
        return self.native.recent_events

    def status(self) -> Status:
        """Return the state of the app now; see `App.status`."""
        return self.native.status()

    def health(self, status: Status | None = None) -> Health:
        """Return whether the app is alive and ready, and why not; see `App.health`."""
        return self.native.health(status)

    async def kill(self) -> None:
        """End as a crash would; see `App.kill`."""
        await self._guest.call(self.native.kill)


def _native(dead_letters: AioAfterFailure) -> AfterFailure:
    """Return the argument `dead_letters` for the native app."""
    return dead_letters.native if isinstance(dead_letters, AioTopic) else dead_letters
