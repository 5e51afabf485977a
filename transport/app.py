"""The app: the root of the tree of services, and the object from which a program gets all others.

Look here for how an app opens and closes, and for the hooks of a subclass.
"""

from __future__ import annotations

import re
import signal
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Self, TypeVar, Unpack, overload

import trio

from nurseries import Node, Service, State, running
from transport.arguments import seconds, text
from transport.codecs import CodecArg
from transport.configuration import configured
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker
from transport.errors import AppClosed
from transport.handling.handlers import Handlers
from transport.handling.plan import (
    AfterFailure,
    BatchOptions,
    BatchSize,
    HandlerOptions,
    Order,
    Plan,
    check_topic,
    name_of,
)
from transport.handling.retry import Retry
from transport.inspecting.health import Health, health_of
from transport.inspecting.recent_events import RecentEvents, recent_events_of
from transport.inspecting.status import Status, status_of
from transport.inspecting.status_socket import StatusSocket
from transport.log import Log
from transport.message import Batch, Message
from transport.parts import Transport
from transport.probe import Points, Probe
from transport.running import Program, check_place
from transport.settings import Settings, SettingsArgs
from transport.signals import SignalHandlers, passed_to
from transport.tee import Tee
from transport.topic import Topic
from transport.types import TP, K, V

R = TypeVar("R")


class _Root(Service):
    """The root service, with producer, conductor and consumer as children.

    They stop in reverse order, so that the messages that handlers send at the end are delivered.
    """

    def __init__(self, app: App) -> None:
        super().__init__(f"App({app.id})", grace=app.settings.grace)
        self._app = app
        self._log = Log("transport.app", app.id)

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        if (path := self._app.settings.status_socket) is not None:
            await self.add_service(StatusSocket(self._app.id, path, self._app.status))
        if (address := self._app.settings.web) is not None:
            await self.add_service(_web_server(self._app, address))
        if (probe := self._app.probe) is not None:
            await self.add_service(probe)
            probe.opened(self._app)
        await self.add_service(self._app.producer)
        self._log_connection()
        await self.add_service(self._app.conductor)
        await self.add_service(self._app.consumer)
        if self._app.handlers:
            await self.start_handlers()

    def _log_connection(self) -> None:
        transport = self._app.transport
        brokers = ", ".join(map(str, transport.url)) or repr(transport.driver)
        client = transport.driver_version
        self._log.info(
            "connected", "connected to %s with %s", brokers, client, broker=brokers, client=client
        )

    async def start_handlers(self) -> None:
        """Start the handlers, which may handle messages before this returns."""
        self._app.is_open = True
        await self.add_service(self._app.handlers)

    def on_ended(self) -> None:
        """End delivery, also if the app ends before its consumer was started."""
        self._app.conductor.end()


def _web_server(app: App, address: str) -> Service:
    from transport.web.server import WebServer  # an extra brings what it needs

    return WebServer(app.id, address, app, app.settings.web_page)


