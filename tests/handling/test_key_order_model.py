"""The order of keys in random orders of events, compared with one plain list for each key.

The model keeps every work of a key in a list, in the order in which the works were put, and
searches these lists, which `KeyOrder` avoids. The model shares no code with `KeyOrder`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from transport.handling.key_order import KeyOrder, Partition, Work
from transport.types import TP

TPS = [TP("orders", number) for number in range(2)]
tps = st.sampled_from(TPS)
keys = st.sampled_from(["a", "b", "c", None])
index = st.integers(min_value=0, max_value=10**6)


@attrs.define(eq=False)
class Item:
    """A work in the model.

    Attributes:
        list: the list of its key. A work without a key has a list of its own.
        epoch: the epoch of its partition in which it was put.
        ahead: of a ready work, the number of works that may begin before it.
        waits: whether a parked work still waits for a retry when it is the first of its key.
    """

    work: Work[int]
    tp: TP
    list: list[Item]
    epoch: int
    state: str = "parked"
    ahead: int = 0
    waits: bool = False


class KeyOrderMachine(RuleBasedStateMachine):
    """The works of two partitions, through takes, ends, retries, cuts and epochs."""

    @initialize()
    def begin(self) -> None:
        self.order: KeyOrder[int] = KeyOrder()
        self.partitions: dict[TP, Partition[int]] = {}  # those that may get works now
        self.epochs = dict.fromkeys(TPS, 0)
        self.offsets = dict.fromkeys(TPS, 0)
        self.highest: dict[TP, int] = {}
        self.lists: dict[TP, dict[object, list[Item]]] = {tp: {} for tp in TPS}
        self.removed: list[Item] = []

    # The works of the model

    def items(self, tp: TP | None = None, state: str | None = None) -> Iterator[Item]:
        for each in TPS if tp is None else [tp]:
            for items in self.lists[each].values():
                yield from (item for item in items if state in (None, item.state))

    def one(self, which: int, state: str) -> Item | None:
        found = list(self.items(state=state))
        return found[which % len(found)] if found else None

    def is_straggler(self, item: Item) -> bool:
        return item.epoch != self.epochs[item.tp]

    def make_ready(self, item: Item) -> None:
        item.ahead = sum(1 for _ in self.items(state="ready"))
        item.state = "ready"

    def become_first(self, item: Item) -> None:
        if item.waits:
            item.state = "waiting"
        else:
            self.make_ready(item)

    def remove(self, item: Item) -> None:
        """Remove an item from the model."""
        item.list.remove(item)
        if not item.list:
            lists = self.lists[item.tp]
            (key,) = [key for key, items in lists.items() if items is item.list]
            del lists[key]

    def check_that_is_gone(self, work: Work[int]) -> None:
        """Check that a work never becomes due, and keeps no other work in memory."""
        assert (work.partition, work.next, work.last) == (None, None, None)

    def has(self, state: str) -> bool:
        return any(True for _ in self.items(state=state))

    # Events

    @rule(tp=tps, key=keys, waits=st.booleans(), skips=st.integers(0, 2))
    def put(self, tp: TP, key: str | None, waits: bool, skips: int) -> None:
        """Put the next message of a partition, perhaps after a gap in its offsets."""
        if tp not in self.partitions:
            self.partitions[tp] = self.order.partition(tp)
            self.highest[tp] = -1
        offset = self.offsets[tp] + skips
        self.offsets[tp] = offset + 1
        work = Work(offset, offset, key)
        items = self.lists[tp].setdefault(work.key, [])
        self.order.put(work, self.partitions[tp], waits=waits)
        item = Item(work, tp, items, self.epochs[tp], waits=waits)
        items.append(item)
        if item is items[0]:
            self.become_first(item)

    @rule()
    def begin_next(self) -> None:
        work = self.order.begin()
        if work is None:
            assert not self.has("ready")
            return
        (item,) = [item for item in self.items() if item.work is work]
        assert item.state == "ready", "it was cut, or runs already, or waits"
        assert item is item.list[0], "another work of its key is before it"
        assert not self.is_straggler(item)
        assert item.ahead == 0, "a work that was ready earlier has not begun"
        for other in self.items(state="ready"):
            if other is not item:
                assert other.ahead > 0, "this work has starved another one"
                other.ahead -= 1
        item.state = "running"
        self.highest[item.tp] = max(self.highest[item.tp], work.offset)

    @precondition(lambda self: self.has("running"))
    @rule(which=index)
    def end(self, which: int) -> None:
        item = self.one(which, "running")
        assert item is not None
        self.order.done(item.work)
        self.remove(item)
        self.check_that_is_gone(item.work)
        assert not item.work.is_running
        if item.list:
            assert item.list[0].state == "parked"
            self.become_first(item.list[0])

    @precondition(lambda self: self.has("running"))
    @rule(which=index)
    def fail(self, which: int) -> None:
        """Fail a running work: it waits for its retry. A straggler has no retry, and ends."""
        item = self.one(which, "running")
        assert item is not None
        if self.is_straggler(item):
            self.end(which)
            return
        self.order.retry(item.work)
        item.state = "waiting"
        if item.work.offset == self.highest[item.tp]:
            self.highest[item.tp] -= 1  # it counts as not begun

    @precondition(lambda self: self.has("waiting"))
    @rule(which=index)
    def become_due(self, which: int) -> None:
        item = self.one(which, "waiting")
        assert item is not None
        assert self.order.due(item.work)
        self.make_ready(item)

    @precondition(lambda self: self.has("parked"))
    @rule(which=index)
    def become_due_while_parked(self, which: int) -> None:
        item = self.one(which, "parked")
        assert item is not None
        if item.waits:
            assert not self.order.due(item.work), "a work before it has not ended"
            item.waits = False

    @precondition(lambda self: self.removed)
    @rule(which=index)
    def become_due_after_a_cut(self, which: int) -> None:
        item = self.removed[which % len(self.removed)]
        assert not self.order.due(item.work), "nothing of a cut partition begins"

    @precondition(lambda self: self.partitions)
    @rule(which=index, above=st.integers(-1, 12))
    def cut(self, which: int, above: int) -> None:
        """Remove all works above an offset that have not begun; -1: all."""
        tp = list(self.partitions)[which % len(self.partitions)]
        before = self.offsets[tp] - 12
        limit = -1 if above == -1 else before + above
        self.remove_model(tp, limit, self.order.cut(self.partitions[tp], limit))
        if above == -1:
            self.offsets[tp] = max(self.highest[tp] + 1, 0)  # they are put again

    def remove_model(self, tp: TP, above: int, removed: list[Work[int]]) -> None:
        expected = [
            item
            for item in self.items(tp)
            if item.state != "running" and not self.is_straggler(item) and item.work.offset > above
        ]
        assert set(removed) == {item.work for item in expected}
        assert len(removed) == len(expected)
        for item in expected:
            if item.state == "ready":
                for other in self.items(state="ready"):
                    other.ahead -= other.ahead > item.ahead
            item.state = "gone"
            self.remove(item)
            self.check_that_is_gone(item.work)
            self.removed.append(item)

    @precondition(lambda self: self.partitions)
    @rule(which=index, start=st.integers(0, 5))
    def end_epoch(self, which: int, start: int) -> None:
        """Revoke a partition, or seek in it. Its running works become stragglers."""
        tp = list(self.partitions)[which % len(self.partitions)]
        self.remove_model(tp, -1, self.order.end_epoch(self.partitions.pop(tp)))
        self.epochs[tp] += 1
        self.offsets[tp] = start

    # After each step

    @invariant()
    def ready_works_are_those_of_the_model_in_the_order_in_which_they_became_ready(self) -> None:
        ready = sorted(self.items(state="ready"), key=lambda item: item.ahead)
        assert [item.ahead for item in ready] == list(range(len(ready)))
        assert list(self.order.ready) == [item.work for item in ready]

    @invariant()
    def works_of_a_key_are_linked_in_the_order_of_the_model(self) -> None:
        for tp in TPS:
            partition = self.order.partitions.get(tp)
            for key, items in self.lists[tp].items():
                assert partition is not None
                head = work = partition.heads[key]
                linked = [work]
                while work.next is not None:
                    work = work.next
                    linked.append(work)
                assert linked == [item.work for item in items]
                assert (head.last or head) is linked[-1]

    @invariant()
    def works_wait_for_a_retry_as_in_the_model(self) -> None:
        for item in self.items():
            is_parked = item.state == "parked"
            assert item.work.waits == (item.waits if is_parked else item.state == "waiting")
            assert item.work.is_running == (item.state == "running")

    @invariant()
    def at_most_one_work_of_a_key_runs_also_across_epochs(self) -> None:
        running: defaultdict[tuple[TP, object], int] = defaultdict(int)
        for tp, partition in self.order.partitions.items():
            for key, head in partition.heads.items():
                work: Work[int] | None = head
                while work is not None:
                    running[tp, key] += work.is_running
                    work = work.next
        assert max(running.values(), default=0) <= 1
        assert sum(running.values()) == sum(1 for _ in self.items(state="running"))

    @invariant()
    def numbers_and_maps_are_those_of_the_model(self) -> None:
        for tp in TPS:
            partition = self.order.partitions.get(tp)
            if partition is None:
                assert not self.lists[tp], "works are forgotten"
                assert tp not in self.partitions
                continue
            heads = {key: items[0].work for key, items in self.lists[tp].items()}
            assert partition.heads == heads
            assert partition.parked == sum(1 for _ in self.items(tp, "parked"))
            assert partition.retries == sum(1 for _ in self.items(tp, "waiting"))
            assert partition.works == sum(1 for _ in self.items(tp))
            if tp in self.partitions:
                assert self.partitions[tp] is partition
                assert partition.highest == self.highest[tp]
            else:
                assert self.lists[tp], "a partition without works is kept"
        assert self.order.is_empty == (not any(True for _ in self.items()))

    def teardown(self) -> None:
        """Each work that was not cut begins and ends, and nothing is left at rest."""
        if not hasattr(self, "order"):
            return
        for item in list(self.items(state="waiting")):
            assert self.order.due(item.work)
            self.make_ready(item)
        while any(True for _ in self.items()):
            for state, step in (
                ("ready", self.begin_next),
                ("running", lambda: self.end(0)),
                ("waiting", lambda: self.become_due(0)),
            ):
                if self.has(state):
                    step()
                    break
            else:
                break
        assert not any(True for _ in self.items()), "a work never begins"
        assert not self.order.ready
        assert self.order.is_empty
        for partition in list(self.partitions.values()):
            assert (partition.parked, partition.works, partition.heads) == (0, 0, {})
            assert self.order.end_epoch(partition) == []
        assert self.order.partitions == {}


TestKeyOrder = KeyOrderMachine.TestCase
TestKeyOrder.settings = settings(stateful_step_count=50)
