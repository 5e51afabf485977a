"""The demonstration: two members of a group, a crash midway, and a check of all messages."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import trio

from nurseries import tick
from transport.app import App
from transport.codecs import JSON
from transport.drivers.settings import ClientSettings
from transport.errors import TransportError
from transport.leaves import leaves
from transport.message import Batch
from transport.types import TP

PARTITIONS = 4
# The fewest orders. A third of them is sent after the crash, and must reach each partition.
LEAST = 3 * PARTITIONS
# The shortest session that a broker allows by default. The group notices a crash after that time.
SESSION = 6.0
# Seconds after which an order that is not handled counts as lost.
PATIENCE = 120.0


class Member(App):
    """A member of the group that handles the orders.

    Attributes:
        joined: set once it has partitions.
    """

    joined: trio.Event

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        if assigned:
            self.joined.set()


@attrs.define
class Run:
    """The state of one run of the demo.

    Attributes:
        joined: for each member, an event that is set once it has partitions.
        say: receives the lines of the report.
        handled: how often each order was handled, by its number.
        by_member: the number of orders that each member has handled.
        half: set once half of the orders are handled.
        all: set once all orders are handled.
        crashed: the name of the crashed member.
        after_crash: set once a member has crashed.
        shown: the number of handled orders when the progress was last shown.
    """

    broker: str
    orders: int
    name: str
    say: Callable[[str], None]
    joined: dict[str, trio.Event] = attrs.field(
        factory=lambda: {name: trio.Event() for name in ("anna", "bert")}
    )
    began: float = attrs.field(factory=time.monotonic)
    handled: Counter[int] = attrs.field(factory=Counter)
    by_member: Counter[str] = attrs.field(factory=Counter)
    half: trio.Event = attrs.field(factory=trio.Event)
    all: trio.Event = attrs.field(factory=trio.Event)
    crashed: str | None = None
    after_crash: trio.Event = attrs.field(factory=trio.Event)
    shown: int = 0

    def report(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:5.1f} s  {text}")

    async def show_progress(self) -> None:
        shares = ", ".join(f"{name} {n:,}" for name, n in sorted(self.by_member.items()))
        done = len(self.handled)
        waits = ""
        if self.crashed is not None and done == self.shown < self.orders:
            waits = f"; waiting for the session of {self.crashed} to time out"
        self.shown = done
        self.report(f"{done:,} of {self.orders:,} handled ({shares or 'joining'}){waits}")

    def member(self, name: str) -> App:
        app = self.app("kitchen", Member)
        assert isinstance(app, Member)
        app.joined = self.joined[name]
        return app

    def app(self, group: str, kind: type[App] = App) -> App:
        return kind(
            f"{self.name}-{group}",
            broker=self.broker,
            session_timeout=SESSION,
            heartbeat_interval=SESSION / 4,
            commit_interval=0.5,
        )

    def handle(self, member: str, batch: Batch[str, Any]) -> None:
        self.handled.update(message.value["order"] for message in batch)
        self.by_member[member] += len(batch)
        if len(self.handled) >= self.orders // 2:
            self.half.set()
        if len(self.handled) == self.orders:
            self.all.set()


@attrs.frozen
class Findings:
    """The result of the check: numbers of orders, and sums of offsets over all partitions."""

    orders: int
    produced: int
    handled: int
    twice: int
    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed

    @property
    def is_good(self) -> bool:
        return self.orders == self.produced == self.handled and self.lag == 0


async def demo(broker: str, orders: int = 100_000, say: Callable[[str], None] = print) -> Findings:
    """Send orders, handle them in two apps of one group, crash one of these midway, and check.

    Args:
        broker: the URL of a broker. The demo creates a topic with a new name there, and leaves it.
        orders: the number of orders, at least `LEAST`.
        say: receives the lines of the report.
    """
    if orders < LEAST:
        raise ValueError(f"the demo needs {LEAST} orders or more, not {orders}")
    run = Run(broker, orders, f"demo-{os.urandom(3).hex()}", say)
    run.report(f"{orders:,} orders through {broker.split('@')[-1]}, topic {run.name}")
    # Before the members open their apps, so that a broker that does not answer is one error.
    async with run.app("till") as app:
        await app.producer.create_topic(run.name, PARTITIONS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, 1.0, run.show_progress)
        with trio.move_on_after(PATIENCE) as patience:
            async with trio.open_nursery() as members:
                members.start_soon(_member, run, "anna", True)
                members.start_soon(_member, run, "bert", False)
                await _produce(run)
        if patience.cancelled_caught:
            run.report(f"some orders were not handled within {PATIENCE:g} s")
        nursery.cancel_scope.cancel()
    return await _check(run)


async def _produce(run: Run) -> None:
    async with run.app("till") as app:
        for joined in run.joined.values():  # otherwise one member may do half of the work alone
            await joined.wait()
        orders = app.topic(run.name, key_type=str, value_type=JSON)
        for number in range(run.orders):
            if number == run.orders - run.orders // 3:
                # The last orders follow the crash. So each partition has work for the remaining
                # member, which begins with the orders that the crashed member did not commit.
                await run.after_crash.wait()
            await orders.send(
                key=f"customer-{number % 1000}",
                value={"order": number},
                partition=number % PARTITIONS,
            )
        await app.producer.flush()
    run.report("all orders are sent")


async def _member(run: Run, name: str, crashes: bool) -> None:
    async with run.member(name) as app, trio.open_nursery() as nursery:
        nursery.start_soon(_handle, run, name, app)
        if crashes:
            await run.half.wait()
            # On a fast machine half may be done before the first commit at the interval.
            await app.consumer.commit()
            run.report(f"half is done, and {name} is about to crash. The tree of {name}:")
            for line in app.tree().lines("         "):
                run.say(line)
            await app.kill()
            run.crashed = name
            run.after_crash.set()
            run.report(
                f"{name} has crashed: it committed nothing more, and did not leave the group"
            )
            run.report(
                f"its partitions have no owner until its session has timed out, in {SESSION:g} s"
            )
        else:
            await run.all.wait()
            app.stop()


async def _handle(run: Run, name: str, app: App) -> None:
    async for batch in app.topic(run.name, key_type=str, value_type=JSON).batches(500):
        run.handle(name, batch)


async def _check(run: Run) -> Findings:
    """Read the topic and the group's offsets back, outside of the group, and report the result."""
    run.report("reading all orders back, to check")
    app = run.app("audit")
    reader = app.driver.consumer(ClientSettings(group_id=f"{run.name}-kitchen"))
    await reader.open()
    try:
        tps = await reader.partitions(run.name)
        committed = await reader.committed(tps)
        ends = await reader.end_offsets(tps)
    finally:
        await reader.close(5.0)
    produced = await _read_back(run, app, ends)
    findings = Findings(
        orders=run.orders,
        produced=len(produced),
        handled=sum(1 for order in produced if run.handled[order]),
        twice=sum(1 for times in run.handled.values() if times > 1),
        committed=sum(committed.get(tp, 0) for tp in tps),
        end=sum(ends.values()),
    )
    run.report(
        f"read back: produced {findings.produced:,}, handled at least once {findings.handled:,},"
        f" more than once {findings.twice:,}; committed {findings.committed:,} of"
        f" {findings.end:,}, lag {findings.lag}"
    )
    run.report("good" if findings.is_good else "NOT GOOD")
    return findings


