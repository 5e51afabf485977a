"""The narrow contract between the transport and a broker's client.

A driver moves bytes and knows the client's ways; every rule about acks, flow,
ownership and order stands above it. `tests/drivers/` holds the contract as one
suite that each driver passes.

Who calls what: a `ConsumerClient` has one *polling side* (`subscribe`, `poll`,
`pause`, `resume`, `seek`, `positions`), called by one task, one call at a time;
so batches, seeks and rebalances have one order, and no batch can overtake the
seek or the revocation that makes it stale. `commit` may run beside it, one at a
time. Queries (`committed`, the offsets of logs, `topics`, `partitions`) may run
beside all of that and beside each other; none of them makes a commit wait.

Every async method is a checkpoint. A call that was cancelled after it was
handed to the client runs to its end all the same; what `poll` then had fetched
is returned by the next `poll`.
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
    """A change of ownership that waits for our consent.

    The client stands still (heartbeats go on, `poll` does not return) until
    `release` is called, `bound` seconds have passed since the event, or the client
    ends; in the latter two cases `expired` is set: the partitions may have another
    owner already.

    Attributes:
        partitions: ASSIGNED: the newly assigned ones; REVOKED, LOST: those that go.
            May be empty, and REVOKED may come twice for one partition.
        generation: the group's generation at this moment, -1 where there is none.
        bound: seconds from the event to its expiry.
        expired: final once a later poll has ended.
        released: set by the first release.
        of_new_topic: partitions whose topic was deleted and created again since this client had
            them. All offsets of the old topic are void. If a client finds that out while it has
            the partitions, it raises LOST for them, and ASSIGNED for those of the new topic.
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
        """Let the client go on; for ASSIGNED, with the positions to start from.

        Partitions that `seek` does not name start from their committed offset, or by the
        reset policy where there is none. Those of a new topic start from the committed offset for
        that topic, or at its beginning, whatever the policy. Those in `pause` start paused, so
        that the poll under way fetches nothing of them; the pause flag of all others is
        cleared. The second and later calls do nothing. After the expiry a release moves
        nothing at the client, but has to come all the same: until then no poll returns, so
        that fetched records never come before the change of ownership that led to them.
        """
        self.released.set()
        self._release(seek or {}, frozenset(pause))


@attrs.frozen
class Reset:
    """A position that a rule has set, rather than a commit of the group or a `seek`.

    Attributes:
        old: the position before, which lies outside the log. None: the group has no committed
            offset of the partition.
        new: where reading goes on.
        is_new: the group begins with this partition. Nothing was skipped, and no warning is due.
        must_commit: the group must have committed this offset before a message is delivered.
            Otherwise the next member, after a crash, would start elsewhere and skip records.
    """

    tp: TP
    old: int | None
    new: int
    is_new: bool
    must_commit: bool

    @property
    def skipped(self) -> int:
        """The number of offsets from `old` to `new`; 0 if that goes back or `old` is None."""
        return 0 if self.old is None else max(0, self.new - self.old)


