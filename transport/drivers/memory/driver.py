"""The driver for `memory://NAME`: clients of a broker in the process."""

from __future__ import annotations

from importlib.metadata import version

import trio

from transport.arguments import instance, or_none
from transport.drivers.memory.admin import MemoryAdmin
from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.consumer import MemoryConsumer
from transport.drivers.memory.producer import MemoryProducer
from transport.drivers.settings import ClientSettings

_brokers: trio.lowlevel.RunVar[dict[str, MemoryBroker]] = trio.lowlevel.RunVar("memory brokers")


class MemoryDriver:
    """A `Driver` for a broker in the process.

    Args:
        name: the name of a broker. All drivers with this name in a trio run share one broker, which
            exists until the run ends.
        broker: used instead of a named broker. You can use its data and commits in several runs.
    """

    def __init__(self, name: str = "", *, broker: MemoryBroker | None = None) -> None:
        instance("name", name, str, "the name of a broker, a str")
        or_none(instance, "broker", broker, kind=MemoryBroker, expected="a MemoryBroker or None")
        self._name = name
        self._broker = broker

    @property
    def version(self) -> str:
        return f"memory={version('kafka-nursery')}"

    def consumer(self, settings: ClientSettings) -> MemoryConsumer:
        return MemoryConsumer(self._attach, settings)

    def producer(self, settings: ClientSettings) -> MemoryProducer:
        return MemoryProducer(self._attach, settings)

    def admin(self, settings: ClientSettings) -> MemoryAdmin:
        return MemoryAdmin(self._attach, version("kafka-nursery"))

    def _attach(self) -> MemoryBroker:
        """Return the broker, after it has entered the current trio run."""
        broker = self._broker
        if broker is None:
            try:
                named = _brokers.get()
            except LookupError:
                named = {}
                _brokers.set(named)
            broker = named.setdefault(self._name, MemoryBroker())
        broker.attend(trio.lowlevel.current_trio_token(), trio.current_time())
        return broker
