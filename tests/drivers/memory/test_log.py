"""The log of one partition, compared with a simple model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.drivers.memory.log import FRAME_BYTES, Log
from transport.errors import OffsetOutOfRange

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 50)),
        st.tuples(st.just("skip"), st.integers(1, 3)),
        st.tuples(st.just("trim"), st.integers(0, 40)),
    ),
    max_size=40,
)


def build(steps: list[tuple[str, int]]) -> tuple[Log, dict[int, int]]:
    """Return the log, and the size of the value at each offset with a record."""
    log, sizes = Log(), {}
    for step, number in steps:
        if step == "append":
            sizes[log.append(None, b"." * number, (), 0)] = number
        elif step == "skip":
            log.skip(number)
        else:
            log.trim(number)
            sizes = {offset: size for offset, size in sizes.items() if offset >= log.start}
    return log, sizes


@given(steps=STEPS, max_bytes=st.integers(1, 300))
def test_consecutive_reads_return_each_record_once_in_order(
    steps: list[tuple[str, int]], max_bytes: int
) -> None:
    log, sizes = build(steps)
    for start in range(log.start, log.end + 1):
        position, found = start, []
        while position < log.end:
            records, after, weight = log.read(position, max_bytes)
            assert after > position
            assert weight == sum(sizes[r.offset] + FRAME_BYTES for r in records)
            assert weight <= max_bytes or len(records) == 1
            position = after
            found += [record.offset for record in records]
        assert found == sorted(offset for offset in sizes if offset >= start)
        assert position == log.end


@given(steps=STEPS, ends=st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_committed_records_are_those_that_reader_gets(
    steps: list[tuple[str, int]], ends: list[bool | None]
) -> None:
    """The log has committed, aborted and open transactions."""
    log, _ = build(steps)
    for number, committed in enumerate(ends):
        log.append(None, b"", (), 0, transaction=number)
        log.append(None, b"", (), 0)
        if committed is not None:
            log.end_transaction(number, committed=committed)
    position, found = log.start, []
    while position < log.stable_end:
        records, position, _ = log.read(position, 100, committed=True)
        found += records
    assert log.committed_records() == found


@given(steps=STEPS)
def test_read_returns_as_much_as_fits(steps: list[tuple[str, int]]) -> None:
    log, sizes = build(steps)
    total = sum(sizes.values()) + FRAME_BYTES * len(sizes)
    records, _, _ = log.read(log.start, total)
    assert len(records) == len(sizes)


@given(steps=STEPS)
def test_read_outside_log_is_out_of_range(steps: list[tuple[str, int]]) -> None:
    log, _ = build(steps)
    assert 0 <= log.start <= log.end
    for offset in (log.start - 1, log.end + 1):
        with pytest.raises(OffsetOutOfRange):
            log.read(offset, 100)
