"""Where an app tells what happens, as it happens: the class that a monitor inherits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transport.app import App
from transport.consuming.consumer import Consumer
from transport.producing.producer import Producer
from transport.types import TP, RecordMetadata


class Sensor:
    """The points at which an app tells what happens. A subclass overrides those that it wants.

    All are called in trio's thread, from the library's own tasks, and are no async functions: they
    must be quick, and must not call back into the app to change it. What a call that begins
    something returns is given to the one that tells of its end. An error ends the app: it comes
    out of `async with app` in the exception group, and no point is called after it.
    """

    def on_open(self, app: App) -> None:
        """The app is being opened; the first call."""

    def on_messages_in(self, tp: TP, count: int) -> None:
        """So many messages were fetched. What a rebalance or a seek drops, and what is then fetched
        again, is told again."""

    def on_messages_out(self, tp: TP, count: int) -> None:
        """So many messages were acked since the last call; once for each topic object that they
        were delivered to. Told at each commit, and when the partition goes or is sought."""

    def on_topic_buffer_full(self, tp: TP) -> None:
        """A topic object's buffer is full: its partitions, this is one, pause until half of it
        is acked."""

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        """Called when reading continues at `new`, an offset from neither a commit nor a seek.

        Args:
            old: the position before, which is not in the log: retention has deleted it, or the log
                has lost its end. None: the group has begun before, and has no committed offset of
                this partition.
            skipped: how many offsets lie between the two. Their records are not read.
        """

    def on_commit_initiated(self, consumer: Consumer) -> Any:
        """A commit begins; one at a time."""

    def on_commit_completed(self, consumer: Consumer, state: Any, moved: bool) -> None:
        """It has ended. `moved`: whether an offset did; not where nothing was left to commit, and
        where it was given up, as the group did not come to rest (a warning says so)."""

    def on_commit_error(self, consumer: Consumer, state: Any, error: Exception) -> None:
        """It has failed; with CommitUnknown it may have been made all the same."""

    def on_sends_initiated(self, producer: Producer, count: int) -> None:
        """So many messages, accepted before, are handed to the client."""

    def on_sends_completed(self, producer: Producer, written: Sequence[RecordMetadata]) -> None:
        """Messages were delivered."""

    def on_sends_error(self, producer: Producer, errors: Sequence[Exception]) -> None:
        """Messages were not delivered; also those that were never handed over, at the end."""

    def on_assignment_start(self, consumer: Consumer, assigned: frozenset[TP]) -> Any:
        """Partitions have come, and are being taken over. May be none."""

    def on_assignment_completed(self, consumer: Consumer, state: Any) -> None:
        """They were: fetching from them begins."""

    def on_assignment_error(self, consumer: Consumer, state: Any, error: BaseException) -> None:
        """They were not: a hook of the app has failed, or the app has ended meanwhile."""

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> Any:
        """The client stands still until it has our consent to a change of ownership.

        One rebalance of the group may be several of these: partitions go, and then some come.

        Args:
            kind: "assigned", "revoked" or "lost".
        """

    def on_rebalance_return(self, app: App, state: Any) -> None:
        """We consent: hooks are done, handlers have ended, the last commit is made."""

    def on_rebalance_end(self, app: App, state: Any) -> None:
        """A poll has ended since: the client goes on."""
