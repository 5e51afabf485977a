"""The redrive of dead letters to their source topics: each letter once, also after a crash.

One transaction has some messages and their receipts. A crash before its commit undoes both, and the
next redrive sends these letters. A crash after it leaves the receipts, by which the next redrive
skips them. Two redrives of one topic at a time have the same transactional id, so the second one
fences the first before it reads the receipts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

from transport.app import App
from transport.command_line.connection import Connection
from transport.command_line.letter import Letter, letter_of
from transport.command_line.moments import BEGINNING, END
from transport.command_line.reader import reading
from transport.command_line.receipts import (
    create_receipts,
    receipt_headers,
    receipts_topic,
    redriven_letters,
)
from transport.drivers.admin import Admin, TopicDescription
from transport.errors import CommitUnknown, TransactionAborted, TransportError

# The most messages of one transaction.
_MOST = 500


@attrs.define
class Outcome:
    """What a redrive has found and done.

    Attributes:
        chosen: the number of letters that pass the filter and have no receipt, by source topic,
            handler and error.
        before: the number of letters that pass the filter, and were redriven before.
        redriven: the number of letters whose messages are committed.
    """

    chosen: Counter[tuple[str, str, str]] = attrs.field(factory=Counter)
    before: int = 0
    redriven: int = 0


@attrs.define(eq=False)
class Redrive:
    """One redrive of a dead-letter topic.

    Args:
        to: the topic to send to; None: the source of each letter.
    """

    connection: Connection
    admin: Admin
    letters: TopicDescription
    passes: Callable[[Letter], bool]
    to: str | None
    outcome: Outcome = attrs.field(factory=Outcome)
    _targets: dict[str, TopicDescription] = attrs.field(factory=dict)

    @property
    def transactional_id(self) -> str:
        return f"kafka-nursery.redrive.{self.letters.name}"

    async def plan(self) -> Outcome:
        """Find the letters, and send nothing."""
        await self._each(await redriven_letters(self.connection, self.letters), None)
        return self.outcome

    async def run(self, show: Callable[[int], None]) -> Outcome:
        """Send the letters back.

        A checkpoint. Cancelled: letters of the open transaction are not sent.

        Args:
            show: called with the number of letters that are committed.

        Raises TransportError: the text says what to do.
        """
        await create_receipts(self.admin, self.letters.name)
        async with self.connection.writer() as app:
            batch = _Batch(app, self.transactional_id, self.letters, self.outcome, show)
            await app.producer.begin_transaction(self.transactional_id)
            # Only now: no earlier redrive can write a receipt any more.
            await self._each(await redriven_letters(self.connection, self.letters), batch)
            await batch.commit()
            await app.producer.stop_transaction(self.transactional_id)
        return self.outcome

    async def _each(self, redriven: frozenset[str], batch: _Batch | None) -> None:
        client = self.connection.reader()
        async with reading(client, self.letters.name, BEGINNING, END) as reader:
            while not reader.is_at_end:
                for tp, record in await reader.take():
                    letter = letter_of(tp, record)
                    if letter is None or not self.passes(letter):
                        continue
                    if letter.place in redriven:
                        self.outcome.before += 1
                        continue
                    target = await self._target(letter)
                    facts = letter.facts
                    self.outcome.chosen[
                        target.name, facts.get("handler", ""), facts.get("error", "")
                    ] += 1
                    if batch is not None:
                        await batch.add(letter, target)

    async def _target(self, letter: Letter) -> TopicDescription:
        """Return the topic for a letter. Raises UnknownTopic: sending would create it."""
        name = self.to or letter.source
        if name not in self._targets:
            self._targets[name] = await self.admin.topic(name)
        return self._targets[name]


@attrs.define(eq=False)
class _Batch:
    """The open transaction of a redrive."""

    app: App
    transactional_id: str
    letters: TopicDescription
    outcome: Outcome
    show: Callable[[int], None]
    _size: int = 0

    async def add(self, letter: Letter, target: TopicDescription) -> None:
        partition = letter.source_partition
        if partition is None or partition >= len(target.partitions):
            partition = None  # the key decides
        record, producer = letter.record, self.app.producer
        await producer.send(
            target.name,
            record.key,
            record.value,
            partition,
            headers=letter.headers_to_redrive(),
            transactional_id=self.transactional_id,
        )
        await producer.send(
            receipts_topic(self.letters.name),
            letter.place.encode(),
            target.name.encode(),
            0,
            headers=receipt_headers(self.letters),
            transactional_id=self.transactional_id,
        )
        self._size += 1
        if self._size >= _MOST:
            await self.commit()
            await self.app.producer.begin_transaction(self.transactional_id)

    async def commit(self) -> None:
        """Commit the messages with their receipts. Raises TransportError."""
        if not self._size:
            return
        try:
            await self.app.producer.commit_transaction(self.transactional_id)
        except CommitUnknown as error:
            raise TransportError(
                f"it is not known whether the last {self._size} letters were redriven: {error}."
                " Run the command again: it skips those that were"
            ) from error
        except TransactionAborted as error:
            raise TransportError(
                f"the last {self._size} letters were not redriven: {error}. Run the command again"
            ) from error
        self.outcome.redriven += self._size
        self._size = 0
        self.show(self.outcome.redriven)
