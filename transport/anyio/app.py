"""An app, for the tasks of an asyncio loop."""

from __future__ import annotations

import re
from typing import Any

from nurseries import Node
from transport.anyio.conductor import AioConductor
from transport.anyio.consumer import AioConsumer
from transport.anyio.guest import Guest
from transport.anyio.producer import AioProducer
from transport.anyio.topic import AioTopic
from transport.app import App
from transport.codecs import CodecArg
from transport.settings import Settings
from transport.types import K, V


class AioApp:
    """An app for the tasks of an asyncio loop, made by `open_app`.

    Attributes:
        native: the app. Asyncio's tasks may make only the calls that do not wait.
        consumer, producer, conductor: their calls, for asyncio's tasks.
    """

    def __init__(self, app: App, guest: Guest) -> None:
        self.native = app
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

    async def kill(self) -> None:
        """End as a crash would; see `App.kill`."""
        await self._guest.call(self.native.kill)
