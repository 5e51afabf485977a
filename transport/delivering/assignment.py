"""The partitions that are assigned to this consumer, and the open ledger of each.

A partition is assigned from `assign` to `remove`. In between it has exactly one open ledger, and a
new one after each seek. Ledgers are opened only here, so no offset of a partition that is not
assigned can be committed. Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from transport.delivering.ledger import Ledger, Tally
from transport.types import TP


def is_among(tp: TP, topics: Collection[str | TP] | None) -> bool:
    """Return whether a partition is among names of topics and partitions; None: all are."""
    return topics is None or tp in topics or tp.topic in topics


class Assignment(Mapping[TP, Ledger]):
    """The open ledgers by partition, in order of topic and partition.

    Attributes:
        generation: the group's generation as of the last rebalance, -1 before the first.
        tally: the number of acks that changed nothing.
    """

    def __init__(self) -> None:
        self.generation = -1
        self.tally = Tally()
        self._ledgers: dict[TP, Ledger] = {}
        self._epoch = 0
        # The safe offsets of partitions that were given up. The int in the key is the only
        # generation in which the offset may be used.
        self._given_up: dict[tuple[TP, int], int | None] = {}

    def assign(
        self, tps: Iterable[TP], generation: int, *, of_new_topic: Collection[TP] = ()
    ) -> dict[TP, int]:
        """Open a ledger for each partition; return the start offsets of the reassigned ones.

        A partition that is assigned again in the very next generation had no other owner in
        between. Its safe offset is at least the committed one, and beyond it if the last commit
        failed. So the partition starts at its safe offset. All others start at the offsets that the
        group has committed.

        Args:
            of_new_topic: those whose topic was deleted and created again. Their safe offsets belong
                to the old topic and are not used.
        """
        starts: dict[TP, int] = {}
        for tp in sorted(tps):
            self._discard(tp)
            safe = None if tp in of_new_topic else self._given_up.get((tp, generation))
            if safe is not None:
                starts[tp] = safe
            self._open(tp, generation, starts.get(tp))
        self._given_up.clear()
        self.generation = generation
        self._ledgers = dict(sorted(self._ledgers.items()))
        return starts

    def seek(self, tp: TP, offset: int, *, is_proven: bool = True) -> Ledger:
        """Begin a new epoch of an assigned partition at `offset`; acks of the old one are stale.

        Args:
            is_proven: whether the offset is known to lie in the log; see `Ledger`.
        """
        old = self._ledgers[tp]
        old.shut()
        ledger = self._open(tp, old.generation, offset)
        ledger.is_proven = is_proven
        return ledger

    def remove(self, tps: Collection[TP], *, lost: bool = False) -> list[Ledger]:
        """Remove partitions from the assignment and shut their ledgers; return these ledgers.

        Partitions that are not assigned are skipped.

        Args:
            lost: whether another member may own them already. Their safe offsets are then not kept.
        """
        gone = [self._ledgers[tp] for tp in sorted(tps) if tp in self._ledgers]
        for ledger in gone:
            ledger.drain()
            if self.generation >= 0 and not lost:
                self._given_up[ledger.tp, self.generation + 1] = ledger.safe
            self._discard(ledger.tp)
        return gone

    def due(
        self,
        topics: Collection[str | TP] | None = None,
        repeats: Callable[[TP], bool] = lambda tp: False,
    ) -> dict[Ledger, int]:
        """Return the ledgers with an offset to commit, and that offset.

        Args:
            topics: names of topics and partitions, mixed; None: all partitions.
            repeats: returns whether an offset that is committed already is to be committed again.
        """
        return {
            ledger: offset
            for tp, ledger in self._ledgers.items()
            if is_among(tp, topics)
            and (offset := ledger.committable if repeats(tp) else ledger.due) is not None
        }

    def _open(self, tp: TP, generation: int, position: int | None) -> Ledger:
        self._epoch += 1
        ledger = Ledger(tp, self._epoch, generation, self.tally, position=position)
        self._ledgers[tp] = ledger
        return ledger

    def _discard(self, tp: TP) -> None:
        if (ledger := self._ledgers.pop(tp, None)) is not None:
            ledger.shut()

    def __getitem__(self, tp: TP) -> Ledger:
        return self._ledgers[tp]

    def __iter__(self) -> Iterator[TP]:
        return iter(self._ledgers)

    def __len__(self) -> int:
        return len(self._ledgers)
