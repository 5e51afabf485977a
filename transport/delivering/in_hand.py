"""What a handler has in hand: what it sends meanwhile belongs to the same transaction.

The task that takes a message from an iterator, or enters `async with message:`, has it in hand,
and so have the tasks that it starts from then on. Only where transactions are on; what is named to
`send` goes first.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, TypeAlias

from transport.message import Batch, Message

Source: TypeAlias = Message | Batch

in_hand: ContextVar[Source | None] = ContextVar("what a handler has in hand", default=None)


class InHand:
    """Stands for whatever the task has in hand."""

    def __repr__(self) -> str:
        return "IN_HAND"


IN_HAND: Final = InHand()
