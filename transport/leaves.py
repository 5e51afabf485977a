"""`leaves`: the errors in nested exception groups, for texts and exit codes."""

from __future__ import annotations

from collections.abc import Iterator


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the errors in a group and in the groups in it, in order.

    An error that is no group is yielded itself. None: nothing is yielded.
    """
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    elif error is not None:
        yield error
