"""The start offset of a partition without a committed offset of the group. Pure.

`auto_offset_reset` sets where a new group begins. It does not apply to partitions that are added to
the group later: "latest" would skip records that were written after the group had begun. So a
member must know whether its group has begun, and with which topics. It reads that from the group's
commits. A member that finds no commit of a topic begins with the topic. It writes that moment and
the topic's number of partitions (`Began`) into the metadata of its commits, where other members
read them.

With "latest", the first of these rules that fits applies:

1. The topic was created while this client ran: the start of the log.
2. The topic had too few partitions when the group began with it: the partition was added later,
   so the start of the log.
3. The group began with the topic at a known time: the first record since then. For members that
   join a new group together, that is the end of the log. If a member crashed before its first
   commit, nothing is skipped.
4. The group has commits of the topic without such a time, because other programs or an earlier
   version made them: the start of the log.
5. The group has commits of other topics: the first record since the group began if that time is
   known, else the start of the log.
6. The group has no commit: it begins now, at the end of the log.

With "earliest" each case is the start of the log; with "error" there is no start.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Mapping

import attrs

from transport.drivers.commit_metadata import notes_of
from transport.types import TP

# Topics with which a group begins in this time after its own begin do not count as added later.
BEGINNING_MS = 60_000
_BEGAN = re.compile(r"kafka-nursery began=(\d+) partitions=(\d+)\b")


@attrs.frozen
class Began:
    """The moment at which a group began with a topic.

    Attributes:
        at_ms: milliseconds since 1970 on a member's clock; 0: the start of the log.
        partitions: the number of partitions that the topic had.
    """

    at_ms: int
    partitions: int

    def __str__(self) -> str:
        """Return the note for the metadata of a commit, as `parsed` reads it."""
        return f"kafka-nursery began={self.at_ms} partitions={self.partitions}"


def parsed(metadata: str | None) -> Began | None:
    """Return the moment in the metadata of a commit; None: the library did not note it there."""
    match = _BEGAN.match(notes_of(metadata))
    return None if match is None else Began(int(match[1]), int(match[2]))


class Place(enum.Enum):
    """A place in a log."""

    BEGINNING = "beginning"
    END = "end"
    SINCE = "since"


@attrs.frozen
class Start:
    """The start of one partition.

    Attributes:
        since_ms: for `Place.SINCE`: the start is the first record with this or a later timestamp.
        is_new: the group begins with the partition. Otherwise the group has begun before and has no
            offset of the partition, which needs a warning.
    """

    place: Place
    is_new: bool
    since_ms: int = 0


@attrs.frozen
class Group:
    """The state of a group at a moment.

    Attributes:
        commits: the metadata of its committed offsets.
        began: by topic, the moments that this client itself has recorded.
        created: topics that were created while this client ran.
        partitions: the number of partitions of each topic.
        now_ms: milliseconds since 1970.
    """

    commits: Mapping[TP, str | None]
    began: Mapping[str, Began]
    created: Collection[str]
    partitions: Mapping[str, int]
    now_ms: int

    @property
    def has_begun(self) -> bool:
        """Whether the group has begun before."""
        return bool(self.commits or self.began)

    def known(self) -> dict[str, Began]:
        """Return the moment at which the group began with each topic, by client and commits."""
        known = dict(self.began)
        for tp, metadata in self.commits.items():
            began = parsed(metadata)
            if began is not None and tp.topic not in self.began:
                other = known.get(tp.topic, began)
                known[tp.topic] = min(began, other, key=lambda each: each.at_ms)
        return known


def starts(
    tps: Iterable[TP], policy: str, group: Group
) -> tuple[dict[TP, Start], dict[str, Began]]:
    """Return the starts of partitions without a committed offset.

    Also returns the moment at which the group began with each topic, which the client records.

    Args:
        policy: "earliest" or "latest".
    """
    known = group.known()
    begins = dict(known)
    committed = {tp.topic for tp in group.commits}
    found = {}
    for tp in tps:
        start, began = _start(tp, policy, group, known, tp.topic in committed)
        found[tp] = start
        if began is not None:
            begins.setdefault(tp.topic, began)
    return found, begins


def _start(
    tp: TP, policy: str, group: Group, known: Mapping[str, Began], has_commits: bool
) -> tuple[Start, Began | None]:
    """Return the start of one partition, and the begin of its topic if that is new."""
    count = group.partitions.get(tp.topic, tp.partition + 1)
    began = known.get(tp.topic)
    first = None
    if began is not None and tp.partition < began.partitions:
        since, is_new = began.at_ms, True
    elif began is not None or has_commits:
        since, is_new = 0, False
    elif group.has_begun:
        since = min((each.at_ms for each in known.values()), default=0)
        is_new = since > 0 and group.now_ms - since < BEGINNING_MS
        first = Began(since, count)
    else:
        since, is_new = group.now_ms, True
        first = Began(since, count)
    if tp.topic in group.created:
        since = 0
        first = first and Began(0, count)
    if policy == "earliest" or since == 0:
        return Start(Place.BEGINNING, is_new), first
    if first is not None and not group.has_begun:
        return Start(Place.END, is_new), first
    return Start(Place.SINCE, is_new, since), first
