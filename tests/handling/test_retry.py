"""The rule for retries: the delays, which errors are retried, and bad arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from transport import HandlerTimeout, Retry, TransportError
from transport.handling.plan import NO_RETRY


def delays(count: int, **arguments: Any) -> list[float]:
    """Return the delays before the first retries."""
    retry = Retry(**arguments)
    return [retry.delay(failed) for failed in range(1, count + 1)]


# The delays


def test_delays_grow_by_the_base_up_to_the_longest_wait() -> None:
    assert delays(6, wait_initial=0.1, wait_max=1.0, wait_jitter=0) == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    )
    assert delays(3, wait_initial=1, wait_max=100, wait_jitter=0, wait_exp_base=3) == [1, 3, 9]
    assert delays(3, wait_initial=1, wait_max=100, wait_jitter=0, wait_exp_base=1) == [1, 1, 1]
    assert delays(3, wait_initial=0, wait_jitter=0) == [0, 0, 0]


def test_jitter_is_added_below_the_longest_wait() -> None:
    assert delays(3, wait_initial=1, wait_max=10, wait_jitter=2, random=lambda: 0.5) == [2, 3, 5]


def test_jitter_is_subtracted_at_the_longest_wait() -> None:
    jittered = {"wait_initial": 4, "wait_max": 10, "wait_jitter": 2}
    assert delays(3, **jittered, random=lambda: 1.0) == [6, 10, 8]
    assert delays(3, **jittered, random=lambda: 0.5) == [5, 9, 9]
    assert delays(3, **jittered, random=lambda: 0.0) == [4, 8, 10]


def test_jitter_is_at_most_the_longest_wait() -> None:
    assert delays(1, wait_initial=1, wait_max=1, wait_jitter=50, random=lambda: 1.0) == [0]
    assert delays(1, wait_initial=1, wait_max=1, wait_jitter=50, random=lambda: 0.25) == [0.75]


def test_no_number_of_failures_is_too_many() -> None:
    retry = Retry(attempts=10**6, wait_initial=0.1, wait_max=30, wait_jitter=0, wait_exp_base=10)
    assert retry.delay(10**5) == 30


@given(
    failed=st.integers(1, 10**6),
    initial=st.floats(0, 1e6),
    most=st.floats(0, 1e6),
    jitter=st.floats(0, 1e6),
    base=st.floats(1, 1e6),
    part=st.floats(0, 1),
)
def test_a_delay_is_never_below_0_or_beyond_the_longest_wait(
    failed: int, initial: float, most: float, jitter: float, base: float, part: float
) -> None:
    retry = Retry(
        wait_initial=initial,
        wait_max=most,
        wait_jitter=jitter,
        wait_exp_base=base,
        random=lambda: part,
    )
    assert 0 <= retry.delay(failed) <= most


def test_the_random_part_differs_between_messages() -> None:
    retry = Retry(wait_initial=1, wait_max=100, wait_jitter=1)
    found = {retry.delay(1) for _ in range(20)}
    assert len(found) > 10
    assert all(1 <= delay <= 2 for delay in found)


def test_the_defaults_are_those_of_stamina() -> None:
    retry = Retry()
    assert (retry.attempts, retry.wait_initial, retry.wait_max) == (10, 0.1, 5.0)
    assert (retry.wait_jitter, retry.wait_exp_base) == (1.0, 2.0)


# Which errors are retried


def test_as_many_attempts_are_made_as_allowed() -> None:
    retry = Retry(attempts=3)
    assert [retry.allows(failed, ValueError()) for failed in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    assert not NO_RETRY.allows(1, ValueError())


def test_an_error_is_retried_if_it_is_of_a_named_class() -> None:
    assert Retry(on=LookupError).matches(KeyError())
    assert not Retry(on=LookupError).matches(ValueError())
    assert Retry(on=(LookupError, ValueError)).matches(ValueError())
    assert not Retry(on=(LookupError, ValueError)).matches(OSError())
    assert not Retry(on=()).matches(OSError())


def test_an_error_is_retried_if_the_function_says_so() -> None:
    retry = Retry(on=lambda error: "again" in str(error))
    assert retry.allows(1, ValueError("try again"))
    assert not retry.allows(1, ValueError("never"))


def test_a_timeout_of_the_handler_is_a_timeout_and_an_error_of_the_transport() -> None:
    for kind in (HandlerTimeout, TimeoutError, TransportError):
        assert Retry(on=kind).matches(HandlerTimeout("too slow"))


def test_a_group_is_retried_only_if_each_of_its_errors_is() -> None:
    retry = Retry(on=(OSError, ValueError))
    good = ExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError()])])
    bad = ExceptionGroup("", [OSError(), ExceptionGroup("", [ValueError(), KeyError()])])
    assert retry.matches(good)
    assert not retry.matches(bad)
    assert Retry(on=lambda error: isinstance(error, (OSError, ValueError))).matches(good)
    assert Retry().matches(bad)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"attempts": 0}, ValueError, "attempts must be"),
        ({"attempts": 1.5}, TypeError, "attempts must be"),
        ({"wait_initial": -1}, ValueError, "wait_initial must be"),
        ({"wait_max": -1}, ValueError, "wait_max must be"),
        ({"wait_max": float("nan")}, ValueError, "wait_max must be"),
        ({"wait_max": float("inf")}, ValueError, "wait_max must be"),
        ({"wait_jitter": "1"}, TypeError, "wait_jitter must be"),
        ({"wait_jitter": -0.5}, ValueError, "wait_jitter must be"),
        ({"wait_exp_base": float("nan")}, ValueError, "wait_exp_base must be"),
        ({"wait_exp_base": 0.5}, ValueError, "at least 1, so that the delays do not shrink"),
        ({"wait_exp_base": 0}, ValueError, "wait_exp_base must be"),
        ({"on": KeyboardInterrupt}, TypeError, "classes of Exception: other errors are no"),
        ({"on": (ValueError, BaseException)}, TypeError, "on must be classes of Exception"),
        ({"on": (ValueError, "OSError")}, TypeError, "on must be a class of Exception, a tuple"),
        ({"on": "OSError"}, TypeError, "on must be a class of Exception, a tuple"),
        ({"on": None}, TypeError, "on must be a class of Exception, a tuple"),
        ({"on": trio.sleep}, TypeError, "or a function that is not async, not <function"),
        ({"random": 0.5}, TypeError, "random must be"),
    ],
)
def test_a_bad_argument_is_refused_with_its_name(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        Retry(**arguments)


def test_the_random_source_is_no_part_of_the_value() -> None:
    assert Retry(random=lambda: 0.5) == Retry()
    assert "random" not in repr(Retry())


def test_arguments_have_names() -> None:
    with pytest.raises(TypeError):
        Retry(5)  # type: ignore[misc]
