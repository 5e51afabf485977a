"""The errors of the transport, one class for each cause.

Each is a `TransportError`. Drivers translate the errors of their clients into these, so no other
code depends on a client.
"""

from __future__ import annotations

from collections.abc import Iterable

from transport.excerpt import listed
from transport.types import TP


class TransportError(Exception):
    """The base class of the transport's own errors."""


class BrokerUnavailable(TransportError):
    """No broker answered within a timeout; the text names the addresses or the request."""


class AuthorizationFailed(TransportError):
    """The broker refused the app's login, or its access to a topic, group or transactional id."""


class RegistryUnavailable(TransportError):
    """A schema registry did not answer, or not with a schema. Retry the call later.

    This says nothing about a record: its schema is not known yet.
    """


class UnknownTopic(TransportError):
    """The broker does not have the topic or partition, and did not create it."""


class NotAssigned(TransportError):
    """The partition is not assigned to this consumer at the moment."""


class RebalanceInProgress(TransportError):
    """The group is between two generations. Retry the call after the join."""


class CommitFailed(TransportError):
    """This consumer is not a member of its group at the moment.

    If it was evicted, a LOST rebalance follows. Until then, no message is delivered.
    """


class CommitUnknown(TransportError):
    """A commit got no answer, so it may have been made or not."""


class CommitWithdrawn(CommitUnknown):
    """The client did not begin the commit in time. The commit was withdrawn and is never made."""


class CommitRefused(TransportError):
    """The broker refused a commit with an error that a retry cannot resolve."""


class PartitionGone(CommitRefused):
    """The broker has none of these partitions, so a commit failed for them.

    The offsets of the other partitions may have been committed or not. A driver raises this error,
    and the committer then commits without these partitions.
    """

    def __init__(self, partitions: Iterable[TP]) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(f"no such partition: {listed(sorted(self.partitions))}")


class TopicReplaced(PartitionGone):
    """The topic of these partitions was deleted and created again; the offsets are of the old one.

    A driver raises this error for the committer. A rebalance then assigns the new topic.
    """


class Fenced(TransportError):
    """The broker refuses this member or producer: another process has taken its identity."""


class TransactionAborted(TransportError):
    """The transaction was aborted: its writes are undone, and its messages are redelivered."""


class TransactionFailed(TransportError):
    """As many transactions in a row were aborted as `transaction_attempts` allows."""


class NotInTransaction(TransportError):
    """The call cannot send or commit in a transaction at this place; the text gives the reason."""


class OffsetOutOfRange(TransportError):
    """A position or offset lies outside the log, and it may not be reset.

    Attributes:
        partitions: the partitions of these positions, if they are known.
    """

    def __init__(self, text: str, partitions: Iterable[TP] = ()) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(text)


class UnreadableBatch(TransportError):
    """A batch that the broker sent cannot be decoded; the text names its partition and offset.

    The batch is damaged, of an unknown format, or too large when it is decompressed. Another fetch
    returns the same batch: seek past it, or repair it at the broker.
    """


class ClientClosed(TransportError):
    """The driver's client was closed or killed before or during the call."""


class AppClosed(TransportError):
    """The app is not open: it is not started, or it is closing or closed."""


class BufferFull(TransportError):
    """The buffer of `send_soon` is full; the setting `send_buffer_messages` is its limit."""


class DeliveryFailed(TransportError):
    """An accepted message was not written; the text or the `__cause__` gives the reason."""


class MessageTooLarge(DeliveryFailed):
    """The message is larger than a request, the topic or the send buffer allows."""


class DeliveryTimeout(DeliveryFailed):
    """A message was not acknowledged within the delivery timeout: it may be written or not."""


class HandlerTimeout(TransportError, TimeoutError):
    """A handler did not end within its `timeout` for a message."""
