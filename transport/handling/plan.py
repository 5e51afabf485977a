"""The arguments of `App.handler`, checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, Literal, TypeAlias, TypedDict

import attrs

from transport.arguments import (
    async_function,
    choice,
    flag,
    plain_function,
    seconds,
    setting,
    text,
    whole,
    wrong_type,
)
from transport.handling.retry import Retry
from transport.message import AnyMessage, Message
from transport.topic import Topic
from transport.types import K, V

NO_RETRY = Retry(attempts=1)

Order: TypeAlias = Literal["partition", "key", "none"]
AfterFailure: TypeAlias = Topic[Any, Any] | Literal["skip", "fail"]


class HandlerOptions(TypedDict, Generic[K, V], total=False):
    """The options of `App.handler`, for type checkers."""

    concurrency: int
    order: Order
    key: Callable[[Message[K, V]], Hashable] | None
    filter: Callable[[Message[K, V]], object] | None
    timeout: float | None
    retry: Retry | None
    dead_letters: AfterFailure


class BatchOptions(TypedDict, Generic[K, V], total=False):
    """The options of `App.batch_handler`, for type checkers."""

    max_size: int
    linger: float
    split: bool
    concurrency: int
    filter: Callable[[Message[K, V]], object] | None
    timeout: float | None
    retry: Retry | None
    dead_letters: AfterFailure


def _policy(name: str, value: Any) -> None:
    if not isinstance(value, Topic) and value not in ("skip", "fail"):
        raise wrong_type(name, 'a topic object of the app, "skip" or "fail"', value)
    if isinstance(value, Topic) and value.pattern is not None:
        raise ValueError(f"{name} must be a topic with a name, not the pattern {value.name!r}")


def _instance(kind: type, expected: str) -> Callable[[object, Any, Any], None]:
    def validate(_: object, attribute: Any, value: Any) -> None:
        if not isinstance(value, kind):
            raise wrong_type(attribute.name, expected, value)

    return validate


def check_topic(topic: object, kind: type = Topic) -> None:
    """Check the topic of a handler when its decorator is made.

    `@app.handler` without a topic would otherwise replace the function by a decorator, without an
    error and without a handler.
    """
    if not isinstance(topic, kind):
        error = wrong_type("topic", "a topic object of the app, made by app.topic()", topic)
        raise TypeError(f"{error}: write @app.handler(topic)") if callable(topic) else error


def _retry(retry: Any) -> Any:
    return NO_RETRY if retry is None else retry


@attrs.frozen(kw_only=True)
class BatchSize:
    """The batches of a handler; see `App.batch_handler` for each attribute."""

    max_size: int = attrs.field(default=1024, validator=setting(whole, least=1))
    linger: float = attrs.field(default=0.0, validator=setting(seconds, least=0))
    split: bool = attrs.field(default=True, validator=setting(flag))


@attrs.frozen(kw_only=True)
class Plan:
    """What a handler does with which messages; see `App.handler` for each attribute.

    Attributes:
        batch: the function takes batches of this size. None: it takes single messages.
    """

    name: str = attrs.field(validator=setting(text))
    topic: Topic[Any, Any] = attrs.field(validator=_instance(Topic, "a topic object of the app"))
    fn: Callable[[Any], Awaitable[object]] = attrs.field(
        validator=setting(async_function, expected="an async function of a message or a batch")
    )
    concurrency: int = attrs.field(default=1, validator=setting(whole, least=1))
    order: Order = attrs.field(
        default="partition", validator=setting(choice, choices=("partition", "key", "none"))
    )
    key: Callable[[AnyMessage], Hashable] | None = attrs.field(
        default=None, validator=setting(plain_function, optional=True)
    )
    filter: Callable[[AnyMessage], object] | None = attrs.field(
        default=None, validator=setting(plain_function, optional=True)
    )
    timeout: float | None = attrs.field(default=None, validator=setting(seconds, optional=True))
    retry: Retry = attrs.field(
        default=NO_RETRY,
        converter=_retry,
        validator=_instance(Retry, "a Retry, such as Retry(attempts=5), or None"),
    )
    dead_letters: AfterFailure = attrs.field(default="fail", validator=setting(_policy))
    batch: BatchSize | None = None

    @property
    def decodes_early(self) -> bool:
        """Whether a message is decoded before its place in the order is known."""
        return self.key is not None or self.filter is not None

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.order != "key":
            raise ValueError(f'key needs order="key", not {self.order!r}')
        if isinstance(self.dead_letters, Topic) and self.dead_letters.app is not self.topic.app:
            raise ValueError("dead_letters is a topic of another app: make it with app.topic()")


def name_of(fn: object) -> str:
    """Return the name of a function, as the default name of its handler."""
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__
