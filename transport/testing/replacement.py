"""Another broker for an app that exists already, such as the app of a module.

Look here for what an app keeps when a test gives it another broker: its settings, its topic objects
and its handlers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import attrs

from nurseries import State
from transport.app import App
from transport.arguments import instance, or_none
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.handling.plan import Plan
from transport.settings import Settings
from transport.topic import Topic


@contextlib.contextmanager
def in_memory(app: App, broker: MemoryBroker | None = None) -> Iterator[MemoryBroker]:
    """Give an app a broker in the process, until the block ends.

    In the block, the app can be opened with `async with app:`, also if it was opened before. It
    never connects to its own broker. Its topic objects and handlers are the same, and so are its
    settings, with three exceptions. It has no monitor, because a monitor serves one app only. It
    has no `status_socket` and no `web`, because several tests may run at once on one machine.

    Args:
        broker: the broker to use, and the value of `with`. None: a new one, which creates each
            topic on its first use, with one partition.

    Raises:
        RuntimeError: the app is open.
    """
    instance("app", app, App, "an App")
    or_none(instance, "broker", broker, kind=MemoryBroker, expected="a MemoryBroker or None")
    if broker is None:
        broker = broker_for(app)
    with replaced(app, MemoryDriver(broker=broker), [handler.plan for handler in app.handlers]):
        yield broker


def broker_for(app: App) -> MemoryBroker:
    """Return a broker that has the app's topics of dead letters, and creates all others."""
    broker = MemoryBroker(default_partitions=1)
    for handler in app.handlers:
        if isinstance(letters := handler.plan.dead_letters, Topic):
            broker.create_topic(letters.name, 1)
    return broker


@contextlib.contextmanager
def replaced(
    app: App, driver: Driver, plans: Iterable[Plan], settings: Settings | None = None
) -> Iterator[None]:
    """Give an app another driver and other handlers, until the block ends.

    Args:
        plans: the handlers. Their topics are topic objects of the app.
        settings: other settings of the app. None: its own.
    """
    if app._root.state not in (State.IDLE, State.ENDED):
        raise RuntimeError(f"the app {app.id!r} is open: give it another broker before you open it")
    before = {name: getattr(app, name) for name in ("settings", *app._PARTS)}
    app.settings = without_servers(settings or app.settings)
    app._make_parts(driver, None)
    channels = {topic: topic.channel for topic in app._topics}
    try:
        for topic in channels:
            topic.renew_channel()
        for plan in plans:
            app.handlers.add(plan)
        yield
    finally:
        vars(app).update(before)
        for topic, channel in channels.items():
            topic.channel = channel


def without_servers(settings: Settings) -> Settings:
    """Return the settings of an app that listens nowhere: another app may have its place."""
    return attrs.evolve(settings, status_socket=None, web=None)