class App:
    """A message transport in a trio program. `async with app:` opens and closes it, once.

    However the block ends, the app then closes in order, within `grace` seconds: it stops delivery,
    commits the acked offsets, leaves the group and joins its threads. Messages that are unacked
    when the block ends will be redelivered. An error in the tree cancels the block, and the block
    raises it in an exception group.

    Args:
        id: the consumer group, and the name in the tree.
        broker: a URL, or several URLs of one cluster: `memory://NAME`,
            `kafka://HOST:PORT,HOST:PORT`, `kafka+ssl://`, `kafka+sasl://user:password@…`,
            `kafka+sasl+ssl://`. Or a `MemoryBroker`, or another `Driver`. None: the setting
            `broker` of the environment or of the TOML file; without one, `memory://`.
        **settings: the fields of `Settings` and of `ClientSettings`. Type checkers know them from
            `SettingsArgs`. A setting that is not given here comes from the environment variable
            `KAFKA_NURSERY_<SETTING>`, or else from `kafka-nursery.toml`.

    Attributes:
        configuration: the settings, and where each of them comes from.
        recent_events: the last rebalances, errors and dead letters, if the app serves its page, or
            if its monitor is or has a `RecentEvents`. Otherwise None.
        tracing: the object in the setting `tracing`. None: tracing is off.

    Raises:
        ValueError: a URL has no driver; or a setting of the environment or of the TOML file is
            unknown or not valid. TypeError: a keyword is no setting.
    """

    Transport: ClassVar[type[Transport]] = Transport
    # The attributes that `_make_parts` sets.
    _PARTS: ClassVar[tuple[str, ...]] = (
        "recent_events",
        "probe",
        "tracing",
        "transport",
        "conductor",
        "producer",
        "consumer",
        "is_open",
        "_root",
        "handlers",
        "_running",
        "_failed_to_open",
        "_token",
        "_handlers",
    )

    def __init__(
        self,
        id: str,
        broker: str | Sequence[str] | MemoryBroker | Driver | None = None,
        **settings: Unpack[SettingsArgs],
    ) -> None:
        text("id", id)
        self.id = id
        self._log = Log("transport.app", id)
        self.configuration = configured(id, broker, settings)
        self.settings: Settings = self.configuration.settings
        # The topic objects in use, in the order in which they were made. For tests.
        self._topics: weakref.WeakKeyDictionary[Topic[Any, Any], None] = weakref.WeakKeyDictionary()
        chosen = self.configuration.broker
        self._make_parts([chosen] if isinstance(chosen, str) else chosen, self.settings.monitor)

    def _make_parts(
        self, broker: Sequence[str] | MemoryBroker | Driver, sensor: Points | None
    ) -> None:
        """Make the parts of the app for a broker. Tests make them again for another broker."""
        self.recent_events = recent_events_of(sensor)
        has_page = self.settings.web is not None and self.settings.web_page != "off"
        if has_page and self.recent_events is None:
            self.recent_events = RecentEvents()
            sensor = self.recent_events if sensor is None else Tee(self.recent_events, sensor)
        self.probe = None if sensor is None else Probe(sensor)
        self.tracing: Any = self.settings.tracing
        self.transport = self.Transport(broker, self)
        if self.tracing is not None:
            self.tracing.open(self)
        self.conductor = self.transport.create_conductor()
        self.producer = self.transport.create_producer()
        self.consumer = self.transport.create_consumer(
            self.conductor.on_records,
            on_partitions_revoked=lambda tps: self.on_partitions_revoked(tps),
            on_partitions_assigned=lambda tps: self.on_partitions_assigned(tps),
        )
        self.is_open = False
        self._root = _Root(self)
        self.handlers = Handlers(self, lambda: self._root.has_crashed, self.transport.observers)
        self._running: AbstractAsyncContextManager[_Root] | None = None
        self._failed_to_open = False
        self._token: trio.lowlevel.TrioToken | None = None  # of the trio run
        self._handlers: SignalHandlers | None = None

    @property
    def driver(self) -> Driver:
        return self.transport.driver

    @property
    def monitor(self) -> Any:
        """The sensor in the setting `monitor`. None: there is no monitor."""
        return self.settings.monitor

    def topic(
        self,
        name: str | re.Pattern[str],
        *,
        key_type: CodecArg[K] = None,
        value_type: CodecArg[V] = None,
    ) -> Topic[K, V]:
        """Return a topic object, to send to and to iterate over. Sends nothing to the broker.

        The types are those of its messages for type checkers, too: with `key_type=str` and
        `value_type=Order` it is a `Topic[str, Order]`. A record may have no key or no value (a
        tombstone). Then the message has None there, in spite of the type. To have such places
        checked, annotate: `orders: Topic[str, Order | None] = app.topic(...)`. A union as
        `value_type` needs an annotation as well, because type checkers infer nothing from it.

        Args:
            name: the topic's name, or a compiled pattern for all topics whose whole name it
                matches. Topics that are created later are found within `pattern_interval`.
            key_type: bytes (the default), str, int, another type, or a `Codec` such as `JSON`. See
                docs/values.md for the bytes of each type.
            value_type: the same for values.

        Raises:
            ValueError: the broker would not allow the name.
        """
        topic = Topic(self, name, key_type=key_type, value_type=value_type)
        self._topics[topic] = None
        return topic

    # Handling

    @overload
    def handler(
        self,
        topic: Topic[K, V],
        fn: None = None,
        *,
        name: str | None = None,
        **options: Unpack[HandlerOptions[K, V]],
    ) -> Callable[
        [Callable[[Message[K, V]], Awaitable[R]]], Callable[[Message[K, V]], Awaitable[R]]
    ]: ...
    @overload
    def handler(
        self,
        topic: Topic[K, V],
        fn: Callable[[Message[K, V]], Awaitable[R]],
        *,
        name: str | None = None,
        **options: Unpack[HandlerOptions[K, V]],
    ) -> Callable[[Message[K, V]], Awaitable[R]]: ...
    def handler(
        self,
        topic: Topic[K, V],
        fn: Callable[[Message[K, V]], Awaitable[Any]] | None = None,
        *,
        concurrency: int = 1,
        order: Order = "partition",
        key: Callable[[Message[K, V]], Hashable] | None = None,
        filter: Callable[[Message[K, V]], object] | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        dead_letters: AfterFailure = "fail",
        name: str | None = None,
    ) -> Any:
        """Call an async function for each message of a topic, while the app is open.

        Use it as a decorator, or pass the function. The function is returned as it is. Messages are
        acked when the function returns. Each handler of a topic gets all of its messages.

        A handler has no effect on iterators: they get all messages as well. When the app stops, the
        messages that have begun are handled to their end, for half of `grace` at most. The others
        are redelivered later.

        Args:
            topic: a topic object of this app.
            fn: an async function of a `Message`.
            concurrency: the most messages that are handled at once.
            order: "partition": the messages of a partition are handled one after the other, in
                offset order. "key": the same for the messages of a key in a partition; messages
                without a key have no order. "none": there is no order.
            key: with order="key", a function that returns the key of a message. None: the
                message's own key.
            filter: a function of a message. If it returns a false value, the message is acked
                without a call of `fn`.
            timeout: seconds after which an attempt is cancelled and counts as failed with
                `HandlerTimeout`. None: there is no limit.
            retry: how a failed message is retried. Its key waits, and other keys go on. With
                order="partition", its partition waits. None: it is not retried.
            dead_letters: what happens to a message after its last attempt, and to one that cannot
                be decoded. A topic object: a dead letter is sent there. "skip": the message is
                skipped, with a warning. "fail": the app ends with the error.
            name: the name in the tree, in logs and in dead letters. None: the function's name.

        Raises:
            ValueError: the name is taken, or dead letters could come back to their handler.
            TypeError: an argument has a wrong type.
            AppClosed: the app is closing or closed.
        """
        check_topic(topic)

        def add(fn: Callable[[Message[K, V]], Awaitable[Any]]) -> Any:
            plan = Plan(
                name=name or name_of(fn),
                topic=topic,
                fn=fn,
                concurrency=concurrency,
                order=order,
                key=key,
                filter=filter,
                timeout=timeout,
                retry=retry,
                dead_letters=dead_letters,
            )
            self._add_handler(plan)
            return fn

        return add if fn is None else add(fn)

    @overload
    def batch_handler(
        self,
        topic: Topic[K, V],
        fn: None = None,
        *,
        name: str | None = None,
        **options: Unpack[BatchOptions[K, V]],
    ) -> Callable[
        [Callable[[Batch[K, V]], Awaitable[R]]], Callable[[Batch[K, V]], Awaitable[R]]
    ]: ...
    @overload
    def batch_handler(
        self,
        topic: Topic[K, V],
        fn: Callable[[Batch[K, V]], Awaitable[R]],
        *,
        name: str | None = None,
        **options: Unpack[BatchOptions[K, V]],
    ) -> Callable[[Batch[K, V]], Awaitable[R]]: ...
    def batch_handler(
        self,
        topic: Topic[K, V],
        fn: Callable[[Batch[K, V]], Awaitable[Any]] | None = None,
        *,
        max_size: int = 1024,
        linger: float = 0.0,
        split: bool = True,
        concurrency: int = 1,
        filter: Callable[[Message[K, V]], object] | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        dead_letters: AfterFailure = "fail",
        name: str | None = None,
    ) -> Any:
        """Call an async function for each batch of a topic's messages, while the app is open.

        The batches of a partition are handled one after the other, in offset order. A batch is
        acked when the function returns. All else is as in `handler`.

        Args:
            topic: a topic object of this app.
            fn: an async function of a `Batch`.
            max_size: the most messages in a batch.
            linger: seconds for which the messages of a partition wait for more, unless `max_size`
                wait already. 0: a batch has the messages that wait at this moment.
            split: if the function fails, it is called for each half of the batch, and so on, until
                the failing message is alone. The other messages are acked, and only the failing
                one is retried. False: the whole batch is retried. After the last attempt, each of
                its messages is treated as `dead_letters` says.
            concurrency: the most batches that are handled at once, each of another partition.
            filter: as in `handler`: a function of one message.
            timeout: as in `handler`, for each call of the function.
            retry: as in `handler`. The partition waits.
            dead_letters: as in `handler`.
            name: as in `handler`.

        Raises: as `handler` does.
        """
        check_topic(topic)

        def add(fn: Callable[[Batch[K, V]], Awaitable[Any]]) -> Any:
            batch = BatchSize(max_size=max_size, linger=linger, split=split)
            plan = Plan(
                name=name or name_of(fn),
                topic=topic,
                fn=fn,
                batch=batch,
                concurrency=concurrency,
                filter=filter,
                timeout=timeout,
                retry=retry,
                dead_letters=dead_letters,
            )
            self._add_handler(plan)
            return fn

        return add if fn is None else add(fn)

    @trio.lowlevel.enable_ki_protection
    def _add_handler(self, plan: Plan) -> None:
        if self._root.state in (State.STOPPING, State.ENDED):
            raise AppClosed(f"the app {self.id!r} is closing or closed")
        self.handlers.add(plan)
        if self.is_open and len(self.handlers) == 1:  # this one starts those that follow
            self._root.spawn("start of handlers", self._root.start_handlers)

    # Hooks for a subclass

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        """Run your code when partitions are revoked or lost. Not called when the app closes.

        The last commit of revoked partitions is made before the call, and they are released after
        it. Lost partitions are gone already, without that commit. The set may be empty. The call is
        cancelled once the rebalance has taken `drain_timeout` seconds.
        """

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        """Run your code when partitions were assigned, before their first message is delivered.

        You can seek here to offsets that your program stores elsewhere. The set may be empty. The
        call is cancelled once the rebalance has taken `drain_timeout` seconds. Delivery begins
        then.
        """

    def transaction_group(self, tp: TP) -> str:
        """Return the group in a partition's transactional id: by default, the topic's name.

        Override it if partitions of several topics are to share one transactional id.
        """
        return tp.topic

    # Life

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Open the app. The producer is connected when this returns. A checkpoint.

        Raises BrokerUnavailable (with the addresses) or AuthorizationFailed in an exception group.
        RuntimeError: the app was opened before, or the call was made outside of trio.
        """
        self._check_new()
        if not trio.lowlevel.in_trio_task():
            raise RuntimeError(
                f"the app {self.id!r} was opened outside of trio. Run the program with trio.run(),"
                " or, on asyncio, open the app with transport.anyio:"
                " `async with open_app(app) as app:`"
            )
        self._token = trio.lowlevel.current_trio_token()
        self._running = running(self._root)
        try:
            await self._running.__aenter__()
        except BaseException:  # also Cancelled: the app was not opened
            self.is_open = False
            self._failed_to_open = True
            raise
        self.is_open = True
        if self.handlers and self.handlers.state is State.IDLE:  # added during the last checkpoint
            self._root.spawn("start of handlers", self._root.start_handlers)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(self, *exc: Any) -> bool | None:
        assert self._running is not None
        self.is_open = False
        if self.recent_events is not None and exc[1] is not None:
            self.recent_events.add_error_of_block(exc[1])
        start = trio.current_time()
        try:
            return await self._running.__aexit__(*exc)
        finally:
            seconds = trio.current_time() - start
            self._log.info("closed", "closed in %.1f s", seconds, seconds=seconds)
            if self._handlers is not None:
                self._handlers.remove()

    def _check_new(self) -> None:
        if self._running is not None:
            raise RuntimeError(
                f"the app {self.id!r} was opened before: make a new App each time you open one"
            )

    def run(self) -> None:
        """Run the app as the whole program, until it is stopped or fails.

        For a program whose work is done by handlers. The app opens in a trio run of its own. It
        closes when a handler has called `stop`, or when the process gets a signal:

        - The first SIGTERM or Ctrl-C (SIGINT) stops the app in order, within `grace` seconds.
        - A second one ends the process at once, with exit code 143 (SIGTERM) or 130 (SIGINT). The
          app then commits nothing more, and does not leave its group.
        - A signal that the process ignores, or for which the program has its own handler, has the
          same effect as without `run`.

        It returns after an orderly end, so the exit code is 0 if the program does nothing else. If
        the app fails, at its start, at work or in closing, the exit code is 1. stderr then has one
        traceback for each error, without the frames of this library. A KeyboardInterrupt or
        SystemExit of your handlers leaves this call.

        `run` configures no logging. If the program has configured none either, the lines about
        signals go to stderr.

        Raises:
            SystemExit: the app failed. The `__cause__` is the error, as `async with app` raises it.
            RuntimeError: the app has no handler or was opened before, or the call was made inside
                trio, inside an asyncio loop, or outside of the main thread.
        """
        check_place(self.id)
        self._check_new()
        if not self.handlers:
            raise RuntimeError(
                f"the app {self.id!r} has no handler, so it would do nothing: add one with"
                " @app.handler(topic), or import the module that does, before app.run()"
            )
        Program(self.id, self._root.name, self.settings.grace, self).run()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """End all iterators, each after the message that its loop handles. Not a checkpoint.

        So the loops end, and the block of `async with app:` with them.
        """
        self.consumer.stop_flow()
        self.conductor.end()

    async def wait_stopped(self) -> None:
        """Wait until `stop` was called, or delivery has ended for another reason.

        Other reasons are a signal of `stop_on_signals` and the end of the app. So a program whose
        block has no loop of its own can wait here. A checkpoint; cancelling changes nothing.
        """
        await self.conductor.wait_until_ended()

    @trio.lowlevel.enable_ki_protection
    def stop_on_signals(self, *, timeout: float = 8.0) -> None:
        """Stop the app in order when the process gets SIGTERM or Ctrl-C (SIGINT).

        Call it first in the block of `async with app:`. The first signal does what `stop` does: the
        handlers finish their messages, and the app commits the acked offsets and leaves the group.
        So the next member need not wait for the session to time out. A later SIGTERM does nothing.
        A second Ctrl-C raises KeyboardInterrupt, as if this had not been called. When the app has
        closed, the previous signal handlers are restored.

        Not a checkpoint. It works on trio, and on asyncio through `transport.anyio`.

        Args:
            timeout: seconds after the signal at which the block of `async with app` is cancelled.
                Then the app closes within `grace` seconds. The sum of both should be below the
                time after which your supervisor kills the process: 30 s in Kubernetes.

        Raises:
            RuntimeError: the app is not open, or this is not the main thread.
            ValueError: `timeout` is not above 0.
        """
        seconds("timeout", timeout, finite=False)
        if not self.is_open or self._token is None:
            raise RuntimeError(
                f"the app {self.id!r} is not open: call stop_on_signals() in its block"
            )

        def stop(number: signal.Signals) -> None:
            self._log.info(
                "stopping",
                "%s received: the app stops, and handlers have %g s to finish their messages",
                *(number.name, timeout),
                signal=number.name,
                seconds=timeout,
            )
            self.stop()
            self._root.end_block_by(trio.current_time() + timeout)

        if self._handlers is None:
            handlers = SignalHandlers(passed_to(self._token, stop))
            handlers.install()
            self._handlers = handlers

    @trio.lowlevel.enable_ki_protection
    async def kill(self) -> None:
        """End as a crash would: without a commit, and without leaving the group.

        For demonstrations and tests. Cannot be cancelled.
        """
        with trio.CancelScope(shield=True):
            await self.consumer.kill()
            await self.producer.kill()

    def tree(self) -> Node:
        """Return the tree of services and tasks, each with the function in which it waits."""
        return self._root.tree()

    def status(self) -> Status:
        """Return the state of the app now: partitions, handlers, tree. Not a checkpoint.

        The call costs O(partitions + unacked messages). It works before the app is opened, too.
        """
        return status_of(
            self,
            self.handlers,
            self.tree(),
            client=self.transport.driver_version,
            has_crashed=self._root.has_crashed or self._failed_to_open,
        )

    def health(self, status: Status | None = None) -> Health:
        """Return whether the app is alive and ready, and why not. Not a checkpoint.

        - Live: the app has not ended, and its client is polled. Otherwise only a restart helps.
        - Ready: the app is open and was not stopped, it is a member of its group, all its
          partitions were fetched from, no partition is stuck, and the lag is at most `ready_lag`.

        A search for stuck partitions runs every `stuck_interval`.

        Args:
            status: a status of this app, to judge. None: its status now, which costs what `status`
                costs.
        """
        return health_of(status or self.status(), self.settings.ready_lag)
