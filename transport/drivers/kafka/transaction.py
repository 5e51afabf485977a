"""One transaction of a producer of the client: its steps, each with a bound and an outcome.

The client's public calls wait for the broker without a bound, so this module makes the same
requests with a bound. It also corrects what the client does with a batch that failed in a
transaction:

- The client forgets a batch that timed out, and the transaction commits without it.
- After a batch that was refused because our epoch is over, the client takes the id back. That would
  fence the rightful owner. `transactional_id.py` finds out the owner.
- For a batch that was refused for one bad record, the client fails all records of the batch and all
  waiting batches with the same error.

Each of these must abort the transaction. The abort undoes the other records of the batch as well:
their messages get TransactionAborted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import kafka.errors
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from transport.drivers.commit_metadata import metadata_of
from transport.drivers.kafka.errors import REFUSED_US, of_a_call
from transport.drivers.kafka.linger import Linger
from transport.drivers.kafka.topic_ids import id_note
from transport.drivers.kafka.workarounds.swallowed_errors import Crashed
from transport.errors import (
    AuthorizationFailed,
    CommitFailed,
    CommitUnknown,
    TransactionAborted,
)
from transport.types import TP, GroupMetadata

# Only the text of the client's error shows which fence of the group applied.
_UNKNOWN = kafka.errors.UnknownMemberIdError.__name__
_ENDED_BY_THE_BROKER = (
    "the broker has ended the transaction, because it was open for longer than transaction_timeout"
)
_FENCED = (kafka.errors.ProducerFencedError, kafka.errors.InvalidProducerEpochError)


def abort_on_failure(producer: Any) -> None:
    """Let each failure of a batch abort the transaction, in a new transactional producer."""
    # `_transaction_manager`, `classify_batch_error`: the client decides here what a failure ends.
    manager = producer._transaction_manager
    classify = manager.classify_batch_error

    def classify_strictly(error: Any, batch: Any, **details: Any) -> Any:
        verdict = classify(error, batch, **details)
        return verdict if verdict == manager.ERROR_CLASS_FATAL else manager.ERROR_CLASS_ABORTABLE

    manager.classify_batch_error = classify_strictly
    # `_sender`, `_record_exceptions_fn`: the error of each record of a batch.
    sender = producer._sender
    errors_of = sender._record_exceptions_fn

    def errors_of_records(top: Exception, record_errors: Any, text: str | None) -> Any:
        error_of = errors_of(top, record_errors, text)
        named = {each.batch_index for each in record_errors or ()}
        return lambda at: error_of(at) if at in named or not named else _lost(top)

    sender._record_exceptions_fn = errors_of_records
    # `_accumulator`, `abort_undrained_batches`: fails unsent messages with the transaction. They
    # keep an error about a missing right, because it may concern their own topic.
    accumulator = sender._accumulator
    abort = accumulator.abort_undrained_batches

    def abort_the_others(error: Exception) -> None:
        is_own = isinstance(error, kafka.errors.AuthorizationError)
        abort(error if is_own else _lost(error))

    accumulator.abort_undrained_batches = abort_the_others


def _lost(error: Exception) -> kafka.errors.TransactionAbortedError:
    return kafka.errors.TransactionAbortedError(f"it has lost another message: {error}")


class Displaced(TransactionAborted):
    """The broker refuses our epoch; `transactional_id.py` finds out why."""


def no_right_to(transactional_id: str, error: Exception) -> AuthorizationFailed:
    return AuthorizationFailed(
        f"this app may not use the transactional id {transactional_id!r}: {error}"
    )


class Transaction:
    """One transaction of a producer. Called on the sending thread, unless noted.

    The calls raise AuthorizationFailed, TransactionAborted and Displaced. `send_offsets` also
    raises CommitFailed (this member was evicted from its group), and `commit` CommitUnknown.
    """

    def __init__(self, producer: Any, linger: Linger) -> None:
        self.producer = producer
        self._linger = linger
        # `_transaction_manager`: the public calls have no timeout.
        self._manager = producer._transaction_manager

    def begin(self) -> None:
        self._linger.restore()
        with self._errors():
            self.producer.begin_transaction()

    def hurry(self) -> None:
        """End the linger for the messages of this transaction. From any thread."""
        self._linger.end()

    def send_offsets(self, offsets: Mapping[TP, int], group: GroupMetadata, timeout: float) -> None:
        wanted = {
            TopicPartition(*tp): OffsetAndMetadata(
                at, metadata_of(group, tp, id_note(group.topic_ids.get(tp))), -1
            )
            for tp, at in offsets.items()
        }
        member = ConsumerGroupMetadata(
            group.group_id, group.generation_id, group.member_id, group.group_instance_id
        )
        with self._errors():
            result = self._manager.send_offsets_to_transaction(wanted, member)
            if not self._has_ended(result, timeout):
                raise TransactionAborted(f"no answer to the offsets within {timeout:g} s")

    def commit(self, timeout: float) -> None:
        with self._errors():
            try:
                has_ended = self._has_ended(self._manager.begin_commit(), timeout)
            except Crashed as error:
                raise CommitUnknown(f"the client failed before the answer: {error}") from error
            if not has_ended:
                raise CommitUnknown(f"no answer to the commit within {timeout:g} s")

    def abort(self, timeout: float) -> None:
        """Abort it. Raises TransactionAborted if the client must be discarded."""
        if isinstance(self._manager.last_error, _FENCED):
            raise Displaced(_ENDED_BY_THE_BROKER)  # the broker refuses the abort as well
        # The error may have left a gap in the sequence numbers of the messages.
        was_broken = self._manager.has_error()
        with self._errors():
            if not self._has_ended(self._manager.begin_abort(), timeout):
                raise TransactionAborted(f"no answer to the abort within {timeout:g} s")
        if was_broken:
            raise TransactionAborted("aborted after an error")

    def _has_ended(self, result: Any, timeout: float) -> bool:
        self.producer._sender.wakeup()
        return bool(result.wait(timeout_ms=timeout * 1000))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except kafka.errors.KafkaError as error:
            cause = self._manager.last_error or error
            if isinstance(cause, kafka.errors.CommitFailedError) and _UNKNOWN in str(cause):
                raise CommitFailed(f"this member was evicted from its group: {cause}") from error
            if isinstance(cause, kafka.errors.TransactionalIdAuthorizationFailedError):
                raise no_right_to(self._manager.transactional_id, cause) from error
            if isinstance(cause, _FENCED):
                raise Displaced(_ENDED_BY_THE_BROKER) from error
            if isinstance(cause, REFUSED_US):
                raise of_a_call(cause) from error
            raise TransactionAborted(f"{type(cause).__name__}: {cause}") from error
