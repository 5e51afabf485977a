"""What `memory://NAME` stands for: a broker in the process."""

from __future__ import annotations

from importlib.metadata import version

import trio

from transport.arguments import instance, or_none
from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.consumer import MemoryConsumer
from transport.drivers.memory.producer import MemoryProducer
from transport.drivers.settings import ClientSettings

_brokers: trio.lowlevel.RunVar[dict[str, MemoryBroker]] = trio.lowlevel.RunVar("memory brokers")


class MemoryDriver:
    """Implements `Driver`.

    Args:
        name: of a broker that lives as long as the trio run in which a client first opens it,
            and is the same one for all drivers of this name.
        broker: instead, one that lives as long as you keep it: its data and its commits may be
            taken from one run to the next.
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

    def _attach(self) -> MemoryBroker:
        """The broker, told of the trio run that we are in."""
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
