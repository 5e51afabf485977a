"""`UsageError`: the command line itself is wrong, so that nothing was done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UsageError(Exception):
    """An argument or option is wrong. The text names it and says what to write. Exit code 2."""


@contextlib.contextmanager
def checked_arguments() -> Iterator[None]:
    """Raise the errors of wrong arguments in the block as a `UsageError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
