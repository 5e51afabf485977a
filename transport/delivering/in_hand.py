"""The message or batch that a task handles: the source of the messages that the task sends.

It is set when a task takes a message from an iterator or enters `async with message:`. Tasks that
this task starts afterwards inherit it. A sent message joins the transaction of its source. An
explicit `source` of `send` takes precedence. All this applies only if transactions are on.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, TypeAlias

from transport.arguments import instance
from transport.message import AnyBatch, AnyMessage, Batch, Message

Source: TypeAlias = AnyMessage | AnyBatch

in_hand: ContextVar[Source | None] = ContextVar("in_hand", default=None)


class InHand:
    """A placeholder for the message or batch that the current task handles."""

    def __repr__(self) -> str:
        return "IN_HAND"


IN_HAND: Final = InHand()


def check_source(source: object) -> None:
    """Check the argument `source` of a call that sends."""
    if source is not None:
        instance("source", source, (Message, Batch, InHand), "a Message, a Batch or None")