async def _read_back(run: Run, app: App, ends: dict[TP, int]) -> set[int]:
    produced: set[int] = set()
    left = {tp for tp, end in ends.items() if end}
    async with app:
        if left:
            async for batch in app.topic(run.name, value_type=JSON).batches():
                produced.update(message.value["order"] for message in batch)
                if batch.messages[-1].offset + 1 >= ends[batch.tp]:
                    left.discard(batch.tp)
                if not left:
                    app.stop()
    return produced


def run_demo(broker: str, orders: int) -> int:
    """Run the demonstration and return the exit code."""
    try:
        return trio.run(_demo, broker, orders)
    except* (TransportError, ValueError) as group:
        for line in dict.fromkeys(_lines(group)):
            print(line, file=sys.stderr)
    return 1


async def _until_signal(scope: trio.CancelScope, got: list[int]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for signum in signals:
            got.append(signum)
            scope.cancel()


async def _demo(broker: str, orders: int) -> int:
    got: list[int] = []
    good = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope, got)
        good = (await demo(broker, orders)).is_good
        nursery.cancel_scope.cancel()
    if got:
        print(f"ended by {signal.Signals(got[0]).name}", file=sys.stderr)
        return 128 + got[0]
    return 0 if good else 1


def _lines(error: BaseException) -> Iterator[str]:
    """Yield one line for each error in a group."""
    for each in leaves(error):
        yield f"{type(each).__name__}: {' '.join(str(each).split())}"
