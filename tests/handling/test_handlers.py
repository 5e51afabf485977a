"""The handlers of an app: when they start and stop, and which ones are refused."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import AsyncMock, Mock

import attrs
import pytest
import trio

from nurseries import Node
from tests.apps import app_on
from tests.handling.calls import Calls, broker_with, handling, put
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from transport import App, AppClosed, Message
from transport.drivers.memory import MemoryBroker
from transport.handling.plan import BatchOptions, BatchSize, HandlerOptions, Plan


async def ignore(message: Message) -> None:
    """Handle a message by doing nothing."""


def ignore_plainly(message: Message) -> None:
    """Do nothing, without `async`."""


@functools.wraps(ignore)
def wrapped(message: Message) -> Any:
    """Call an async function, as a decorator of it does."""
    return ignore(message)


async def ignore_two(message: Message, other: Message) -> None:
    """Take more arguments than a handler gives."""


async def yield_one(message: Message) -> AsyncIterator[int]:
    """Return an async iterator, which cannot be awaited."""
    yield 1


class Ignoring:
    """Objects that handle a message by doing nothing."""

    async def __call__(self, message: Message) -> None:
        """Do nothing."""

    async def method(self, message: Message) -> None:
        """Do nothing."""


def names(node: Node) -> dict[str, list[str]]:
    """Return the names of the children of each node."""
    found = {node.name: [child.name for child in node.children]}
    for child in node.children:
        found |= names(child)
    return found


# Start and end


@jumping
async def test_each_handler_of_a_topic_gets_all_of_its_messages() -> None:
    first, second = Calls(), Calls()
    app = app_on(broker_with("aab"))
    orders = app.topic("orders")
    app.handler(orders, first, name="first")
    app.handler(orders, second, name="second", order="key", concurrency=2)
    async with app:
        await trio.sleep(1)
    assert first.done == [0, 1, 2]
    assert sorted(second.done) == [0, 1, 2]


@jumping
async def test_many_handlers_of_a_topic_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = app_on(broker_with("a"))
    for number in range(9):
        app.handler(app.topic("orders"), ignore, name=f"{number}")
    async with app:
        await trio.sleep(1)
    assert warnings_in(caplog) == []


@jumping
async def test_iterators_beside_a_handler_get_all_messages_as_well() -> None:
    calls, taken = Calls(), []
    app = app_on(broker_with("aab"))
    orders = app.topic("orders")
    app.handler(orders, calls)
    async with app:
        async for message in orders:
            taken.append(message.offset)
            if len(taken) == 3:
                break
        await trio.sleep(1)
    assert taken == calls.done == [0, 1, 2]


@jumping
async def test_handlers_that_are_added_to_an_open_app_start_at_once() -> None:
    first, second, third = Calls(), Calls(), Calls()
    broker = broker_with("aab")
    async with app_on(broker) as app:
        orders = app.topic("orders")
        app.handler(orders, first, name="first")
        app.handler(orders, second, name="second")
        await trio.sleep(1)
        app.handler(orders, third, name="third")
        await trio.sleep(1)
        put(broker, "c")
        await trio.sleep(1)
    assert first.done == second.done == [0, 1, 2, 3]
    assert third.done == [3]


@jumping
async def test_a_handler_that_is_added_while_the_others_start_starts_too() -> None:
    calls = Calls()
    broker = broker_with("a")
    app = app_on(broker)
    orders = app.topic("orders")

    async def adds_another(message: Message) -> None:
        if message.offset == 0:
            app.handler(orders, calls)

    app.handler(orders, adds_another)
    async with app:
        await trio.sleep(1)
        put(broker, "b")
        await trio.sleep(1)
    assert calls.done == [1]


@pytest.mark.parametrize("has_another", [False, True])
@jumping
async def test_a_handler_that_is_added_at_the_end_of_the_app_disturbs_nothing(
    has_another: bool,
) -> None:
    app = app_on(broker_with("aab"))
    if has_another:
        app.handler(app.topic("orders"), ignore, name="another")
    async with app:
        app.handler(app.topic("orders"), ignore)


@pytest.mark.parametrize("has_another", [False, True])
@jumping
async def test_no_handler_can_be_added_to_a_closed_app(has_another: bool) -> None:
    app = app_on(broker_with())
    if has_another:
        app.handler(app.topic("orders"), ignore, name="another")
    async with app:
        pass
    with pytest.raises(AppClosed, match="'group' is closing or closed"):
        app.handler(app.topic("orders"), ignore)


@jumping
async def test_the_tree_has_each_handler_with_its_workers() -> None:
    async with handling(broker_with("ab"), Calls(5.0), order="key", concurrency=4) as app:
        await trio.sleep(1)
        below = names(app.tree())
        [handler] = app.handlers
        assert below["Handlers"] == ["Handler worker"]
        assert below["Handler worker"][0] == "retries"
        assert {"worker 1", "worker 2"} <= set(below["Handler worker"]) - {"worker 4"}
        assert (handler.running, handler.waiting) == (2, 0)


@jumping
async def test_a_handler_counts_what_has_become_of_its_messages() -> None:
    def fails(message: Message, attempt: int) -> Exception | None:
        return ValueError() if message.offset == 2 else None

    broker = broker_with("aab")
    async with handling(
        broker, Calls(fails=fails), dead_letters="skip", filter=lambda message: message.offset
    ) as app:
        await trio.sleep(1)
        [handler] = app.handlers
        counts = handler.counts
    assert (counts.handled, counts.filtered, counts.failed, counts.skipped) == (1, 1, 1, 1)
    assert counts.dead_letters == 0


# Arguments


@pytest.mark.parametrize(
    ("call", "options", "fields"),
    [
        (App.handler, HandlerOptions, [Plan]),
        (App.batch_handler, BatchOptions, [Plan, BatchSize]),
    ],
)
def test_the_keywords_of_a_handler_are_those_that_type_checkers_know(
    call: Callable[..., Any], options: type, fields: list[type]
) -> None:
    """Compare the names, and the defaults with those of the checked arguments."""
    defaults = {field.name: field.default for each in fields for field in attrs.fields(each)}
    defaults["retry"] = None  # which stands for one attempt
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "name"
    }
    assert given == {name: defaults[name] for name in options.__annotations__}


def test_a_decorated_function_is_returned_as_it_is() -> None:
    app = App("group", MemoryBroker())
    assert app.handler(app.topic("orders"), ignore) is ignore
    assert app.handler(app.topic("orders"), name="another")(ignore) is ignore
    assert [handler.plan.name for handler in app.handlers] == ["ignore", "another"]


def test_a_handler_of_a_callable_object_is_named_after_its_class() -> None:
    app = App("group", MemoryBroker())
    app.handler(app.topic("orders"), Calls())
    assert [handler.name for handler in app.handlers] == ["Handler Calls"]


@pytest.mark.parametrize(
    "fn",
    [
        ignore_plainly,
        functools.partial(ignore_plainly),
        yield_one,
        Ignoring,
        Ignoring.method,
        ignore_two,
        functools.partial(ignore_two, None, None),
    ],
)
@pytest.mark.parametrize("kind", ["handler", "batch_handler"])
def test_what_is_no_async_function_of_a_message_is_refused(kind: str, fn: Any) -> None:
    """It would fail for each message, after its effects, and all messages become dead letters."""
    app = App("group", MemoryBroker())
    with pytest.raises(TypeError, match="fn must be an async function of a message or a batch"):
        getattr(app, kind)(app.topic("orders"), fn, name="a")
    assert len(app.handlers) == 0


@pytest.mark.parametrize(
    "fn",
    [
        Ignoring(),
        Ignoring().method,
        functools.partial(ignore_two, None),
        wrapped,
        lambda message: ignore(message),
        AsyncMock(),
        Mock(),
    ],
)
def test_all_that_may_be_an_async_function_of_a_message_is_accepted(fn: Any) -> None:
    app = App("group", MemoryBroker())
    app.handler(app.topic("orders"), fn, name="a")
    assert len(app.handlers) == 1


@pytest.mark.parametrize("kind", ["handler", "batch_handler"])
def test_a_decorator_without_a_topic_is_refused(kind: str) -> None:
    app: Any = App("group", MemoryBroker())
    with pytest.raises(TypeError, match=r"topic must be .*ignore.*: write @app.handler\(topic\)"):
        getattr(app, kind)(ignore)
    with pytest.raises(TypeError, match="topic must be a topic object of the app, made by"):
        getattr(app, kind)("orders")


def test_a_second_handler_of_the_same_name_is_refused() -> None:
    app = App("group", MemoryBroker())
    app.handler(app.topic("orders"), ignore)
    with pytest.raises(ValueError, match="has a handler 'ignore' already: pass another name="):
        app.handler(app.topic("others"), ignore)
    assert len(app.handlers) == 1


def test_topics_of_another_app_are_refused() -> None:
    app, other = App("group", MemoryBroker()), App("other", MemoryBroker())
    with pytest.raises(ValueError, match="'ignore' reads a topic of another app"):
        app.handler(other.topic("orders"), ignore)
    with pytest.raises(ValueError, match="dead_letters is a topic of another app"):
        app.handler(app.topic("orders"), ignore, dead_letters=other.topic("dead"))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be"),
        ({"concurrency": True}, TypeError, "concurrency must be"),
        ({"order": "keys"}, ValueError, "order must be"),
        ({"key": len}, ValueError, 'key needs order="key"'),
        ({"key": "name", "order": "key"}, TypeError, "key must be"),
        ({"filter": "name"}, TypeError, "filter must be"),
        ({"key": ignore, "order": "key"}, TypeError, "key must be a function that is not async"),
        ({"filter": ignore}, TypeError, "filter must be a function that is not async"),
        ({"filter": Ignoring()}, TypeError, "filter must be a function that is not async"),
        ({"timeout": 0}, ValueError, "timeout must be"),
        ({"retry": 5}, TypeError, "retry must be a Retry"),
        ({"dead_letters": "dead"}, TypeError, "dead_letters must be a topic object"),
        ({"dead_letters": None}, TypeError, "dead_letters must be a topic object"),
        ({"name": 5}, TypeError, "name must be"),
    ],
)
def test_a_bad_option_is_refused_and_no_handler_is_added(
    options: dict[str, object], error: type[Exception], text: str
) -> None:
    app = App("group", MemoryBroker())
    with pytest.raises(error, match=re.escape(text)):
        app.handler(app.topic("orders"), ignore, **options)
    with pytest.raises(TypeError, match="topic must be a topic object"):
        app.handler("orders", ignore)
    with pytest.raises(TypeError, match="fn must be"):
        app.handler(app.topic("orders"), 5)
    assert len(app.handlers) == 0


def test_a_pattern_is_no_topic_for_dead_letters() -> None:
    app = App("group", MemoryBroker())
    with pytest.raises(ValueError, match="must be a topic with a name"):
        app.handler(app.topic("orders"), ignore, dead_letters=app.topic(re.compile("dead.*")))


# Circles


def letters_between(app: App, *ways: tuple[str, str | None]) -> None:
    """Add a handler for each pair: a topic, and the topic of its dead letters."""
    for number, (topic, letters) in enumerate(ways):
        dead_letters = "skip" if letters is None else app.topic(letters)
        app.handler(app.topic(topic), ignore, name=f"{number}", dead_letters=dead_letters)


@pytest.mark.parametrize(
    "ways",
    [
        [("orders", "orders")],
        [("orders", "dead"), ("dead", "orders")],
        [("orders", "dead"), ("dead", "buried"), ("buried", "orders")],
        [("orders", "dead"), ("dead", "buried"), ("buried", "dead")],
        # Several handlers read each topic.
        [("orders", None), ("orders", "dead"), ("dead", None), ("dead", "orders")],
        [("dead", "buried"), ("orders", "dead"), ("dead", "orders")],
    ],
)
def test_handlers_whose_dead_letters_would_go_in_a_circle_are_refused(
    ways: list[tuple[str, str | None]],
) -> None:
    app = App("group", MemoryBroker())
    with pytest.raises(ValueError, match="would come back to it, through"):
        letters_between(app, *ways)
    assert len(app.handlers) == len(ways) - 1


def test_a_pattern_that_matches_its_own_dead_letter_topic_is_refused() -> None:
    app = App("group", MemoryBroker())
    pattern = app.topic(re.compile(r"orders(\..*)?"))
    with pytest.raises(ValueError, match=r"would come back to it, through orders\.dead"):
        app.handler(pattern, ignore, dead_letters=app.topic("orders.dead"))
    app.handler(pattern, ignore, dead_letters=app.topic("dead.orders"))


def test_dead_letters_that_come_to_an_end_are_no_circle() -> None:
    app = App("group", MemoryBroker())
    letters_between(
        app, ("orders", "dead"), ("others", "dead"), ("dead", "buried"), ("buried", None)
    )
    assert len(app.handlers) == 4
