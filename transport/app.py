"""The app: the root of the tree, and what a program holds in its hands."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Self

import trio

from nurseries import Node, Service, running
from transport.arguments import seconds, text
from transport.codec import CodecArg
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker
from transport.parts import Transport
from transport.probe import Probe
from transport.settings import Settings, settings_from
from transport.signals import SignalHandlers
from transport.topic import Topic
from transport.types import TP

logger = logging.getLogger("transport.app")


class _Root(Service):
    """Producer, Conductor, Consumer; ended in reverse, so that what handlers send gets out."""

    def __init__(self, app: App) -> None:
        super().__init__(f"App({app.id})", grace=app.settings.grace)
        self._app = app

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        if (probe := self._app.probe) is not None:
            await self.add_service(probe)
            probe(probe.sensor.on_open, self._app)
        await self.add_service(self._app.producer)
        await self.add_service(self._app.conductor)
        await self.add_service(self._app.consumer)


class App:
    """A message transport in a trio program; `async with app:` opens and closes it, once.

    Closing, however the block ends: delivery stops, what is acked is committed, the group is left
    and the threads are joined, within `grace` seconds. What is unacked when the block has ended
    is let go, and will be delivered again. An error in the tree cancels the block and comes
    out of it in an exception group.

    Args:
        id: the consumer group, and the name in the tree.
        broker: an URL or several of one cluster: `memory://NAME`, `kafka://HOST:PORT,HOST:PORT`,
            `kafka+ssl://`, `kafka+sasl://user:password@…`, `kafka+sasl+ssl://`; or a
            `MemoryBroker`, or another `Driver`.
        **settings: the fields of `Settings` and of `ClientSettings`.

    Raises:
        ValueError: a URL that stands for no driver. TypeError: unknown settings.
    """

    Transport: ClassVar[type[Transport]] = Transport

    def __init__(
        self,
        id: str,
        broker: str | Sequence[str] | MemoryBroker | Driver = "memory://",
        **settings: Any,
    ) -> None:
        text("id", id)
        self.id = id
        self.settings: Settings = settings_from(id, settings)
        sensor = self.settings.monitor
        self.probe = None if sensor is None else Probe(sensor)
        self.transport = self.Transport([broker] if isinstance(broker, str) else broker, self)
        self.conductor = self.transport.create_conductor()
        self.producer = self.transport.create_producer()
        self.consumer = self.transport.create_consumer(
            self.conductor.on_records,
            on_partitions_revoked=lambda tps: self.on_partitions_revoked(tps),
            on_partitions_assigned=lambda tps: self.on_partitions_assigned(tps),
        )
        self.is_open = False
        self._root = _Root(self)
        self._running: AbstractAsyncContextManager[_Root] | None = None
        self._token: trio.lowlevel.TrioToken | None = None  # of the run that it is open in
        self._handlers: SignalHandlers | None = None

    @property
    def driver(self) -> Driver:
        return self.transport.driver

    @property
    def monitor(self) -> Any:
        """What was given as the setting of that name; None: nothing was."""
        return self.settings.monitor

    def topic(
        self,
        name: str | re.Pattern[str],
        *,
        key_type: CodecArg = None,
        value_type: CodecArg = None,
    ) -> Topic:
        """A topic to send to and to iterate over. Nothing happens at the broker yet.

        Args:
            name: or a compiled pattern, for all topics whose whole name matches. Those that are
                created later are found within `pattern_interval`.
            key_type: bytes (the default), str, or a `Codec` such as `JSON`.
            value_type: the same for values.

        Raises:
            ValueError: the broker would not allow the name.
        """
        return Topic(self, name, key_type=key_type, value_type=value_type)

    # Hooks for a subclass

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        """Partitions go in a rebalance; not called at the end of the app.

        Of those that were handed over the last commit is made; those that were lost are gone
        already, uncommitted. May come with an empty set. Bounded: past `drain_timeout` it is
        cancelled.
        """

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        """Partitions have come; nothing of them is delivered before this returns.

        The place to seek to offsets that are kept elsewhere. May come with an empty set. Bounded:
        past `drain_timeout` it is cancelled, and delivery begins.
        """

    def transaction_group(self, tp: TP) -> str:
        """What a partition's transactional id names beside its number: the topic's name.

        For a subclass whose partitions of several topics are written for under one id.
        """
        return tp.topic

    # Life

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Open: the producer is connected when this returns.

        Raises, in an exception group, BrokerUnavailable (naming the addresses) or
        AuthorizationFailed; and RuntimeError if the app was opened before, or outside of trio.
        """
        if self._running is not None:
            raise RuntimeError(f"the app {self.id!r} was opened before: an app lives once")
        if not trio.lowlevel.in_trio_task():
            raise RuntimeError(
                f"the app {self.id!r} was opened outside of trio. Run the program with trio.run(),"
                " or, on asyncio, open the app with transport.anyio:"
                " `async with open_app(app) as app:`"
            )
        self._token = trio.lowlevel.current_trio_token()
        self._running = running(self._root)
        await self._running.__aenter__()
        self.is_open = True
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(self, *exc: Any) -> bool | None:
        assert self._running is not None
        self.is_open = False
        try:
            return await self._running.__aexit__(*exc)
        finally:
            if self._handlers is not None:
                self._handlers.remove()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Let the iterators end, each after the message in hand; so the block comes to its end.

        Not a checkpoint.
        """
        self.consumer.stop_flow()
        self.conductor.end()

    @trio.lowlevel.enable_ki_protection
    def stop_on_signals(self, *, timeout: float = 8.0) -> None:
        """Stop the app in order when the process gets SIGTERM or Ctrl-C (SIGINT).

        Call it first in the block of `async with app:`. The first signal does what `stop` does:
        the handlers finish the messages in hand, the app commits the acked offsets and leaves the
        group, so that the next member need not wait for the session to time out. A later SIGTERM
        does nothing. A second Ctrl-C raises KeyboardInterrupt, as if this had not been called. Once
        the app has closed, the handlers that were there before are back.

        Not a checkpoint. It works on trio, and on asyncio through `transport.anyio`.

        Args:
            timeout: seconds after the signal at which the block of `async with app` is cancelled.
                Then the app closes within `grace` seconds. Together they should be below the time
                after which your supervisor kills the process: 30 s in Kubernetes.

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
            logger.info(
                "%s: %s received: the handlers may finish the messages in hand, within %g s",
                *(self.id, number.name, timeout),
            )
            self.stop()
            self._root.end_block_by(trio.current_time() + timeout)

        if self._handlers is None:
            handlers = SignalHandlers(self._token, stop)
            handlers.install()
            self._handlers = handlers

    @trio.lowlevel.enable_ki_protection
    async def kill(self) -> None:
        """Go as a crash would: no commit, no leaving. For demonstrations and tests."""
        with trio.CancelScope(shield=True):
            await self.consumer.kill()
            await self.producer.kill()

    def tree(self) -> Node:
        """What every task of the app does at this moment."""
        return self._root.tree()
