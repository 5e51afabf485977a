"""The coordinator of transactions: the producer of each id, and its open transaction. Pure.

- An **id** has one producer. The next producer with the same id aborts the transaction of the
  previous producer and fences it: the coordinator refuses all later requests of that producer.
- A **transaction** begins with its first write or its first offsets. Its end writes a marker after
  its records in each partition, and commits its offsets for the group or drops them.
- The coordinator aborts a transaction that does not end within its **timeout**. The producer keeps
  the id, but cannot write until it has aborted the transaction as well.
- While a transaction holds an offset for a partition of a group, that group's committed offset is
  **unstable**: a member that starts from it waits.

Callers pass the time, in seconds of one monotonic clock. A caller that waits uses `next_deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import attrs

from transport.drivers.memory.change_signal import ChangeSignal
from transport.drivers.memory.group import Group
from transport.drivers.memory.log import Log
from transport.errors import Fenced, TransactionAborted
from transport.types import TP


@attrs.define(eq=False)
class Holder:
    """The producer of an id, and its transaction.

    Attributes:
        logs: the logs that the open transaction has written to.
        offsets: the offsets to commit for each group, with their metadata.
        deadline: when the open transaction times out; inf: no transaction is open.
        has_expired: whether the transaction has timed out and the producer has not aborted it yet.
    """

    transactional_id: str
    timeout: float
    logs: dict[TP, Log] = attrs.field(factory=dict)
    offsets: list[tuple[Group, dict[TP, int], Mapping[TP, str]]] = attrs.field(factory=list)
    deadline: float = math.inf
    has_expired: bool = False

    @property
    def is_open(self) -> bool:
        return self.deadline < math.inf


class Coordinator:
    """Every transaction of one broker.

    Attributes:
        changed: signals that a transaction has begun or ended.
    """

    def __init__(self) -> None:
        self.changed = ChangeSignal()
        self._holders: dict[str, Holder] = {}

    def register(self, transactional_id: str, timeout: float) -> Holder:
        """Give the id to a new producer; abort the previous one's transaction, and fence it."""
        if (old := self._holders.get(transactional_id)) is not None:
            self._end(old, committed=False)
        holder = self._holders[transactional_id] = Holder(transactional_id, timeout)
        return holder

    def check(self, holder: Holder) -> None:
        """Raise Fenced if another producer has the id now.

        Raises TransactionAborted: the transaction was open for too long.
        """
        self._check_id(holder)
        if holder.has_expired:
            raise TransactionAborted(
                f"the transaction of {holder.transactional_id!r} was open for longer than"
                f" transaction_timeout, {holder.timeout:g} s"
            )

    def write(self, holder: Holder, tp: TP, log: Log, now: float) -> None:
        """Note that the transaction writes to a partition. Raises what `check` does."""
        self._begin(holder, now)
        holder.logs[tp] = log

    def hold(
        self,
        holder: Holder,
        group: Group,
        offsets: Mapping[TP, int],
        now: float,
        metadata: Mapping[TP, str] | None = None,
    ) -> None:
        """Add offsets, which are committed together with the transaction.

        Raises what `check` does.
        """
        self._begin(holder, now)
        held = dict(offsets)
        holder.offsets.append((group, held, metadata or {}))
        for tp in held:
            group.unstable[tp] = group.unstable.get(tp, 0) + 1

    def end(self, holder: Holder, *, committed: bool) -> None:
        """End the transaction.

        Raises Fenced. TransactionAborted: the transaction has timed out and can only be aborted.
        """
        if committed:
            self.check(holder)
        else:
            self._check_id(holder)
            holder.has_expired = False
        self._end(holder, committed=committed)

    def forget(self, logs: Collection[Log], topic: str) -> None:
        """Forget a deleted topic: no transaction writes to its logs or holds an offset of it."""
        gone = {id(log) for log in logs}
        for holder in self._holders.values():
            holder.logs = {tp: log for tp, log in holder.logs.items() if id(log) not in gone}
            for group, offsets, _ in holder.offsets:
                for tp in [tp for tp in offsets if tp.topic == topic]:
                    del offsets[tp]
                    group.release(tp)

    def expire(self, now: float) -> None:
        """Abort transactions that have timed out. Call it before any other call with this time."""
        for holder in list(self._holders.values()):
            if holder.deadline <= now:
                self._end(holder, committed=False)
                holder.has_expired = True

    def next_deadline(self) -> float:
        """Return the time of the next timeout; inf: no transaction is open."""
        return min((holder.deadline for holder in self._holders.values()), default=math.inf)

    def restart(self, now: float) -> None:
        """Continue with another clock: the timeouts of open transactions start at `now`."""
        for holder in self._holders.values():
            if holder.is_open:
                holder.deadline = now + holder.timeout

    def _check_id(self, holder: Holder) -> None:
        if self._holders.get(holder.transactional_id) is not holder:
            raise Fenced(f"another producer has taken over {holder.transactional_id!r}")

    def _begin(self, holder: Holder, now: float) -> None:
        self.check(holder)
        if not holder.is_open:
            holder.deadline = now + holder.timeout
            self.changed.notify()  # the next deadline may be earlier now

    def _end(self, holder: Holder, *, committed: bool) -> None:
        if not holder.is_open:
            return
        holder.deadline = math.inf
        logs, holder.logs = holder.logs, {}
        held, holder.offsets = holder.offsets, []
        for log in logs.values():
            log.end_transaction(holder, committed=committed)
        for group, offsets, metadata in held:
            for tp in offsets:
                group.release(tp)
            if committed:
                group.take(offsets, metadata)
        self.changed.notify()
        for log in logs.values():
            log.changed.notify()
