"""The opening of a consumer's client, which its users share.

A consumer opens its client when it begins to read, or at the first question about offsets and
topics. The client joins its group only when it polls, so a program that only asks is no member.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from transport.drivers.base import ConsumerClient
from transport.errors import AppClosed, TransportError


class Opening:
    """The opening of one client.

    Args:
        client: is opened.
        spawn: starts a task of the consumer, with a name.
        on_failure: called if the client could not be opened. It can never be opened again.

    Attributes:
        has_begun: the client is being opened, or was.
    """

    def __init__(
        self,
        client: ConsumerClient,
        spawn: Callable[[str, Callable[[], Awaitable[None]]], None],
        on_failure: Callable[[], None],
    ) -> None:
        self.has_begun = False
        self._client = client
        self._spawn = spawn
        self._on_failure = on_failure
        self._error: TransportError | None = None
        self._ended = trio.Event()

    async def wait(self) -> None:
        """Open the client if no user has begun that, and wait until it is open.

        A checkpoint. Cancelled: the opening goes on. Raises the TransportError of the opening.
        """
        if not self.has_begun:
            self.has_begun = True
            self._spawn("connecting", self._run)
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        try:
            await self._client.open()
        except TransportError as error:
            self._error = error
            self._on_failure()
        except BaseException:  # the consumer ends
            self._error = AppClosed("the app is closing")
            raise
        finally:
            self._ended.set()
