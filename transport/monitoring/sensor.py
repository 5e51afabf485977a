"""`Sensor`: the events that an app reports to a monitor, with one method for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transport.app import App
from transport.consuming.consumer import Consumer
from transport.producing.producer import Producer
from transport.types import TP, RecordMetadata


class Sensor:
    """The base class of monitors. A subclass overrides the methods of the events that it needs.

    All methods are called in trio's thread, by tasks of the library, and are not async. They must
    be quick, and must not change the app. The method for the begin of an operation may return a
    value, which the method for its end receives as `state`. An error ends the app: `async with app`
    raises it in an exception group, and no method is called after it.
    """

    def on_open(self, app: App) -> None:
        """Called when the app is being opened, before every other method."""

    def on_close(self, app: App) -> None:
        """Called when the app has closed its consumer and its producer, after every other method.

        The call also comes after a crash, but not after an error of the sensor itself.
        """

    def on_messages_in(self, tp: TP, count: int) -> None:
        """Called when `count` messages were fetched.

        Messages that a rebalance or a seek drops count again when they are fetched again.
        """

    def on_bytes_in(self, tp: TP, count: int) -> None:
        """Called with the size of a fetch, after `on_messages_in`.

        Args:
            count: bytes as they were fetched, so compressed ones if the batches are compressed. On
                `memory://`, the size of the records in memory.
        """

    def on_poll(self, seconds: float, count: int) -> None:
        """Called when a poll of the client has returned.

        Args:
            seconds: the time that it took. A poll waits for records, and for a rebalance.
            count: how many messages it has returned. 0: another part of the app needed the client.
        """

    def on_messages_out(self, tp: TP, count: int) -> None:
        """Called when `count` messages were acked since the last call.

        A message counts once for each topic object that it was delivered to. The call comes at each
        commit, and when the partition is revoked, lost or sought.
        """

    def on_topic_buffer_full(self, tp: TP) -> None:
        """Called when the buffer of a topic object is full, once for each of its partitions.

        Fetching from the partition pauses until half of the buffer is acked.
        """

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        """Called when reading continues at `new`, an offset from neither a commit nor a seek.

        Args:
            old: the position before, which is not in the log: retention has deleted it, or the log
                has lost its end. None: the group has begun before, and has no committed offset of
                this partition.
            skipped: how many offsets lie between the two. Their records are not read. 0 if reading
                goes back, or if `old` is None.
        """

    def on_commit_initiated(self, consumer: Consumer) -> Any:
        """Called when a commit begins. Only one is in flight at a time."""

    def on_commit_completed(self, consumer: Consumer, state: Any, moved: bool) -> None:
        """Called when a commit has ended without an error.

        Args:
            moved: whether an offset moved. False if nothing was left to commit, or if a rebalance
                took so long that the commit was given up (a warning says so).
        """

    def on_commit_error(self, consumer: Consumer, state: Any, error: Exception) -> None:
        """Called when a commit has failed. With CommitUnknown it may still have been applied."""

    def on_sends_initiated(self, producer: Producer, count: int) -> None:
        """Called when `count` accepted messages are about to be passed to the client."""

    def on_sends_completed(self, producer: Producer, written: Sequence[RecordMetadata]) -> None:
        """Called when messages were written to their partitions.

        Args:
            written: the metadata of the messages. Read it during the call, and do not keep it,
                because it keeps the messages in memory.
        """

    def on_bytes_sent(self, producer: Producer, topic: str, count: int) -> None:
        """Called after `on_sends_completed`, for each topic.

        Args:
            count: the bytes that the written messages took in the send buffer, before compression.
        """

    def on_send_latency(self, producer: Producer, seconds: float) -> None:
        """Called once for each batch of messages that the client has received.

        Args:
            seconds: the time from `on_sends_initiated` to the outcome of the first message of the
                batch: the linger, the wait for a connection, and the broker's answer.
        """

    def on_sends_error(self, producer: Producer, errors: Sequence[Exception]) -> None:
        """Called when messages failed, also those that never reached the client."""

    def on_assignment_start(self, consumer: Consumer, assigned: frozenset[TP]) -> Any:
        """Called when partitions (maybe none) were assigned, before they are fetched from."""

    def on_assignment_completed(self, consumer: Consumer, state: Any) -> None:
        """Called when the assignment is done: fetching from its partitions begins."""

    def on_assignment_error(self, consumer: Consumer, state: Any, error: BaseException) -> None:
        """Called when the assignment failed: a hook of the app raised, or the app has ended."""

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> Any:
        """Called when a change of ownership begins. The client waits until the app has served it.

        One rebalance of the group may be several changes: partitions are revoked, then assigned.

        Args:
            kind: "assigned", "revoked" or "lost".
        """

    def on_rebalance_return(self, app: App, state: Any) -> None:
        """Called when the app has served the change: it has drained, committed and run hooks.

        The call also comes if an error or the bound of the rebalance has ended that early.
        """

    def on_rebalance_end(self, app: App, state: Any) -> None:
        """Called when the next poll has ended: the client has gone on."""

    def on_attempts(self, handler: str, outcome: str, seconds: Sequence[float]) -> None:
        """Called when attempts of a handler have ended: calls of its function, with the decoding.

        Attempts that succeed are reported several at a time: those of 0.1 s, or those since the
        last report when a worker of the handler has nothing to do. An attempt that is cancelled by
        the end of the app is not reported.

        Args:
            handler: the name of the handler.
            outcome: "ok"; "failed": the function raised an error; "timeout": it took longer than
                the `timeout` of the handler.
            seconds: the time that each of the attempts took.
        """

    def on_handler_failure(self, handler: str, tp: TP, treatment: str, error: Exception) -> None:
        """Called when the handling of a message or batch has failed, once for each attempt.

        A message that is given up is reported once its treatment is done. With transactions, a
        message of an aborted transaction may be reported again.

        Args:
            treatment: "retried": another attempt follows; "dead_letter": a dead letter was
                delivered; "skipped": it was acked without success; "raised": the app ends with the
                error; "void": its partition was revoked or sought meanwhile, so it is redelivered.
        """

    def on_loop_delay(self, seconds: float) -> None:
        """Called once a second.

        Args:
            seconds: how late trio has resumed a task that was due. A long time means that a task
                has blocked the event loop, for example by a call that is not async.
        """
