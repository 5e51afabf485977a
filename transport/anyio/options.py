"""The options of handlers on asyncio, for type checkers.

They are those of `transport.handling.plan`, with a topic object of asyncio for the dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, Literal, TypeAlias, TypedDict

from transport.anyio.topic import AioTopic
from transport.handling.plan import Order
from transport.handling.retry import Retry
from transport.message import Message
from transport.types import K, V

AioAfterFailure: TypeAlias = AioTopic[Any, Any] | Literal["skip", "fail"]


class AioHandlerOptions(TypedDict, Generic[K, V], total=False):
    """The options of `AioApp.handler`."""

    concurrency: int
    order: Order
    key: Callable[[Message[K, V]], Hashable] | None
    filter: Callable[[Message[K, V]], object] | None
    timeout: float | None
    retry: Retry | None
    dead_letters: AioAfterFailure


class AioBatchOptions(TypedDict, Generic[K, V], total=False):
    """The options of `AioApp.batch_handler`."""

    max_size: int
    linger: float
    split: bool
    concurrency: int
    filter: Callable[[Message[K, V]], object] | None
    timeout: float | None
    retry: Retry | None
    dead_letters: AioAfterFailure
