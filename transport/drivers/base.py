"""The contract between the transport and a driver, which wraps a broker's client.

A driver moves bytes and handles the behavior of its client. Every rule about acks, flow, ownership
and order is above the driver. `tests/drivers/` has one suite for the contract, and each driver
passes it.

Which calls may run at the same time:

- `subscribe`, `poll`, `pause`, `resume`, `seek` and `positions`: one task makes these calls, one at
  a time. So batches, seeks and rebalances have one order, and no batch can overtake the seek or the
  revocation that makes it stale.
- `commit`: beside those calls, one commit at a time.
- Queries (`committed`, the offsets of logs, `topics`, `partitions`): beside all other calls and
  beside each other. A query does not delay a commit.

Every async method is a checkpoint. A call that is cancelled after the client has taken it still
runs to its end. If it was a `poll`, the next `poll` returns what it fetched.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

import attrs
import trio

from transport.drivers.settings import ClientSettings
from transport.excerpt import excerpt_of
from transport.fetched import Fetched
from transport.types import TP, GroupMetadata, Headers, RecordMetadata

DEFAULT_TIMEOUT = 30.0


class RebalanceKind(enum.Enum):
    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"


@attrs.define(eq=False)
class Rebalance:
    """A change of ownership that the client completes only after `release`.

    Until the release the client sends heartbeats, but `poll` does not return. The rebalance expires
    if it is not released within `bound` seconds, or if the client ends before. Then `expired` is
    set, and the partitions may already have another owner.

    Attributes:
        partitions: ASSIGNED: the newly assigned partitions; REVOKED, LOST: the partitions that this
            member loses. May be empty. A partition may be in two REVOKED rebalances.
        generation: the group's generation at this moment; -1: there is none.
        bound: seconds from the rebalance to its expiry.
        expired: set if the rebalance has expired. Final once a later poll has ended.
        released: set by the first release.
        of_new_topic: partitions whose topic was deleted and created again since this client had
            them. All offsets of the old topic are void. If a client detects this while it has the
            partitions, it raises LOST for them, and then ASSIGNED for those of the new topic.
    """

    kind: RebalanceKind
    partitions: frozenset[TP]
    generation: int
    bound: float
    _release: Callable[[Mapping[TP, int], frozenset[TP]], None]
    expired: trio.Event = attrs.field(factory=trio.Event)
    released: trio.Event = attrs.field(factory=trio.Event)
    of_new_topic: frozenset[TP] = frozenset()

    def release(self, seek: Mapping[TP, int] | None = None, pause: Collection[TP] = ()) -> None:
        """Let the client continue. Not a checkpoint.

        Later calls do nothing. A release is necessary even after the expiry: no poll returns before
        it, so that no records arrive before the rebalance that assigned their partition. After the
        expiry `seek` and `pause` have no effect.

        Args:
            seek: for ASSIGNED, the start offsets. All other partitions start from their committed
                offset, or by the reset policy if there is none. Partitions of a new topic start
                from the offset that is committed for that topic, or at its beginning, whatever the
                policy.
            pause: assigned partitions that start paused, so that the poll under way does not fetch
                them. All other assigned partitions start unpaused.
        """
        self.released.set()
        self._release(seek or {}, frozenset(pause))


@attrs.frozen
class Reset:
    """A position that a rule has set. Not from a commit of the group, and not from a `seek`.

    Attributes:
        old: the previous position, which is outside the log. None: the group has no committed
            offset of the partition.
        new: the offset at which reading continues.
        is_new: the group begins with this partition. Nothing was skipped, so no warning is needed.
        must_commit: the group must commit this offset before a message is delivered. Otherwise,
            after a crash, the next member would start elsewhere and skip records.
    """

    tp: TP
    old: int | None
    new: int
    is_new: bool
    must_commit: bool

    @property
    def skipped(self) -> int:
        """The number of offsets from `old` to `new`; 0 if `new` is lower or `old` is None."""
        return 0 if self.old is None else max(0, self.new - self.old)


class ConsumerClient(Protocol):
    """One member of a consumer group. Call `open` first, and `close` or `kill` last.

    The constructor raises ValueError without a group_id, except with `client_only`. After `close`
    or `kill`, every async call raises ClientClosed, except another `close` or `kill`.
    """

    async def open(self) -> None:
        """Connect.

        Raises BrokerUnavailable, whose text names the addresses, and AuthorizationFailed.
        """

    async def subscribe(
        self, topics: Collection[str], *, may_be_gone: Collection[str] = ()
    ) -> None:
        """Replace the subscription. The next `poll` sends it to the group.

        With an empty collection the next `poll` gives up all partitions. The call waits up to
        `connect_timeout` seconds for topics that do not exist, because the broker may create them.
        It does not wait for topics in `may_be_gone`: they are read once they exist.

        Raises BrokerUnavailable, AuthorizationFailed, ClientClosed. UnknownTopic: topics do not
        exist, or do not have partitions of the setting `partitions`; the text names them.
        """

    async def poll(self) -> Mapping[TP, Sequence[Fetched]]:
        """Wait for records, and return at least one.

        Returns nothing after `interrupt`, or if there are new `resets`. The records are encoded, as
        they were fetched, and in offset order within a partition. A batch that cannot be decoded
        raises its error where it is decoded. `drivers/starts.py` has the rules for partitions
        without a committed offset.

        The waiting poll keeps the membership and raises rebalances. Before it returns records of a
        topic that was deleted and created again, it raises two rebalances (`of_new_topic`). It
        raises LOST at once after an eviction, or if no heartbeat was answered for `session_timeout`
        seconds, even while no broker answers.

        Raises Fenced, AuthorizationFailed, ClientClosed. OffsetOutOfRange (policy "error"): no
        offset is committed, or the position is outside the log. TransportError: the client itself
        has failed and cannot continue.
        """

    def resets(self) -> Sequence[Reset]:
        """Return the positions that rules have set since the last call. Not a checkpoint.

        They precede the records that the last poll returned.
        """

    def interrupt(self) -> None:
        """Let the `poll` under way, or else the next one, return at once. Not a checkpoint.

        A poll still handles rebalances and fetched records once before it returns. So no event is
        missed even if every poll is interrupted.
        """

    async def next_rebalance(self) -> Rebalance:
        """Wait for the next rebalance. Release each rebalance before you wait for another one.

        One task calls it. Rebalances happen only while a `poll` is under way, in order with its
        batches. Raises ClientClosed, also in a call that is waiting.
        """

    async def pause(self, tps: Collection[TP]) -> None:
        """Stop fetching from these partitions. Polls keep the membership, but return none of them.

        Partitions that are not assigned are ignored.
        """

    async def resume(self, tps: Collection[TP]) -> None:
        """Fetch from these partitions again. Partitions that are not assigned are ignored."""

    async def seek(self, tp: TP, offset: int) -> None:
        """Continue at `offset`, and drop what was fetched before.

        Raises NotAssigned; ValueError: a negative offset.
        """

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the next offset to fetch of each partition.

        The position passes markers and aborted data even if no record follows. Partitions that are
        not assigned or have no position yet are missing in the result. Each partition costs
        O(assigned partitions), so call it rarely.
        """

    def highwater(self, tp: TP) -> int | None:
        """Return the end of the log at the last fetch; None: not fetched yet, or not assigned."""

    async def commit(
        self, offsets: Mapping[TP, int], timeout: float, texts: Mapping[TP, str] | None = None
    ) -> None:
        """Commit all these offsets together. Returns or raises within `timeout` seconds.

        The offsets apply to the topics to which the partitions belong at the time of the call.

        Args:
            texts: the program's text for some of the partitions. It is stored with the offset, and
                replaces the text of the commit before. The others have no text then.

        Raises RebalanceInProgress, CommitFailed, CommitRefused, Fenced, AuthorizationFailed,
        ClientClosed. PartitionGone: the offsets of the other partitions may be committed.
        TopicReplaced: the client knows that a topic was created again since the call.
        CommitUnknown: no answer within the timeout. CommitWithdrawn: the client did not begin the
        commit within the timeout, and will never make it.

        Cancelled: the commit is withdrawn if the client has not begun it; else it runs to its end.
        """

    async def committed(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """Return the group's committed offsets, without partitions that have none.

        Raises BrokerUnavailable: no answer within `timeout` seconds.
        """

    async def committed_texts(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, str]:
        """Return the texts of the group's committed offsets: see `commit`.

        Partitions without a committed offset or without a text are missing in the result. Raises
        what `committed` raises.
        """

    # The next three calls create no topic. They raise UnknownTopic if a topic or a partition does
    # not exist, and BrokerUnavailable if not all is known within `timeout` seconds.

    async def beginning_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """Return the first offset of each log."""

    async def offsets_for_times(
        self, times: Mapping[TP, int], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, tuple[int, int]]:
        """Return, for each log, the first record with the given or a later timestamp.

        The result has the offset and the timestamp of the record. It may be a record of an aborted
        transaction. Partitions without such a record before the end that `end_offsets` returns are
        missing.

        Args:
            times: milliseconds since 1970.
        """

    async def end_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """Return, for each log, the offset after the last one that the isolation level shows."""

    async def current_ends(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """Return the end offsets, without the partitions for which no broker has answered.

        Each broker is asked once.
        """

    async def topics(self, timeout: float = DEFAULT_TIMEOUT) -> frozenset[str]:
        """Return every topic that this client may see, without internal topics.

        Raises BrokerUnavailable: no answer within `timeout` seconds.
        """

    async def partitions(self, topic: str, timeout: float = DEFAULT_TIMEOUT) -> frozenset[TP]:
        """Return every partition of the topic, and create no topic.

        Raises UnknownTopic. BrokerUnavailable: no answer within `timeout` seconds.
        """

    async def topic_settings(
        self, topic: str, timeout: float = DEFAULT_TIMEOUT
    ) -> Mapping[str, str]:
        """Return the settings of a topic by name, such as `cleanup.policy`. Creates no topic.

        Empty: this client may not see them, or there are none.

        Raises UnknownTopic. BrokerUnavailable: no answer within `timeout` seconds.
        """

    def group_metadata(self) -> GroupMetadata:
        """Return this member's identity, by which the broker fences its transactions.

        A generation below 0 means that this client is not a member. Raises RebalanceInProgress if a
        rebalance waits that `next_rebalance` has not returned yet: with the new identity, offsets
        of partitions that this member has lost could be committed. Not a checkpoint.
        """

    async def close(self, timeout: float) -> None:
        """Leave the group and end the threads, within `timeout` seconds. Raises no rebalance.

        No `poll` may be under way: `interrupt` it and wait for it first. Raises TransportError: a
        thread did not end in time and was abandoned; the text names it.
        """

    async def kill(self) -> None:
        """End as in a crash: no commit, no leave. The group notices after the session timeout."""


@attrs.define(eq=False)
class Outgoing:
    """One message to be written; compared by identity.

    Attributes:
        partition: None: the client chooses it.
        timestamp_ms: milliseconds since 1970; None: the client takes the time from its clock.
    """

    topic: str
    partition: int | None
    key: bytes | None = attrs.field(repr=excerpt_of)
    value: bytes | None = attrs.field(repr=excerpt_of)
    headers: Headers = attrs.field(repr=excerpt_of)
    timestamp_ms: int | None


Outcome = RecordMetadata | Exception
Reports = Callable[[Sequence[tuple[Outgoing, Outcome]]], None]


class ProducerClient(Protocol):
    """One producer. Call `open` first, and `close` or `kill` last.

    After `close` or `kill`, all other calls raise ClientClosed.
    """

    async def open(self, report: Reports) -> None:
        """Connect.

        Args:
            report: called in the trio thread with the outcomes of one or more messages: exactly one
                outcome for each accepted message. A driver whose batches have many messages passes
                `transport.drivers.written.Outcomes`, which is faster.
        """

    async def keep_deadlines(self) -> NoReturn:
        """Fail messages that get no answer within the delivery timeout, until cancelled.

        One task runs it while the producer is open.
        """

    async def partition_count(self, topic: str, timeout: float) -> int:
        """Return the number of partitions of the topic.

        A known number is cheap, and no older than `metadata_max_age` while a broker answers. One
        missing topic delays no other topic. Raises UnknownTopic, BrokerUnavailable,
        AuthorizationFailed.
        """

    def topic_id(self, topic: str) -> object:
        """Return the topic's identity in the broker's last answer; None: not known.

        A topic that is deleted and created again has another id.
        """

    def send_now(self, batch: Sequence[Outgoing]) -> bool:
        """Accept messages as `send` does, if no wait is necessary; False: nothing was done.

        This saves one pass of trio's scheduler. Not a checkpoint. Raises ClientClosed.
        """

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Accept messages, in order. `partition_count` has been called for each topic.

        Returns when the client has the messages. A message that the client rejects is reported like
        a message that was not written. The error for a deleted partition is DeliveryFailed, caused
        by UnknownTopic.

        Cancelled: the batch is accepted nevertheless.
        """

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        config: Mapping[str, str],
        timeout: float,
        *,
        wait: bool = True,
    ) -> None:
        """Create a topic. An existing topic is no error.

        Args:
            wait: return only when the topic can be written.

        Raises BrokerUnavailable, soon after `timeout` seconds; AuthorizationFailed. UnknownTopic:
        the name is not valid. TransportError: the broker refuses for another reason.
        Cancelled: the topic may be created nevertheless.
        """

    def without_linger(self) -> AbstractContextManager[None]:
        """Return a block in which no message waits for others to fill its batch (the linger).

        Not a checkpoint.
        """

    # The calls below need a transactional id, and run one at a time. A call that is made during a
    # `send` takes effect after it. `open` has fenced the previous owner of the id and ended its
    # open transaction. All raise Fenced (another producer has the id now), AuthorizationFailed,
    # BrokerUnavailable, ClientClosed. They raise TransactionAborted if the broker has ended the
    # transaction after `transaction_timeout`, or if a message of the transaction is lost. The
    # producer must then abort, and may begin the next transaction. Other messages of the aborted
    # transaction fail with TransactionAborted.

    async def begin(self) -> None:
        """Begin a transaction, to which the messages sent from now on belong. Sends no request."""

    def hurry(self) -> None:
        """Let no message of the open transaction wait for others to fill its batch (the linger).

        Call it before you wait for a delivery of the transaction. From any thread. Not a
        checkpoint. Raises nothing. Does nothing without a transaction.
        """

    async def send_offsets(
        self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float
    ) -> None:
        """Let the transaction commit these offsets of a group when it is committed itself.

        Raises TransactionAborted: the transaction can only be aborted, for example because the
        group is in another generation now. CommitFailed: the group has no such member, and the
        transaction can only be aborted.
        """

    async def commit(self, timeout: float) -> None:
        """Commit the transaction, after all its messages were written.

        Raises TransactionAborted: the transaction can only be aborted. CommitUnknown: no answer.
        Then call `abort`: afterwards the transaction is either committed or aborted, and the
        group's committed offsets show which.
        """

    async def abort(self, timeout: float) -> None:
        """End the transaction in any state. Afterwards no part of it is open."""

    async def close(self, timeout: float) -> None:
        """Send waiting messages for up to `timeout` seconds, fail the rest, and end the threads."""

    async def kill(self) -> None:
        """End as in a crash. Messages that were not sent fail."""


class Driver(Protocol):
    """The clients for one scheme of a broker's URL."""

    @property
    def version(self) -> str:
        """The name and version of the client, such as `kafka-python=3.0.12`."""

    def consumer(self, settings: ClientSettings) -> ConsumerClient: ...

    def producer(self, settings: ClientSettings) -> ProducerClient: ...
