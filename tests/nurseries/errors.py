"""The errors in an exception group."""

from __future__ import annotations


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in a group and in its groups; of an error outside of a group: itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
