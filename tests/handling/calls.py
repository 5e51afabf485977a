"""A handler's function that records its calls, and records with keys for it."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from typing import Any

import attrs
import trio

from tests.apps import app_on, committed
from transport import TP, App, Message
from transport.drivers.memory import MemoryBroker
from transport.types import Headers

ORDERS = TP("orders", 0)
DEAD = TP("dead", 0)


class Broken(Exception):
    """The failure of a handler in a test."""


@attrs.define
class Call:
    """One call of a handler's function.

    Attributes:
        attempt: the number of this call among those for the same record, from 1.
        end: when it ended, on trio's clock. None: it is running.
        outcome: "running", "done", "failed" or "cancelled".
    """

    tp: TP
    offset: int
    key: Any
    value: Any
    attempt: int
    start: float
    end: float | None = None
    outcome: str = "running"


@attrs.define
class Calls:
    """A handler's function that records its calls.

    Args:
        seconds: the time that a call takes, or a function of the message that returns it.
        fails: a function of a message and the number of the attempt that returns the error of the
            attempt; None: it succeeds.

    Attributes:
        all: the calls, in the order in which they began.
        most: the most calls at once.
    """

    seconds: float | Callable[[Message], float] = 0.0
    fails: Callable[[Message, int], BaseException | None] = lambda message, attempt: None
    all: list[Call] = attrs.field(factory=list)
    most: int = 0
    _running: int = 0
    _attempts: Counter[tuple[TP, int]] = attrs.field(factory=Counter)

    async def __call__(self, message: Message) -> None:
        place = message.tp, message.offset
        self._attempts[place] += 1
        attempt = self._attempts[place]
        call = Call(*place, message.key, message.value, attempt, trio.current_time())
        self.all.append(call)
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await trio.sleep(self.seconds(message) if callable(self.seconds) else self.seconds)
            error = self.fails(message, attempt)
            call.outcome = "done" if error is None else "failed"
            if error is not None:
                raise error
        finally:
            if call.outcome == "running":
                call.outcome = "cancelled"
            self._running -= 1
            call.end = trio.current_time()

    @property
    def running(self) -> list[int]:
        """The offsets of the calls that have not ended."""
        return [call.offset for call in self.all if call.end is None]

    @property
    def begun(self) -> list[int]:
        """The offsets of all calls, in the order in which they began."""
        return [call.offset for call in self.all]

    @property
    def done(self) -> list[int]:
        """The offsets of the calls that have succeeded, in the order in which they began."""
        return [call.offset for call in self.all if call.outcome == "done"]

    def of(self, offset: int) -> list[Call]:
        """Return the calls for one offset."""
        return [call for call in self.all if call.offset == offset]

    def starts(self, offset: int) -> list[float]:
        """Return the times at which the attempts for one offset began."""
        return [call.start for call in self.of(offset)]


def fails_at(*offsets: int, attempts: float = float("inf")) -> Callable[..., BaseException | None]:
    """Return a function for `Calls.fails`: the first attempts for these offsets fail."""

    def fail(message: Message, attempt: int) -> BaseException | None:
        failed = message.offset in offsets and attempt <= attempts
        return Broken(f"offset {message.offset}, attempt {attempt}") if failed else None

    return fail


def check_order(calls: Iterable[Call], by: Callable[[Call], Hashable]) -> None:
    """Check that calls of one group never overlap, and that they have increasing offsets.

    A retry has the offset of the call before it.
    """
    groups: dict[Hashable, list[Call]] = defaultdict(list)
    for call in calls:
        groups[by(call)].append(call)
    for group in groups.values():
        for before, after in itertools.pairwise(group):
            assert before.end is not None, "two calls at once"
            assert before.end <= after.start, "two calls at once"
            is_retry = before.offset == after.offset and before.outcome == "failed"
            assert before.offset < after.offset or is_retry, "out of order"


def put(
    broker: MemoryBroker,
    keys: str,
    tp: TP = ORDERS,
    *,
    value: bytes | None = b"value",
    headers: Headers = (),
) -> None:
    """Append a record for each letter, which is its key. A space stands for no key."""
    log = broker.log(tp)
    for key in keys:
        log.append(None if key == " " else key.encode(), value, headers, broker.clock())
    log.changed.notify()


def broker_with(
    keys: str = "", *, partitions: int = 1, dead: Mapping[str, str] | None = None, **record: Any
) -> MemoryBroker:
    """Return a broker with the topics "orders", "dead" and "buried".

    Args:
        keys: of the records in each partition of "orders", as in `put`.
        partitions: of "orders".
        dead: the configuration of "dead".
        record: value and headers of the records.
    """
    broker = MemoryBroker()
    broker.create_topic("orders", partitions)
    broker.create_topic("dead", 1, dead)
    broker.create_topic("buried", 1)
    for number in range(partitions):
        put(broker, keys, TP("orders", number), **record)
    return broker


def committed_to(broker: MemoryBroker, tp: TP = ORDERS) -> int:
    """Return the committed offset of a partition, or 0: the group may commit its start, too."""
    return committed(broker).get(tp, 0)


@contextlib.asynccontextmanager
async def handling(
    broker: MemoryBroker,
    fn: Callable[[Message], Any],
    *,
    id: str = "group",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[App]:
    """Open an app with one handler of "orders", which is called "worker" like its options."""
    app = app_on(broker, id, **(settings or {}))
    dead_letters = options.get("dead_letters", "fail")
    if dead_letters not in ("fail", "skip"):
        options["dead_letters"] = app.topic(dead_letters)
    app.handler(app.topic("orders"), fn, **{"name": "worker", **options})
    async with app:
        yield app
