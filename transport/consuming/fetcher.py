"""The service in the tree whose task polls the client."""

from __future__ import annotations

import trio

from nurseries import Service
from transport.consuming.host import Host


class Fetcher(Service):
    """The service whose task polls the client. See `Polling` for the loop."""

    def __init__(self, app: Host) -> None:
        super().__init__("Fetcher")
        self.app = app
        self._stopped = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self._stopped = trio.Event()
        self.app.consumer.polling.start()
        self.spawn("poll", self._poll)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Stop fetching, and return when no poll is under way."""
        self.app.consumer.polling.stop()
        await self._stopped.wait()

    @trio.lowlevel.enable_ki_protection
    async def _poll(self) -> None:
        consumer = self.app.consumer
        try:
            with consumer.ending_quietly():
                await consumer.polling.run()
        finally:
            self._stopped.set()
