"""The order in which a handler's messages begin; see also `test_key_order_model.py`."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from transport.handling import key_order
from transport.handling.key_order import KeyOrder, Partition, Work
from transport.types import TP

ORDERS = TP("orders", 0)


def order_of(*keys: Any) -> tuple[KeyOrder[int], list[Work[int]]]:
    """Return an order with a work for each key, at the offsets 0, 1, 2 and so on."""
    order: KeyOrder[int] = KeyOrder()
    works = [Work(offset, offset, key) for offset, key in enumerate(keys)]
    for work in works:
        order.put(work, order.partition(ORDERS))
    return order, works


def begin(order: KeyOrder[int]) -> Work[int]:
    work = order.begin()
    assert work is not None
    return work


def offsets(order: KeyOrder[int]) -> list[int]:
    """Begin and end all ready works, one by one; return their offsets."""
    begun = []
    while (work := order.begin()) is not None:
        begun.append(work.offset)
        order.done(work)
    return begun


def test_works_of_a_key_begin_one_after_the_other_in_offset_order() -> None:
    order, _ = order_of("a", "a", "b", "a")
    first, second = begin(order), begin(order)
    assert (first.offset, second.offset) == (0, 2)
    assert order.begin() is None
    order.done(first)
    assert offsets(order) == [1, 3]


def test_no_parked_work_is_forgotten_when_another_one_is_put_behind_it() -> None:
    order, _ = order_of("a", "a", "a")
    order.done(begin(order))
    order.put(Work(3, 3, "a"), order.partition(ORDERS))
    assert offsets(order) == [1, 2, 3]


def test_works_without_a_key_do_not_wait_for_each_other() -> None:
    order, _ = order_of(None, None)
    assert (begin(order).offset, begin(order).offset) == (0, 1)


def test_the_same_key_in_two_partitions_is_two_keys() -> None:
    order, _ = order_of("a")
    order.put(Work(7, 7, "a"), order.partition(TP("orders", 1)))
    assert (begin(order).offset, begin(order).offset) == (0, 7)


def test_the_next_work_of_a_key_enters_the_queue_at_its_end() -> None:
    order, _ = order_of("a", "a", "a", "b", "c")
    assert offsets(order) == [0, 3, 4, 1, 2]


def test_a_retry_that_is_due_enters_the_queue_at_its_end() -> None:
    order, _ = order_of("a", "b", "c")
    work = begin(order)
    order.retry(work)
    order.due(work)
    assert offsets(order) == [1, 2, 0]


def test_a_key_with_endless_work_starves_no_other_key() -> None:
    order, _ = order_of("a", "b")
    partition = order.partition(ORDERS)
    for offset in range(2, 100):
        order.put(Work(offset, offset, "a"), partition)
        if offset < 4:
            order.done(begin(order))
    assert [work.key for work in order.ready] == ["a"]
    assert partition.works == 98


def test_parked_works_and_those_that_wait_for_a_retry_are_held_up() -> None:
    order, _ = order_of("a", "a", "a", "b", "c")
    partition = order.partition(ORDERS)
    order.retry(begin(order))
    begin(order)
    assert (partition.parked, partition.retries, partition.held_up) == (2, 1, 3)


def test_a_key_waits_while_its_work_waits_for_a_retry() -> None:
    order, _ = order_of("a", "a", "b")
    work = begin(order)
    order.retry(work)
    assert offsets(order) == [2]
    assert order.due(work)
    assert offsets(order) == [0, 1]


def test_a_work_that_is_put_to_wait_begins_when_it_is_due() -> None:
    order, _ = order_of()
    work = Work(0, 0, "a")
    order.put(work, order.partition(ORDERS), waits=True)
    order.put(Work(1, 1, "a"), order.partition(ORDERS))
    assert order.begin() is None
    order.due(work)
    assert offsets(order) == [0, 1]


def test_a_parked_work_that_waits_for_a_retry_begins_when_it_is_due_and_once() -> None:
    order, _ = order_of("a")
    work = Work(1, 1, "a")
    order.put(work, order.partition(ORDERS), waits=True)
    order.done(begin(order))
    assert order.begin() is None, "the wait goes on when the key is free"
    assert order.due(work)
    assert offsets(order) == [1]
    order.put(work, order.partition(ORDERS), waits=True)
    order.put(again := Work(2, 2, "a"), order.partition(ORDERS), waits=True)
    assert order.due(work)
    assert not order.due(again), "its key is busy"
    assert offsets(order) == [1, 2]


def test_the_highest_begun_work_counts_as_not_begun_while_it_waits_for_a_retry() -> None:
    order, (first, second) = order_of("a", "b")
    partition = order.partition(ORDERS)
    begin(order), begin(order)
    order.retry(first)
    assert partition.highest == 1, "a higher work has begun"
    order.retry(second)
    assert partition.highest == 0
    assert order.cut(partition, partition.highest) == [second]


def test_a_work_that_was_cut_never_becomes_due() -> None:
    order, _ = order_of("a", "a")
    work = begin(order)
    order.retry(work)
    assert [each.offset for each in order.cut(order.partition(ORDERS))] == [0, 1]
    assert not order.due(work)
    assert order.begin() is None
    assert order.is_empty


def test_a_cut_removes_ready_parked_and_waiting_works_but_no_running_one() -> None:
    order, works = order_of("a", "a", "b", "c", "c")
    running, waiting = begin(order), begin(order)
    order.retry(waiting)
    assert set(order.cut(order.partition(ORDERS))) == {works[1], works[2], works[3], works[4]}
    assert order.begin() is None
    assert not order.is_empty
    order.done(running)
    assert order.is_empty


def test_a_cut_above_an_offset_keeps_the_works_below_it() -> None:
    order, works = order_of("a", "b", "a", "b", "a", None)
    partition = order.partition(ORDERS)
    assert set(order.cut(partition, 2)) == set(works[3:])
    assert (partition.parked, partition.works) == (1, 3)
    assert offsets(order) == [0, 1, 2]


def test_a_work_can_be_put_behind_those_that_a_cut_has_kept() -> None:
    order, _ = order_of("a", "a", "a")
    order.cut(order.partition(ORDERS), 1)
    order.put(Work(2, 2, "a"), order.partition(ORDERS))
    assert offsets(order) == [0, 1, 2]


def test_a_key_stays_busy_when_its_partition_leaves_and_returns() -> None:
    order, _ = order_of("a", "a")
    straggler = begin(order)
    assert [work.offset for work in order.end_epoch(order.partition(ORDERS))] == [1]
    for offset, key in ((0, "a"), (1, "b")):  # the next epoch
        order.put(Work(offset, offset, key), order.partition(ORDERS))
    assert begin(order).key == "b"
    assert order.begin() is None
    order.done(straggler)
    assert begin(order).offset == 0


def test_a_straggler_survives_a_second_end_of_an_epoch() -> None:
    order, _ = order_of("a")
    straggler = begin(order)
    for _ in range(2):
        order.end_epoch(order.partition(ORDERS))
        order.put(Work(0, 0, "a"), order.partition(ORDERS))
        assert order.begin() is None
    order.done(straggler)
    assert offsets(order) == [0]


def test_the_highest_offset_that_has_begun_counts_for_one_epoch() -> None:
    order, _ = order_of("a", "b", None)
    partition = order.partition(ORDERS)
    assert partition.highest == -1
    first = begin(order)
    order.done(begin(order))
    assert partition.highest == 1
    order.retry(first)
    order.due(first)
    begin(order)
    begin(order)
    assert partition.highest == 2
    order.end_epoch(partition)
    assert partition.highest == -1


def test_a_partition_is_forgotten_when_its_epoch_and_its_last_work_have_ended() -> None:
    order, _ = order_of("a")
    partition = order.partition(ORDERS)
    work = begin(order)
    order.end_epoch(partition)
    assert order.partitions == {ORDERS: partition}
    order.done(work)
    assert order.partitions == {}


def test_a_partition_without_works_is_kept_until_its_epoch_ends() -> None:
    order, _ = order_of("a")
    offsets(order)
    assert list(order.partitions) == [ORDERS]
    assert order.end_epoch(order.partition(ORDERS)) == []
    assert order.partitions == {}


def test_works_that_have_ended_or_were_cut_keep_nothing_in_memory() -> None:
    order: KeyOrder[object] = KeyOrder()
    messages = [Held() for _ in range(6)]
    for offset, key in enumerate("aabccc"):
        order.put(Work(messages[offset], offset, key), order.partition(ORDERS))
    first, last, third = order.begin(), order.begin(), order.begin()
    assert first is not None
    assert last is not None
    assert third is not None
    order.done(first)
    order.done(last)
    order.cut(order.partition(ORDERS))
    references = [weakref.ref(message) for message in messages]
    del messages, first, last, third
    gc.collect()
    assert [reference() is None for reference in references] == [True] * 3 + [False] + [True] * 2


def test_a_work_without_a_key_is_freed_without_the_garbage_collector() -> None:
    order: KeyOrder[Held] = KeyOrder()
    work: Work[Held] | None = Work(Held(), 0)
    assert work is not None
    order.put(work, order.partition(ORDERS))
    reference = weakref.ref(work.held)
    work = None
    gc.disable()
    try:
        work = order.begin()
        assert work is not None
        order.done(work)
        work = None
        assert reference() is None
    finally:
        gc.enable()


class Held:
    """A message that can be weakly referenced."""


# The cost


class CountedDict(dict):  # type: ignore[type-arg]
    """A dict that counts its operations, and each entry of a loop over it."""

    operations = 0

    def __getitem__(self, key: Any) -> Any:
        self.operations += 1
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.operations += 1
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.operations += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.operations += 1
        super().__delitem__(key)

    def __iter__(self) -> Iterator[Any]:
        self.operations += len(self)
        return super().__iter__()

    def items(self) -> Any:
        self.operations += len(self)
        return super().items()

    def values(self) -> Any:
        self.operations += len(self)
        return super().values()


class CountedDeque(deque):  # type: ignore[type-arg]
    """A deque that counts its operations."""

    operations = 0

    def append(self, work: Any) -> None:
        self.operations += 1
        super().append(work)

    def popleft(self) -> Any:
        self.operations += 1
        return super().popleft()

    def __iter__(self) -> Iterator[Any]:
        self.operations += len(self)
        return super().__iter__()


def counted(keys: int, works: int) -> tuple[KeyOrder[int], Callable[[], int]]:
    """Return an order with works of so many keys, and a function that returns its operations."""
    order: KeyOrder[int] = KeyOrder()
    order.ready = ready = CountedDeque()
    partition = order.partition(ORDERS)
    partition.heads = heads = CountedDict()
    for offset in range(works):
        order.put(Work(offset, offset, offset % keys), partition)
    return order, lambda: ready.operations + heads.operations


@pytest.mark.parametrize("keys", [1, 200_000])
def test_a_message_takes_at_most_five_operations_whatever_the_number_of_keys(keys: int) -> None:
    order, operations = counted(keys, 200_000)
    begun = 0
    while (work := order.begin()) is not None:
        order.done(work)
        begun += 1
    assert begun == 200_000
    assert operations() <= 5 * begun
    assert order.is_empty


def lines_of(act: Callable[[], object]) -> int:
    """Return the number of lines of `key_order.py` that a function runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == key_order.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def life(order: KeyOrder[int], partition: Partition[int], key: Any) -> None:
    """Put a message, and begin, retry and end another one."""
    offset = partition.works + 1
    order.put(Work(offset, offset, key), partition)
    work = begin(order)
    order.retry(work)
    order.due(work)
    order.done(begin(order))


def test_the_steps_of_a_message_are_the_same_at_200_000_keys_and_messages() -> None:
    def steps(keys: int, works: int) -> list[tuple[int, int]]:
        order, operations = counted(keys, works)
        partition = order.partition(ORDERS)
        found = []
        for key in ("new", 0):
            before = operations()
            lines = lines_of(lambda key=key: life(order, partition, key))  # type: ignore[misc]
            found.append((lines, operations() - before))
        return found

    assert min(min(each) for each in steps(1, 3)) > 5
    assert steps(1, 3) == steps(1, 200_000)
    assert steps(9, 9) == steps(200_000, 200_000)
