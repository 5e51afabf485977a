"""Faults between an app and its broker: a driver that wraps another driver.

A `Fault` changes one call of a client: the call is late, is refused, or loses its answer. `Faults`
decides which call has which fault. `Script` decides by number, `Chance` at random; a class of your
own can decide in another way.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, cast

import attrs
import trio

from transport.arguments import (
    flag,
    instance,
    is_number,
    or_none,
    seconds,
    setting,
    text,
    whole,
    wrong_type,
    wrong_value,
)
from transport.drivers.base import ConsumerClient, Driver, ProducerClient
from transport.drivers.settings import ClientSettings
from transport.errors import (
    BrokerUnavailable,
    ClientClosed,
    CommitUnknown,
    RebalanceInProgress,
    TransportError,
)
from transport.handling.observer import Observer

T = TypeVar("T")

CALLS_OF_A_CONSUMER = frozenset(
    name
    for name, method in vars(ConsumerClient).items()
    if inspect.iscoroutinefunction(method) and name not in ("close", "kill", "next_rebalance")
)
CALLS_OF_A_PRODUCER = frozenset(
    name
    for name, method in vars(ProducerClient).items()
    if inspect.iscoroutinefunction(method) and name not in ("close", "kill", "keep_deadlines")
)

# The calls of one producer that reach the broker in the order in which they were made.
_IN_ORDER = frozenset({"send", "begin", "send_offsets", "commit", "abort"})


@attrs.frozen
class Fault:
    """A change to one call of a client.

    Attributes:
        delay: seconds by which the call reaches the broker late.
        error: raised to the caller. None: the caller receives the answer.
        is_made: whether the call is made. With an `error`, its answer is lost.
    """

    delay: float = attrs.field(default=0.0, validator=setting(seconds, least=0.0))
    error: TransportError | None = attrs.field(
        default=None,
        validator=setting(
            instance, optional=True, kind=TransportError, expected="a TransportError or None"
        ),
    )
    is_made: bool = attrs.field(default=True, validator=setting(flag))

    def __str__(self) -> str:
        late = f"late by {self.delay:g} s" if self.delay else ""
        lost = "" if self.error is None else f"{'made, ' if self.is_made else ''}{self.error!r}"
        return ", ".join(filter(None, [late, lost])) or "nothing"


def slow(seconds: float) -> Fault:
    """Return a fault that delays a call. Later calls of a producer wait for it.

    If the caller is cancelled meanwhile, the call is still made, unless it is a poll.
    """
    return Fault(delay=seconds)


def refused(error: TransportError) -> Fault:
    """Return a fault that raises an error instead of making the call."""
    return Fault(error=error, is_made=False)


def unanswered(seconds: float, *, made: bool) -> Fault:
    """Return a fault that loses the answer to a commit: the caller gets CommitUnknown.

    Args:
        seconds: the delay of the commit and of the error.
        made: whether the commit is made.
    """
    return Fault(delay=seconds, error=CommitUnknown("no answer"), is_made=made)


def check_call(name: str, call: Any) -> None:
    """Check the name of a call, in the form that `Faults.of` receives."""
    text(name, call)
    prefix, _, method = call.rpartition(".")
    calls = {"": CALLS_OF_A_CONSUMER, "producer": CALLS_OF_A_PRODUCER}.get(prefix, frozenset())
    if method not in calls:
        expected = "an async method of ConsumerClient, or 'producer.' and one of ProducerClient"
        raise wrong_value(name, expected, call)


class Faults(Protocol):
    """Decides which calls have a fault."""

    def of(self, call: str) -> Fault | None:
        """Return the fault of this call, or None. Called once for each call.

        Args:
            call: a method of `ConsumerClient`, or "producer." and a method of `ProducerClient`.
        """


@attrs.define
class Script:
    """Faults by the name and the number of a call. Each name is counted from 0.

    Attributes:
        faults: such as `{("commit", 1): unanswered(5, made=True)}`.
    """

    faults: Mapping[tuple[str, int], Fault] = attrs.field()
    _made: dict[str, int] = attrs.field(factory=dict, init=False)

    @faults.validator
    def _check_faults(self, _: object, faults: Mapping[tuple[str, int], Fault]) -> None:
        instance("faults", faults, Mapping, 'a mapping such as {("commit", 1): slow(5)}')
        for place, fault in faults.items():
            match place:
                case (call, number):
                    check_call("the call in each key of faults", call)
                    whole("the number in each key of faults", number)
                case _:
                    raise wrong_type("each key of faults", "a call and its number", place)
            instance("each value of faults", fault, Fault, "a Fault")

    def of(self, call: str) -> Fault | None:
        number = self._made.get(call, 0)
        self._made[call] = number + 1
        return self.faults.get((call, number))


@attrs.define
class Chance:
    """Random faults, each of which an app should survive.

    Attributes:
        draw: the source of the random choices.
        rate: the share of calls that have a fault, from 0 to 1.
        longest: the longest delay of a call, in seconds.
    """

    draw: random.Random = attrs.field(
        validator=setting(instance, kind=random.Random, expected="a random.Random")
    )
    rate: float = attrs.field(default=0.05)
    longest: float = attrs.field(default=3.0, validator=setting(seconds, least=0.0))

    @rate.validator
    def _check_rate(self, _: object, rate: float) -> None:
        if not is_number(rate):
            raise wrong_type("rate", "a share of the calls, from 0 to 1", rate)
        if not 0 <= rate <= 1:
            raise wrong_value("rate", "a share of the calls, from 0 to 1", rate)

    def of(self, call: str) -> Fault | None:
        if self.draw.random() >= self.rate:
            return None
        late = self.draw.uniform(0, self.longest)
        match call:
            case "commit":
                return self.draw.choice(
                    [
                        slow(late),
                        unanswered(late, made=True),
                        unanswered(late, made=False),
                        refused(RebalanceInProgress("a random fault")),
                    ]
                )
            case "producer.commit":
                made = self.draw.random() < 0.5
                return self.draw.choice([slow(late), unanswered(late, made=made)])
            case "producer.begin" | "producer.abort":
                return self.draw.choice([slow(late), refused(BrokerUnavailable("a random fault"))])
            case _:
                return slow(late)


class FaultyDriver:
    """A driver with faults, which can also crash. Pass it to an `App` as its broker.

    Args:
        driver: makes the calls.
        faults: decides which calls have a fault. None: no call has one.
        order: shuffles the partitions of each poll and the reports on sent messages. None: keep the
            order of `driver`.

    Attributes:
        observer: receives the events of the handlers of an app with this driver. None: there is no
            observer.
    """

    def __init__(
        self,
        driver: Driver,
        faults: Faults | None = None,
        *,
        order: random.Random | None = None,
    ) -> None:
        # Check the class: reading `version` of an instance does work.
        if not all(hasattr(type(driver), name) for name in ("version", "consumer", "producer")):
            raise wrong_type("driver", "a Driver", driver)
        if faults is not None and not hasattr(faults, "of"):
            raise wrong_type("faults", "Faults, such as a Script, or None", faults)
        or_none(instance, "order", order, kind=random.Random, expected="a random.Random or None")
        self.faults = faults
        self.observer: Observer | None = None
        self._driver = driver
        self._order = order
        self._is_dead = False
        self._clients: list[ConsumerClient | ProducerClient] = []

    @property
    def version(self) -> str:
        return self._driver.version

    def consumer(self, settings: ClientSettings) -> ConsumerClient:
        client = self._driver.consumer(settings)
        self._clients.append(client)
        return cast(ConsumerClient, _Faulty(client, self._around, "", CALLS_OF_A_CONSUMER))

    def producer(self, settings: ClientSettings) -> ProducerClient:
        client = self._driver.producer(settings)
        self._clients.append(client)
        return cast(ProducerClient, _Faulty(client, self._around, "producer.", CALLS_OF_A_PRODUCER))

    async def crash(self) -> None:
        """Kill all clients, as a crash of the process does: they do not commit or leave the group.

        Afterwards, cancel the task that runs the app. A checkpoint. Cancelling does not stop it.
        """
        self._is_dead = True
        with trio.CancelScope(shield=True):
            for client in self._clients:
                await client.kill()

    async def _around(self, name: str, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        fault = None if self.faults is None else self.faults.of(name)
        if fault is None:
            return await self._make(name, call, *args)
        try:
            await trio.sleep(fault.delay)
        except trio.Cancelled:
            # A real client also finishes a call whose caller was cancelled.
            if fault.is_made and name != "poll" and not self._is_dead:
                with trio.CancelScope(shield=True):
                    await self._make(name, call, *args)
            raise
        result = await self._make(name, call, *args) if fault.is_made else None
        if fault.error is not None:
            raise fault.error
        return result

    async def _make(self, name: str, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if self._is_dead:
            raise ClientClosed("FaultyDriver.crash() has closed this client")
        match name, args:
            case "poll", _:
                return dict(self._shuffled((await call()).items()))
            case "producer.open", (report,):
                return await call(lambda reports: report(self._shuffled(reports)))
            case _:
                return await call(*args)

    def _shuffled(self, things: Iterable[T]) -> list[T]:
        shuffled = list(things)
        if self._order is not None:
            self._order.shuffle(shuffled)
        return shuffled


class _Faulty:
    """A client whose calls go through a `FaultyDriver`. Its other attributes are unchanged."""

    def __init__(
        self,
        client: ConsumerClient | ProducerClient,
        around: Callable[..., Awaitable[Any]],
        prefix: str,
        calls: frozenset[str],
    ) -> None:
        self._client = client
        self._around = around
        self._prefix = prefix
        self._calls = calls
        self._turn = trio.Lock()  # of the calls of a producer

    def send_now(self, batch: object) -> bool:
        return False  # so that each batch goes through `send`, which can have a fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name not in self._calls:
            return method
        return functools.partial(self._call, name, method)

    async def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        call: Callable[..., Any] = functools.partial(method, **options)
        if self._calls is CALLS_OF_A_CONSUMER and name == "commit":
            call = self._in_this_generation(call)
        make = functools.partial(self._around, self._prefix + name, call, *args)
        if self._calls is not CALLS_OF_A_PRODUCER or name not in _IN_ORDER:
            return await make()
        if self._turn.locked():
            await self._wait_for_turn(make)
        else:
            self._turn.acquire_nowait()
        try:
            return await make()
        finally:
            self._turn.release()

    def _in_this_generation(self, commit: Callable[..., Any]) -> Callable[..., Any]:
        """Return a commit that is refused after a rebalance, as the broker refuses it.

        Its request names the generation in which it was sent. Otherwise a late commit could undo a
        commit of the next owner.
        """
        began_in = self._generation()

        async def make(*args: Any) -> Any:
            if self._generation() != began_in:
                raise RebalanceInProgress("this late commit is of an earlier generation")
            return await commit(*args)

        return make

    def _generation(self) -> int | None:
        """Return the generation of the client. None: a rebalance waits, or the client is closed."""
        try:
            return cast(ConsumerClient, self._client).group_metadata().generation_id
        except TransportError:
            return None

    async def _wait_for_turn(self, make: Callable[[], Awaitable[object]]) -> None:
        """Wait until the calls before are made. Cancelled: the call is made nevertheless."""
        try:
            await self._turn.acquire()
        except trio.Cancelled:
            with trio.CancelScope(shield=True), contextlib.suppress(TransportError):
                async with self._turn:
                    await make()
            raise
