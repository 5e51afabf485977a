"""The rule of the order in which a handler's messages begin. All of it is in this file.

**Works.** A `Work` is a message, or a batch, from the moment at which the handler takes it until
its end. Each work has a key, and belongs to one partition of the order:

    parked  --its key is free-->  ready  --begin-->  running  --done-->  (gone)
                                    ^                   |
                                    +-- due -- waiting <+ retry

- At most one work of a key is ready, running or waiting: the *head* of the key. The others are
  parked behind it, in the order in which they were put, which is offset order.
- A work with `key=None` has a key of its own, so nothing is parked behind it.
- The ready works are one queue. The next work of a key, and a retry that is due, enter at its end.
  So no key starves.
- `cut` removes works that have not begun: their partition is revoked, or must not begin anything
  for another reason. A running work stays the head of its key until it is done, also if its
  partition leaves and returns meanwhile. So two messages of a key never run at once.

**Cost.** Each partition has one dict, from key to head, and the works of a key are linked. So
`put`, `begin` and `done` take constant time, whatever the number of keys. A key without works takes
no memory.

Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from transport.handling.attempts import Attempts
from transport.types import TP

H = TypeVar("H")


class Work(Generic[H]):
    """A message or a batch on its way through a handler.

    Attributes:
        held: the message or the batch.
        offset: its first offset.
        key: the key whose works run one after the other.
        partition: the partition in the order. None: the work was removed by `cut`.
        is_running: whether it has begun and is not done. False while it waits for a retry.
        waits: whether it waits for a retry, as the head of its key or parked.
        next: the next work of the same key.
        last: for a head, the last work of its key. None: the head is the last.
        attempts: the failed attempts; None: none has failed. For the handler.
    """

    __slots__ = (
        "attempts",
        "held",
        "is_running",
        "key",
        "last",
        "next",
        "offset",
        "partition",
        "waits",
    )

    def __init__(self, held: H, offset: int, key: Hashable = None) -> None:
        self.held = held
        self.offset = offset
        self.key: Hashable = self if key is None else key
        self.partition: Partition[H] | None = None
        self.is_running = False
        self.waits = False
        self.attempts: Attempts | None = None
        self.next: Work[H] | None = None
        self.last: Work[H] | None = None

    def fail(self, error: Exception, now: float) -> Attempts:
        """Add a failed attempt at a time in seconds since 1970; return all failed attempts."""
        if self.attempts is None:
            self.attempts = Attempts.of(error, now)
        else:
            self.attempts.add(error, now)
        return self.attempts

    def __repr__(self) -> str:
        return f"<Work {self.held!r}>"


class Partition(Generic[H]):
    """The works of one partition.

    Attributes:
        heads: the head of each key that has works.
        parked: the number of works behind heads.
        retries: the number of heads that wait for their retry.
        highest: the highest offset that has begun in the present epoch; -1: none.
        has_ended: no work can be put any more, until the partition is assigned again.
    """

    __slots__ = ("has_ended", "heads", "highest", "parked", "retries", "tp")

    def __init__(self, tp: TP) -> None:
        self.tp = tp
        self.heads: dict[Hashable, Work[H]] = {}
        self.parked = self.retries = 0
        self.highest = -1
        self.has_ended = False

    @property
    def works(self) -> int:
        """The number of works."""
        return len(self.heads) + self.parked

    @property
    def held_up(self) -> int:
        """The number of works that cannot begin now: they are parked, or wait for a retry."""
        return self.parked + self.retries


class KeyOrder(Generic[H]):
    """The works of one handler.

    Attributes:
        ready: the works that may begin, in the order in which they will.
        partitions: the partitions of which works are known.
    """

    def __init__(self) -> None:
        self.ready: deque[Work[H]] = deque()
        self.partitions: dict[TP, Partition[H]] = {}

    def partition(self, tp: TP) -> Partition[H]:
        """Return the works of a partition, to which works will be put."""
        if (partition := self.partitions.get(tp)) is None:
            partition = self.partitions[tp] = Partition(tp)
        partition.has_ended = False
        return partition

    @property
    def is_empty(self) -> bool:
        """Whether there are no works."""
        return not any(partition.heads for partition in self.partitions.values())

    def put(self, work: Work[H], partition: Partition[H], *, waits: bool = False) -> None:
        """Add a work. It is ready, or it is parked behind the works of its key.

        Args:
            waits: the work waits for a retry, and is not ready before `due`.
        """
        work.partition = partition
        work.waits = waits
        head = partition.heads.get(work.key)
        if head is None:
            partition.heads[work.key] = work
            if waits:
                partition.retries += 1
            else:
                self.ready.append(work)
            return
        (head.last or head).next = work
        head.last = work
        partition.parked += 1

    def begin(self, may_begin: Callable[[Work[H]], bool] | None = None) -> Work[H] | None:
        """Begin the next ready work, and return it; None: no work may begin.

        Args:
            may_begin: returns whether a work may begin; None: each one may.
        """
        if not self.ready:
            return None
        if may_begin is None:
            work = self.ready.popleft()
        else:
            found = next(filter(may_begin, self.ready), None)
            if found is None:
                return None
            work = found
            self.ready.remove(work)
        work.is_running = True
        partition = work.partition
        assert partition is not None
        if work.offset > partition.highest:
            partition.highest = work.offset
        return work

    def done(self, work: Work[H]) -> None:
        """End a running work. The next work of its key is ready."""
        work.is_running = False
        partition, following = work.partition, work.next
        assert partition is not None
        work.partition = work.next = None
        if following is None:
            del partition.heads[work.key]
            if work.key is work:
                work.key = None  # break the reference cycle
            if partition.has_ended:
                self._forget(partition)
            return
        following.last = None if work.last is following else work.last
        work.last = None
        partition.heads[work.key] = following
        partition.parked -= 1
        if following.waits:
            partition.retries += 1
        else:
            self.ready.append(following)

    def retry(self, work: Work[H]) -> None:
        """Let a running work wait for its retry. Its key stays busy.

        If it is the highest work that has begun, it counts as not begun.
        """
        work.is_running = False
        work.waits = True
        partition = work.partition
        assert partition is not None
        partition.retries += 1
        if work.offset == partition.highest:
            partition.highest -= 1

    def due(self, work: Work[H]) -> bool:
        """End the wait of a work; return False if it was removed, or is parked behind its key."""
        work.waits = False
        partition = work.partition
        if partition is None or partition.heads[work.key] is not work:
            return False
        partition.retries -= 1
        self.ready.append(work)
        return True

    def cut(self, partition: Partition[H], above: int = -1) -> list[Work[H]]:
        """Remove and return all works of a partition above an offset that are not running.

        The works at or below the offset stay: they are ready, parked or waiting as before.
        """
        removed: list[Work[H]] = []
        for key, head in list(partition.heads.items()):
            if head.is_running or head.offset <= above:
                last = head
                while last.next is not None and last.next.offset <= above:
                    last = last.next
                work, last.next = last.next, None
                head.last = None if last is head else last
            else:
                work = head
                del partition.heads[key]
                partition.parked += 1  # it is counted down below
            while work is not None:
                removed.append(work)
                work.partition = work.last = None
                work, removed[-1].next = work.next, None
        partition.parked -= len(removed)
        partition.retries = sum(head.waits for head in partition.heads.values())
        if removed:
            self.ready = deque(work for work in self.ready if work.partition is not None)
        return removed

    def end_epoch(self, partition: Partition[H]) -> list[Work[H]]:
        """Remove and return all works of a partition that are not running: its epoch has ended."""
        removed = self.cut(partition)
        partition.highest = -1
        partition.has_ended = True
        self._forget(partition)
        return removed

    def _forget(self, partition: Partition[H]) -> None:
        """Forget a partition of which no work is left."""
        if not partition.heads:
            self.partitions.pop(partition.tp, None)
