"""Places in a log, as options name them, and times, as lines show them."""

from __future__ import annotations

import pytest

from transport.command_line.moments import moment_of, shown_time


@pytest.mark.parametrize("text", ["5000w", "1969-12-31T23:59:59.999Z"])
def test_a_time_before_1970_is_that_of_the_first_record(text: str) -> None:
    """Otherwise the broker takes the milliseconds -1 for the end of the log."""
    assert moment_of("--from", text).time == 0.0


@pytest.mark.parametrize("seconds", [253402400000.0, 9_223_372_036_854_775.0])
def test_a_time_beyond_the_calendar_is_shown_as_seconds(seconds: float) -> None:
    assert shown_time(seconds) == f"{seconds:.3f}"
