"""The text about the errors that ended an app: which errors, frames, causes and notes it has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

import outcome
import pytest

from transport.crash_report import crash_report

NURSERY = "Exceptions from Trio nursery"


def raised(error: BaseException) -> BaseException:
    """Return the error as if a function of the user had raised it: `users_function`."""

    def users_function() -> NoReturn:
        raise error

    return caught(users_function)


def caught(function: Callable[..., object], *args: object) -> BaseException:
    """Return what the function raises, without the frame of this function."""
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001 - this is what is wanted
        own = error.__traceback__
        return error.with_traceback(own and own.tb_next)
    raise AssertionError("nothing was raised")


def raised_inside(error: BaseException, module: str = "transport.some") -> BaseException:
    """Return the error as if a function of another module had raised it."""
    code = "def its_function(error):\n    def innermost():\n        raise error\n    innermost()"
    names: dict[str, object] = {"__name__": module}
    exec(compile(code, f"/somewhere/{module}.py", "exec"), names)
    function = names["its_function"]
    assert callable(function)
    return caught(function, error)


def group(name: str, *errors: BaseException) -> BaseException:
    """Return a group as the library makes it: no frame of the user is in it."""
    return raised_inside(BaseExceptionGroup(name, errors), "nurseries.service")


def report(*errors: BaseException) -> str:
    return crash_report("App(orders)", group("App(orders)", *errors))


def functions_in(text: str) -> list[str]:
    return re.findall(r", in (\w+)$", text, re.MULTILINE)


def test_the_report_is_one_traceback_headed_by_the_app() -> None:
    lines = report(raised(ValueError("no such customer"))).splitlines()
    assert lines[:2] == [
        "App(orders) ended with an error:",
        "Traceback (most recent call last):",
    ]
    assert lines[2].endswith(", in users_function")
    assert lines[-1] == "ValueError: no such customer"
    assert "Group" not in "".join(lines)


def test_an_error_that_is_in_no_group_is_reported() -> None:
    text = crash_report("App(orders)", raised(ValueError("bad")))
    assert text.startswith("App(orders) ended with an error:\nTraceback")
    assert text.endswith("ValueError: bad\n")


def test_the_head_names_the_node_of_the_tree() -> None:
    inner = group("Handlers", group(NURSERY, group("enrich", raised(ValueError("bad")))))
    assert report(inner).startswith("App(orders) ended with an error in Handlers > enrich:\n")


def test_several_errors_are_numbered_in_their_order() -> None:
    text = report(
        raised(ValueError("first")),
        group("Consumer", raised(KeyError("second")), group(NURSERY, raised(OSError("third")))),
    )
    assert text.startswith("App(orders) ended with 3 errors:\n")
    lines = re.findall(r"^(?:Error \d|\w+Error:).*", text, re.MULTILINE)
    assert lines == [
        "Error 1 of 3:",
        "ValueError: first",
        "Error 2 of 3 in Consumer:",
        "KeyError: 'second'",
        "Error 3 of 3 in Consumer:",
        "OSError: third",
    ]


def test_one_error_that_several_tasks_raise_is_reported_once() -> None:
    error = raised(ValueError("bad"))
    text = report(group("Producer", error), group("Consumer", error))
    assert text.startswith("App(orders) ended with an error in ")
    assert text.count("ValueError: bad") == 1


def test_only_the_first_ten_errors_have_a_traceback() -> None:
    text = report(*(raised(ValueError(f"number {number}")) for number in range(12)))
    assert text.startswith("App(orders) ended with 12 errors:\n")
    assert text.count("Traceback") == 10
    assert text.endswith("ValueError: number 9\n\n2 more errors have no traceback here.\n")


@pytest.mark.parametrize(
    "module",
    ["transport.topic", "nurseries", "trio._core._run", "outcome._impl", "contextlib", "transport"],
)
def test_frames_of_the_library_and_of_trio_are_left_out(module: str) -> None:
    def users_caller() -> None:
        raise raised_inside(ValueError("bad"), module)

    assert functions_in(report(caught(users_caller))) == ["users_caller"]


def test_frames_of_other_modules_stay() -> None:
    error = raised_inside(ValueError("bad"), "transport_of_another_project")
    assert functions_in(report(error)) == ["its_function", "innermost"]


def test_frames_of_outcome_and_contextlib_are_left_out() -> None:
    @contextlib.contextmanager
    def users_context() -> Iterator[None]:
        outcome.Error(raised(ValueError("bad"))).unwrap()
        yield

    def users_caller() -> None:
        with users_context():
            pass

    assert functions_in(report(caught(users_caller))) == [
        "users_caller",
        "users_context",
        "users_function",
    ]


def test_an_error_without_a_users_frame_keeps_the_innermost_one() -> None:
    text = report(raised_inside(ValueError("bad")))
    assert functions_in(text) == ["innermost"]
    assert text.endswith("ValueError: bad\n")


def test_an_error_that_was_never_raised_is_reported() -> None:
    assert report(ValueError("bad")).endswith("\nValueError: bad\n")


def test_frames_around_a_nursery_of_the_user_come_first() -> None:
    group_of_nursery = group(NURSERY, raised(ValueError("bad")))

    def users_nursery() -> None:
        raise group_of_nursery

    text = report(caught(users_nursery))
    assert functions_in(text) == ["users_nursery", "users_function"]
    assert "Exception" not in text


def test_a_group_that_the_user_has_raised_counts_as_one_error() -> None:
    both = [raised(ValueError("bad amount")), raised_inside(KeyError("customer"))]
    text = report(raised(ExceptionGroup("a bad order", both)))
    assert text.startswith("App(orders) ended with an error:\n")
    assert functions_in(text) == ["users_function", "users_function", "innermost"]
    assert "ExceptionGroup: a bad order (2 sub-exceptions)" in text
    assert "ValueError: bad amount" in text
    assert "KeyError: 'customer'" in text


def test_a_cause_is_kept_without_internal_frames() -> None:
    def users_caller() -> None:
        try:
            raise raised_inside(KeyError("c17"))
        except KeyError as error:
            raise ValueError("no such customer") from error

    text = report(caught(users_caller))
    assert functions_in(text) == ["users_caller", "users_caller"]
    cause, error = text.split("The above exception was the direct cause of")
    assert "KeyError: 'c17'" in cause
    assert error.endswith("ValueError: no such customer\n")


def test_a_context_is_kept_unless_the_user_suppresses_it() -> None:
    def users_caller(suppress: bool) -> None:
        try:
            raise KeyError("c17")
        except KeyError:
            if suppress:
                raise ValueError("no such customer") from None
            raise ValueError("no such customer")  # noqa: B904 - without a cause

    assert "During handling of the above" in report(caught(users_caller, False))
    assert "KeyError" not in report(caught(users_caller, True))


def test_a_nursery_with_a_cause_is_not_opened() -> None:
    def users_caller() -> None:
        raise ExceptionGroup(NURSERY, [ValueError("bad")]) from KeyError("the cause")

    text = report(caught(users_caller))
    assert "KeyError: 'the cause'" in text
    assert "ValueError: bad" in text


def test_notes_of_errors_and_of_their_groups_are_kept() -> None:
    error = raised(ValueError("bad"))
    error.add_note("in the order 17")
    nursery = group(NURSERY, error)
    nursery.add_note("of the customer c17")
    assert report(nursery).endswith("ValueError: bad\nin the order 17\nof the customer c17\n")
    assert error.__notes__ == ["in the order 17"]


def test_the_groups_of_a_cause_lose_their_internal_frames() -> None:
    def users_caller() -> None:
        raise ValueError("several") from group(NURSERY, raised(KeyError("c17")))

    assert functions_in(report(caught(users_caller))) == [
        "innermost",
        "users_function",
        "users_caller",
    ]


def test_a_program_with_its_own_block_gets_the_same_report() -> None:
    def users_main() -> None:
        raise group("App(orders)", group("Producer", raised_inside(OSError("refused"))))

    text = crash_report("App(orders)", caught(users_main))
    assert text.startswith("App(orders) ended with an error in Producer:\n")
    assert functions_in(text) == ["users_main", "innermost"]
