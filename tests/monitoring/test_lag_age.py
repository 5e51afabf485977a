"""The age of the oldest uncommitted message, from samples of the end of the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.monitoring.lag_age import LagAge


def test_the_age_counts_from_the_sample_that_first_had_the_message() -> None:
    age = LagAge()
    for end, now in [(10, 0.0), (20, 5.0), (20, 6.0), (30, 9.0)]:
        age.add(end, now)
    assert [age.seconds(committed, 12.0) for committed in (9, 10, 19, 20, 29)] == [12, 7, 7, 3, 3]


def test_a_group_that_has_caught_up_has_no_age() -> None:
    age = LagAge()
    assert age.seconds(0, 5.0) == 0.0
    age.add(10, 0.0)
    assert age.seconds(10, 100.0) == 0.0


def test_a_log_that_lost_its_end_begins_again() -> None:
    age = LagAge()
    age.add(100, 0.0)
    age.add(5, 10.0)
    assert age.seconds(0, 11.0) == 1.0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.1, 10)), min_size=1, max_size=2000),
    st.data(),
)
def test_the_age_is_right_up_to_the_time_between_two_samples(
    steps: list[tuple[int, float]], data: st.DataObject
) -> None:
    """A message is written between two samples. The later of them gives its age."""
    age, seen, end, now, committed = LagAge(), [], 0, 0.0, 0
    for written, passed in steps:
        end, now = end + written, now + passed
        seen += [now] * written  # the sample at which each message is first in the log
        age.add(end, now)
        committed = data.draw(st.integers(committed, end)) if len(steps) < 100 else committed
        age.forget_below(committed)
    true = now - seen[committed] if committed < end else 0.0
    found = age.seconds(committed, now)
    if len(steps) < 100:
        assert found == true
    else:
        assert found <= true  # coarse samples are never too old


def test_the_memory_is_bounded() -> None:
    age = LagAge()
    for end in range(1, 100_000):
        age.add(end, float(end))
    assert len(age._ends) == len(age._times) <= 512
    assert age.seconds(0, 100_000.0) == 99_999.0
