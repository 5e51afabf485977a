"""A message before it is accepted, and what becomes of one that is to be sent soon."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import attrs
import trio
from attrs.validators import instance_of, optional

from transport.drivers.base import Outcome, Outgoing
from transport.types import Headers, HeadersArg, RecordMetadata


def outgoing_of(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    partition: int | None,
    timestamp: float | None,
    headers: HeadersArg,
) -> Outgoing:
    """The arguments of `Producer.send` as one. Raises TypeError: headers of another kind."""
    return Outgoing(
        topic,
        partition,
        key,
        value,
        _pairs(headers),
        None if timestamp is None else round(timestamp * 1000),
    )


@attrs.frozen(kw_only=True)
class PendingMessage:
    """A message that is not sent yet; the fields are the arguments of `Producer.send`.

    Raises TypeError: a field is something else.
    """

    topic: str = attrs.field(validator=instance_of(str))
    key: bytes | None = attrs.field(default=None, validator=optional(instance_of(bytes)))
    value: bytes | None = attrs.field(default=None, validator=optional(instance_of(bytes)))
    partition: int | None = attrs.field(default=None, validator=optional(instance_of(int)))
    timestamp: float | None = attrs.field(
        default=None, validator=optional(instance_of((int, float)))
    )
    headers: HeadersArg = None

    def outgoing(self) -> Outgoing:
        """As the driver takes it. Raises TypeError: headers of another kind."""
        return outgoing_of(
            self.topic, self.key, self.value, self.partition, self.timestamp, self.headers
        )


class FutureMessage:
    """What becomes of a pending message: `await` it for where it was written.

    Any number of tasks may await it. Awaiting is a checkpoint; cancelling ends only the waiting. It
    raises what `Producer.send` and the delivery raise. A thread without trio asks for `result`.

    Attributes:
        ended: set once the outcome is known.
        is_given: a producer has it; none takes it again.
    """

    def __init__(self, message: PendingMessage) -> None:
        self.message = message
        self.ended = trio.Event()
        self._outcome: concurrent.futures.Future[RecordMetadata] = concurrent.futures.Future()
        self._on_seen: Callable[[], object] = lambda: None
        self._waiting: list[None] = []  # one for each who waits; a thread may be one of them
        self.is_given = False

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome.done()

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if self.ended.is_set():
            await trio.lowlevel.checkpoint()
        else:
            with self._counted():
                await self.ended.wait()
        self._on_seen()
        return self._outcome.result()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Block for the outcome, in a thread that is not trio's.

        Raises TimeoutError after `timeout` seconds; RuntimeError: in trio's thread it would wait
        for itself.
        """
        if not self.is_done and trio.lowlevel.in_trio_run():
            raise RuntimeError("the outcome is awaited in trio, not blocked for")
        try:
            with self._counted():
                return self._outcome.result(timeout)
        finally:
            if self.is_done:
                self._on_seen()

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def end(self, outcome: Outcome, on_seen: Callable[[], object]) -> None:
        """For the producer, in trio; it wants to know once somebody has seen a failure."""
        self._on_seen = on_seen
        was_awaited = bool(self._waiting)  # before they are told: a thread goes on at once
        if isinstance(outcome, RecordMetadata):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)
        self.ended.set()
        if was_awaited:
            on_seen()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._waiting.append(None)
        try:
            yield
        finally:
            self._waiting.pop()


def _pairs(headers: HeadersArg) -> Headers:
    if not headers:
        return ()
    pairs = []
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        match pair:
            case (str(name), bytes(data)):
                pairs.append((name, data))
            case _:
                raise TypeError(f"headers are pairs of str and bytes, not {pair!r}")
    return pairs