class ConsumerClient(Protocol):
    """One member of a consumer group. `open` first, `close` or `kill` last.

    Made without a group_id it raises ValueError. After the end all that is awaited raises
    ClientClosed, but for another `close` or `kill`.
    """

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable (naming the addresses), AuthorizationFailed."""

    async def subscribe(
        self, topics: Collection[str], *, may_be_gone: Collection[str] = ()
    ) -> None:
        """Replace the subscription; the group hears of it during the next `poll`.

        An empty collection gives everything back. Topics that do not exist are waited for, as
        the broker may create them, for `connect_timeout` seconds. Those of `may_be_gone` are not
        waited for: they are read once they exist.

        Raises UnknownTopic (naming them, or those of the setting `partitions` that the topics do
        not have), BrokerUnavailable, AuthorizationFailed, ClientClosed.
        """

    async def poll(self) -> Mapping[TP, Sequence[Fetched]]:
        """Wait for records; returns at least one, or nothing at all: after `interrupt`, or with
        new `resets` to be read.

        Where a partition begins without a committed offset is said in `drivers/starts.py`.

        Records come as they were fetched, encoded, and in offset order within a partition. A batch
        that cannot be decoded is an error of who reads it. While it waits it keeps up the
        membership and raises rebalances.

        For a topic that was deleted and created again there are two rebalances (`of_new_topic`)
        before anything of the new one is returned.

        Lost partitions are raised as LOST at once, also while no broker answers:
        after an eviction, or `session_timeout` seconds without an answer to a heartbeat.

        Raises OffsetOutOfRange (policy "error": no committed offset, or one outside the log),
        Fenced, AuthorizationFailed,
        ClientClosed. TransportError: the client itself has failed and cannot continue.
        """

    def resets(self) -> Sequence[Reset]:
        """The positions that rules have set in the polls since the last call; before the batches of
        the last poll. Not a checkpoint."""

    def interrupt(self) -> None:
        """Let the `poll` under way return at once.

        If none is under way the next one does: it still looks once for what there is, and for
        the group, so that who interrupts every poll misses nothing.
        """

    async def next_rebalance(self) -> Rebalance:
        """Wait for the next change of ownership; to be released before the next one comes.

        One task calls it. Rebalances happen only while a `poll` is under way, in order with
        its batches. Raises ClientClosed, also to who waits already.
        """

    async def pause(self, tps: Collection[TP]) -> None:
        """Fetch nothing from these; the membership is kept by polling on.

        Partitions that are not assigned are passed over. Nothing of a paused partition is
        returned by the following polls.
        """

    async def resume(self, tps: Collection[TP]) -> None:
        """Fetch from these again. Partitions that are not assigned are passed over."""

    async def seek(self, tp: TP, offset: int) -> None:
        """Continue at `offset`; what was fetched before is dropped.

        Raises NotAssigned; ValueError: a negative offset.
        """

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        """The next offset to fetch, past markers and aborted data even where no record came.

        Without those that are not assigned or whose position is not known yet. Costs
        O(assigned partitions) each: ask rarely.
        """

    def highwater(self, tp: TP) -> int | None:
        """End of the log as of the last fetch; None before the first, or if not assigned."""

    async def commit(self, offsets: Mapping[TP, int], timeout: float) -> None:
        """Commit the offsets as a whole. Raises RebalanceInProgress, CommitFailed, CommitUnknown,
        CommitRefused, Fenced, AuthorizationFailed, ClientClosed; within `timeout` seconds. And
        PartitionGone, where the others may have been committed.

        The offsets are of the topics that the partitions belonged to when this was called: where a
        topic was created again since then, as far as the client knows, it raises TopicReplaced.

        A commit that the client has not begun when the time is up, or when the caller is
        cancelled, is taken back and never made; where the time is up, CommitWithdrawn says so.
        """

    async def committed(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """The group's committed offsets, without those that have none.

        Raises BrokerUnavailable: no answer within `timeout` seconds.
        """

    async def beginning_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """The first offset of each log."""

    async def end_offsets(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """The offset after the last one that the isolation level lets a reader see."""

    async def current_ends(
        self, tps: Collection[TP], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[TP, int]:
        """Return the end offsets, without the partitions for which no broker has answered.

        Each broker is asked once.
        """

    async def topics(self, timeout: float = DEFAULT_TIMEOUT) -> frozenset[str]:
        """Return every topic that this client may see, without the internal ones.

        Raises BrokerUnavailable: no answer within `timeout` seconds.
        """

    async def partitions(self, topic: str, timeout: float = DEFAULT_TIMEOUT) -> frozenset[TP]:
        """Every partition of the topic. Raises UnknownTopic."""

    def group_metadata(self) -> GroupMetadata:
        """This member's identity, the fence of its transactions.

        Raises RebalanceInProgress where it may have changed by a rebalance that `next_rebalance`
        has not returned yet: what is committed under it must still be ours. A generation below 0
        means no member.
        """

    async def close(self, timeout: float) -> None:
        """Leave the group and end the threads. No rebalance is raised any more.

        Within `timeout` seconds; a thread that is stuck past it is abandoned and named in a
        TransportError. No `poll` may be under way: `interrupt` it and wait for it first.
        """

    async def kill(self) -> None:
        """Go as a crash would: no commit, no leaving; the group finds out by the session."""


@attrs.define(eq=False)
class Outgoing:
    """One message on its way to the broker; compared by identity.

    Attributes:
        partition: None lets the client choose.
        timestamp_ms: None lets the client take its clock.
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
    """One producer. `open` first, `close` or `kill` last; after that calls raise ClientClosed."""

    async def open(self, report: Reports) -> None:
        """Connect. `report` is called in the trio thread, a batch at a time, once for each
        message that was handed over: where it went or why it did not. A driver with many messages
        in one batch reports `transport.drivers.written.Outcomes`, which is quicker.
        """

    async def keep_deadlines(self) -> NoReturn:
        """Fail what gets no answer within the delivery timeout, until cancelled.

        To be run, by one task, as long as the producer is open.
        """

    async def partition_count(self, topic: str, timeout: float) -> int:
        """Return the number of partitions of the topic.

        The number is cheap once known, and then no older than `metadata_max_age` while a broker
        answers. One bad topic delays no other. Raises UnknownTopic, BrokerUnavailable,
        AuthorizationFailed.
        """

    def topic_id(self, topic: str) -> object:
        """Return the topic's identity in the broker's last answer; None: not known.

        A topic that is deleted and created again has another one.
        """

    def send_now(self, batch: Sequence[Outgoing]) -> bool:
        """Hand messages over as `send` does, if that takes a moment; False: nothing was done.

        It saves a turn of all tasks. Not a checkpoint. Raises ClientClosed.
        """

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Hand messages over, in order; their topics' partitions are known already.

        A message for a partition that is gone is reported as DeliveryFailed, caused by
        UnknownTopic.

        Returns when the client has taken them. A message that it refuses is reported like one
        that it could not deliver. Cancelled: the batch is handed over all the same.
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
        """Create a topic; one that exists is fine. `wait`: return when it can be written.

        Raises BrokerUnavailable within `timeout` seconds and a moment, UnknownTopic for a name that
        no topic can have, AuthorizationFailed, TransportError: the broker refuses the rest.
        Cancelled: it may be created all the same.
        """

    def without_linger(self) -> AbstractContextManager[None]:
        """In the block, let no message wait for others to fill its batch. Not a checkpoint."""

    # Only with a transactional id; one of these at a time. `open` has then fenced the previous
    # owner of the id and ended its open transaction. All raise Fenced (another producer has the id
    # now), AuthorizationFailed, BrokerUnavailable, ClientClosed. They raise TransactionAborted if
    # the broker has ended the transaction after `transaction_timeout`, or if a message of it is
    # lost. The producer must then abort, and may begin the next transaction. Other messages of the
    # old one fail with TransactionAborted.

    async def begin(self) -> None:
        """Begin a transaction: what is sent from now on belongs to it. Asks no broker."""

    def hurry(self) -> None:
        """Let no message of the open transaction wait for others to fill its batch (the linger).

        Call it before waiting for a delivery of the transaction, or for its end. From any thread.
        Not a checkpoint, raises nothing, and does nothing without a transaction.
        """

    async def send_offsets(
        self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float
    ) -> None:
        """Let the transaction commit these offsets of a group when it is committed itself.

        Raises TransactionAborted: it can only be aborted, be it that the group is in another
        generation by now. CommitFailed: the group knows no such member (any more), and the
        transaction can only be aborted.
        """

    async def commit(self, timeout: float) -> None:
        """Commit the transaction, after all that was sent in it was delivered.

        Raises TransactionAborted: it can only be aborted. CommitUnknown: no answer; `abort` ends
        it then, one way or the other, and the group's committed offsets tell which.
        """

    async def abort(self, timeout: float) -> None:
        """End the transaction, whatever state it is in; afterwards nothing of it is left open."""

    async def close(self, timeout: float) -> None:
        """Send what is left within `timeout` seconds, fail the rest, end the threads."""

    async def kill(self) -> None:
        """Go as a crash would: what was not sent is failed."""


class Driver(Protocol):
    """What an URL's scheme stands for."""

    @property
    def version(self) -> str:
        """Name and version of the client, such as `kafka-python=3.0.12`."""

    def consumer(self, settings: ClientSettings) -> ConsumerClient: ...

    def producer(self, settings: ClientSettings) -> ProducerClient: ...
