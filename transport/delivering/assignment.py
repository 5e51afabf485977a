"""Which partitions are ours, and the ledger of each. Knows neither trio nor Kafka.

A partition is ours from `assign` to `let_go`; in between it has just one open ledger, and a new one
after each seek. There is no other way to get a ledger, so what is not ours cannot be committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from transport.delivering.ledger import Ledger, Tally
from transport.types import TP


class Assignment(Mapping[TP, Ledger]):
    """The open ledgers by partition, in order of topic and partition.

    Attributes:
        generation: the group's generation as of the last rebalance, -1 before the first.
        tally: counts acks that changed nothing.
    """

    def __init__(self) -> None:
        self.generation = -1
        self.tally = Tally()
        self._ledgers: dict[TP, Ledger] = {}
        self._epoch = 0
        # Where the partitions that were given up stood, by the one generation in which that counts.
        self._given_up: dict[tuple[TP, int], int | None] = {}

    def assign(
        self, tps: Iterable[TP], generation: int, *, of_new_topic: Collection[TP] = ()
    ) -> dict[TP, int]:
        """Open a ledger for each partition; return the start offsets of those that just came back.

        A partition that comes back in the very next generation had no other owner meanwhile, so
        its own safe offset is as good as the committed one, and better if the commit on the way
        out failed. All others start from the group's committed offsets. So do those of a topic
        that was created again: where they stood was in the old topic.
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

        `is_proven`: the log has this offset. Else it is not committed before that is known.
        """
        old = self._ledgers[tp]
        old.shut()
        ledger = self._open(tp, old.generation, offset)
        ledger.is_proven = is_proven
        return ledger

    def let_go(self, tps: Collection[TP], *, lost: bool = False) -> list[Ledger]:
        """Shut the ledgers of those that are ours; they are not ours from now on.

        `lost`: somebody else may own them already, so nothing is kept of where they stood.
        """
        gone = [self._ledgers[tp] for tp in sorted(tps) if tp in self._ledgers]
        for ledger in gone:
            ledger.drain()
            if self.generation >= 0 and not lost:
                self._given_up[ledger.tp, self.generation + 1] = ledger.safe
            self._discard(ledger.tp)
        return gone

    def due(self, topics: Collection[str | TP] | None = None) -> dict[Ledger, int]:
        """What a commit would move, and to where; `topics` may mix names and partitions."""
        return {
            ledger: offset
            for tp, ledger in self._ledgers.items()
            if (topics is None or tp in topics or tp.topic in topics)
            and (offset := ledger.due) is not None
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
