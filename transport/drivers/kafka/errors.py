"""The translation of kafka-python's errors into the transport's own.

Look here for which error of the broker becomes which error of the transport.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import kafka.errors as client

from transport.drivers.kafka.workarounds.swallowed_errors import Crashed, NeverSent
from transport.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    CommitFailed,
    CommitRefused,
    CommitUnknown,
    DeliveryFailed,
    DeliveryTimeout,
    Fenced,
    MessageTooLarge,
    OffsetOutOfRange,
    RebalanceInProgress,
    TransactionAborted,
    TransportError,
    UnknownTopic,
)

_FENCED = (
    client.FencedInstanceIdError,
    client.ProducerFencedError,
    client.InvalidProducerEpochError,
)
REFUSED_US = (
    client.AuthorizationError,
    client.SaslAuthenticationFailedError,
    client.UnsupportedSaslMechanismError,
    client.IllegalSaslStateError,
    client.SecurityDisabledError,
)
# Only the text of the client's error shows that the broker refuses a producer id.
_NO_PRODUCER_ID = client.ClusterAuthorizationFailedError.__name__
_THROWN_OUT = (
    client.CommitFailedError,
    client.UnknownMemberIdError,
    client.IllegalGenerationError,
)
_OUTSIDE_THE_LOG = (
    client.OffsetOutOfRangeError,
    client.NoOffsetForPartitionError,
    client.LogTruncationError,
)
_NOBODY_THERE = (
    client.KafkaTimeoutError,
    client.KafkaConnectionError,
    client.NodeNotReadyError,
    client.BrokerNotAvailableError,
    client.RequestTimedOutError,
)
_TOO_LARGE = (client.MessageSizeTooLargeError, client.RecordListTooLargeError)
_EPOCH_IS_OVER = (
    "the broker has ended it, after transaction_timeout or because another process uses its"
    " transactional id"
)
# The transaction is over at the broker, or has lost another message.
_ENDED = (
    client.ProducerFencedError,
    client.InvalidProducerEpochError,
    client.InvalidTxnStateError,
    client.InvalidProducerIdMappingError,
    client.TransactionAbortedError,
)
_REFUSED = (client.InvalidRecordError, client.InvalidTimestampError)
# Only a message that was sent before has a sequence number that the broker does not expect.
_NUMBERS = (client.OutOfOrderSequenceNumberError,)


def of_a_call(error: Exception) -> Exception:
    """Translate the error of any call but a commit; other errors than the client's are kept."""
    if not isinstance(error, client.KafkaError):
        return error
    text = str(error)
    if isinstance(error, client.KafkaConfigurationError):
        return ValueError(text)
    if isinstance(error, _FENCED):
        return Fenced(text)
    if isinstance(error, REFUSED_US):
        return AuthorizationFailed(text)
    if _NO_PRODUCER_ID in text:
        return AuthorizationFailed(f"this app may not write to any topic: {text}")
    if isinstance(error, _OUTSIDE_THE_LOG):
        return OffsetOutOfRange(text)
    if isinstance(error, (client.UnknownTopicOrPartitionError, client.InvalidTopicError)):
        return UnknownTopic(text)
    if isinstance(error, _NOBODY_THERE):
        return BrokerUnavailable(text)
    return TransportError(text)


def of_a_commit(error: Exception) -> Exception:
    """Translate the error of a commit; other errors than the client's are kept."""
    if not isinstance(error, client.KafkaError):
        return error
    text = str(error)
    if isinstance(error, (*_FENCED, *REFUSED_US)):
        return of_a_call(error)
    # The client wraps the broker's "rebalance in progress" in a CommitFailedError, although the
    # member is still in the group and only has to join again.
    wrapped = error.args[0] if isinstance(error, client.CommitFailedError) and error.args else None
    if isinstance(error, client.RebalanceInProgressError) or isinstance(
        wrapped, client.RebalanceInProgressError
    ):
        return RebalanceInProgress(text)
    if isinstance(error, _THROWN_OUT):
        return CommitFailed(text)
    # The client retries a retriable error until its timeout.
    if isinstance(error, (client.KafkaTimeoutError, client.RetriableError)):
        return CommitUnknown(text)
    return CommitRefused(text)


def of_a_delivery(error: Exception) -> Exception:
    """Return the outcome for a message that was refused or not written, with its cause set."""
    outcome: Exception
    if isinstance(error, Crashed):
        (cause,) = error.args
        if isinstance(cause, REFUSED_US):
            return of_a_delivery(cause)
        outcome = DeliveryFailed(
            f"the client's network thread failed with {cause!r} while it held the message. The"
            " broker may have the message or not: send it again if a duplicate does no harm"
        )
    elif isinstance(error, NeverSent):
        outcome = DeliveryFailed(
            "the message was not sent: the network threads of two clients in a row failed"
        )
    elif isinstance(error, REFUSED_US) or _NO_PRODUCER_ID in str(error):
        outcome = of_a_call(error)
    elif isinstance(error, _TOO_LARGE):
        outcome = MessageTooLarge(_reason(error) or "larger than the topic's max.message.bytes")
    elif isinstance(error, _REFUSED) and (reason := _reason(error)):
        outcome = DeliveryFailed(f"the broker refuses the message: {reason}")
    elif isinstance(error, _NUMBERS):
        # The message was sent before, without an answer.
        outcome = DeliveryTimeout(f"it is not known whether the broker has the message: {error}")
    elif isinstance(error, client.RetriableError):
        # The client has retried it until the timeout.
        outcome = DeliveryTimeout(str(error))
    else:
        outcome = DeliveryFailed(f"{type(error).__name__}: {error}")
    outcome.__cause__ = error
    return outcome


def of_a_delivery_in_a_transaction(error: Exception) -> Exception:
    """Return the outcome for a message of a transaction, as `of_a_delivery` does.

    Only the abort finds out whether another producer has the id, so no error here is `Fenced`.
    """
    # The client raises a plain KafkaError for the other reasons that end a transaction.
    if not isinstance(error, _ENDED) and type(error) is not client.KafkaError:
        return of_a_delivery(error)
    why = _EPOCH_IS_OVER if isinstance(error, _FENCED) else str(error)
    outcome = TransactionAborted(f"the transaction can only be aborted: {why}")
    outcome.__cause__ = error
    return outcome


def _reason(error: Exception) -> str | None:
    """Return the broker's own text; None: it sent none."""
    return str(error.args[0]) if error.args and error.args[0] else None


@contextlib.contextmanager
def translated(translate: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise the translation of an error that leaves the block, caused by it."""
    try:
        yield
    except client.KafkaError as error:
        raise translate(error) from error
