"""What can go wrong, one class a cause.

Every error of the transport is a `TransportError`; drivers translate their
client's errors into these, so that no code above a driver knows the client.
"""

from __future__ import annotations

from collections.abc import Iterable

from transport.excerpt import listed
from transport.types import TP


class TransportError(Exception):
    """Base of every error that the transport raises by itself."""


class BrokerUnavailable(TransportError):
    """No broker answered within the bound; the message names the addresses."""


class AuthorizationFailed(TransportError):
    """The broker refused us: credentials, or a right on a topic or a group."""


class UnknownTopic(TransportError):
    """The broker has no such topic, or partition, and did not create it."""


class NotAssigned(TransportError):
    """The partition is not, or no longer, assigned to this consumer."""


class RebalanceInProgress(TransportError):
    """The group is between two generations; the call may be made again after the join."""


class CommitFailed(TransportError):
    """This consumer is not a member of its group at the moment.

    If it was evicted, a LOST rebalance follows. Until then nothing is delivered.
    """


class CommitUnknown(TransportError):
    """No answer came to a commit: it may have been applied or not."""


class CommitWithdrawn(CommitUnknown):
    """The client did not begin the commit in time, so the commit was withdrawn.

    It will never be made.
    """


class CommitRefused(TransportError):
    """The broker answered a commit with an error that a second try will not mend."""


class PartitionGone(CommitRefused):
    """The broker has none of these partitions, or no longer; of the others nothing is known.

    From a driver to the committer, which goes on without them.
    """

    def __init__(self, partitions: Iterable[TP]) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(f"no such partition: {listed(sorted(self.partitions))}")


class TopicReplaced(PartitionGone):
    """The topic of these partitions was deleted and created again: the offsets are of the old one.

    From a driver to the committer. A rebalance of the driver brings the new topic.
    """


class Fenced(TransportError):
    """Another process has taken the identity of this member or producer."""


class TransactionAborted(TransportError):
    """The transaction was aborted: what was written in it is undone, its messages come again."""


class TransactionFailed(TransportError):
    """So many transactions in a row were aborted that there is no hope for the next one."""


class NotInTransaction(TransportError):
    """Nothing can be sent, or committed, in a transaction here and now; the text says why."""


class OffsetOutOfRange(TransportError):
    """The position lies outside the log and the policy is not to reset it.

    Attributes:
        partitions: whose position it is.
    """

    def __init__(self, text: str, partitions: Iterable[TP] = ()) -> None:
        self.partitions = frozenset(partitions)
        super().__init__(text)


class UnreadableBatch(TransportError):
    """What the broker sent of a partition is damaged, of an unknown format, or larger than allowed
    once it is decompressed; the text names partition and offset. It would be sent again: seek past
    it, or mend it at the broker."""


class ClientClosed(TransportError):
    """The client was closed, or killed, while the call was under way or before it."""


class AppClosed(TransportError):
    """The app is not open: not yet, or no longer."""


class BufferFull(TransportError):
    """So many messages are to be sent soon already that one more cannot be taken."""


class DeliveryFailed(TransportError):
    """A message was accepted but not delivered; the cause says why."""


class MessageTooLarge(DeliveryFailed):
    """The message is larger than a request, the topic or the send buffer allows."""


class DeliveryTimeout(DeliveryFailed):
    """No acknowledgement came within the delivery timeout: it may have been written or not."""
