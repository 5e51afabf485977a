"""Messages before a producer accepts them, and the outcomes of those that `send_soon` has queued.

Look here for the checks of a message's arguments, and for how an error names a message.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable, Generator, Iterator
from typing import Any

import attrs
import trio

from transport.arguments import (
    MOST,
    data,
    headers_of,
    instance,
    milliseconds_of,
    or_none,
    seconds,
    topic_name,
    whole,
)
from transport.drivers.base import Outcome
from transport.errors import MessageTooLarge
from transport.excerpt import excerpt_of
from transport.producing.delivery import Delivery
from transport.types import HeadersArg, RecordMetadata


def outgoing_of(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    partition: int | None,
    timestamp: float | None,
    headers: HeadersArg,
) -> Delivery:
    """Check the arguments of `Producer.send` and return the message to accept.

    Raises TypeError, ValueError: the text names the topic, the argument and the valid values.
    """
    if type(topic) is not str:
        topic_name("topic", topic)
    if partition is not None and (type(partition) is not int or not 0 <= partition <= MOST):
        partition = whole(f"the partition of a message for {topic!r}", partition, most=MOST)
    # A valid or absent value costs no call, because this runs for each message.
    if key is not None and type(key) is not bytes:
        key = data("key", topic, key)
    if value is not None and type(value) is not bytes:
        value = data("value", topic, value)
    return Delivery(
        topic,
        partition,
        key,
        value,
        () if headers is None else headers_of(topic, headers),
        None if timestamp is None else milliseconds_of(topic, timestamp),
    )


def always() -> None:
    """Do nothing: the check of a message that may always be accepted."""


class _At:
    """The number of the message that is being checked."""

    number = 0


@contextlib.contextmanager
def numbered() -> Iterator[_At]:
    """In the block, add the number of the message to each error that is raised."""
    at = _At()
    try:
        yield at
    except (TypeError, ValueError, MessageTooLarge) as error:
        what = f"message {at.number} of send_many"
        if type(error) in (TypeError, ValueError, MessageTooLarge):
            raise type(error)(f"{what}: {error}") from error
        error.add_note(f"in {what}")  # a class of the user's, from a codec or a partitioner
        raise


@attrs.frozen(kw_only=True)
class PendingMessage:
    """A message that is not sent yet. The fields are the arguments of `Producer.send`.

    The headers are copied: changing the mapping or list later does not change the message.

    Raises TypeError, ValueError: a field has a wrong value. The text names the field.
    """

    topic: str
    key: bytes | None = attrs.field(default=None, repr=excerpt_of)
    value: bytes | None = attrs.field(default=None, repr=excerpt_of)
    partition: int | None = None
    timestamp: float | None = None
    headers: HeadersArg = attrs.field(default=None, repr=excerpt_of)

    def __attrs_post_init__(self) -> None:
        outgoing = self.outgoing()
        if self.headers is not None:
            object.__setattr__(self, "headers", tuple(outgoing.headers))

    def outgoing(self) -> Delivery:
        """Return a new message for a producer to accept, at each call."""
        return outgoing_of(
            self.topic, self.key, self.value, self.partition, self.timestamp, self.headers
        )


class FutureMessage:
    """The outcome of a pending message. `await` it for the metadata of the written message.

    Any number of tasks may await it. Awaiting is a checkpoint; cancelling ends only the waiting. It
    raises what `Producer.send` and the delivery raise. Threads other than trio's call `result`.

    Attributes:
        ended: set once the outcome is known.
        is_given: a producer has queued the message. It cannot be queued again.
        hurry: see `Delivery`.
        context: with tracing, the context variables of the task or thread that has queued it, until
            its span has begun.
    """

    def __init__(self, message: PendingMessage) -> None:
        instance("message", message, PendingMessage, "a PendingMessage")
        self.message = message
        self.ended = trio.Event()
        self._outcome: concurrent.futures.Future[RecordMetadata] = concurrent.futures.Future()
        self._on_seen: Callable[[], object] = lambda: None
        self._waiting: list[None] = []  # an entry for each waiting task or thread
        self._calls: list[Callable[[], object]] = []  # to call once the outcome is known
        self.is_given = False
        self.context: contextvars.Context | None = None
        self.hurry: Callable[[], object] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome.done()

    def give_to(self, hurry: Callable[[], object] | None) -> None:
        """Note that a producer has the message. May be called from any thread."""
        self.is_given, self.hurry = True, hurry
        if self._waiting and hurry is not None:
            hurry()

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
        """Block until the outcome is known, in a thread other than trio's.

        Args:
            timeout: seconds. None: there is no bound.

        Raises TimeoutError after `timeout` seconds. RuntimeError: the call was made in trio's
        thread before the outcome was known, and would block that thread for ever.
        """
        or_none(seconds, "timeout", timeout, least=0, finite=False)
        if not self.is_done and trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "result() would block trio's thread before the outcome is known: await the"
                " FutureMessage instead"
            )
        try:
            with self._counted():
                return self._outcome.result(timeout)
        finally:
            if self.is_done:
                self._on_seen()

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def call_at_end(self, fn: Callable[[], object]) -> None:
        """Call `fn` once the outcome is known; see `Delivery.call_at_end`."""
        self._calls.append(fn)
        self._wait()

    def call_off(self, fn: Callable[[], object]) -> None:
        """Undo `call_at_end`, whether or not the outcome is known already."""
        if fn in self._calls:
            self._calls.remove(fn)
            self._waiting.pop()

    def end(self, outcome: Outcome, on_seen: Callable[[], object]) -> None:
        """Record the outcome and wake the waiters. For the producer, in trio's thread.

        Args:
            on_seen: called when a waiter has seen the outcome.
        """
        self._on_seen = on_seen
        was_awaited = bool(self._waiting)  # read first: a waiting thread continues at once
        if isinstance(outcome, RecordMetadata):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)
        self.ended.set()
        for call in self._calls:
            call()
        if was_awaited:
            on_seen()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._wait()
        try:
            yield
        finally:
            self._waiting.pop()

    def _wait(self) -> None:
        self._waiting.append(None)
        if self.hurry is not None and not self.is_done:
            self.hurry()
