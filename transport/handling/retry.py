"""The rule for retries: which failures are retried, how often, and after which delay.

Nothing here knows trio or Kafka.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs

from transport.arguments import (
    plain_function,
    seconds,
    setting,
    whole,
    wrong_type,
    wrong_value,
)

Failures = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


def _failures(name: str, value: Any) -> None:
    kinds = value if isinstance(value, tuple) else (value,)
    if all(isinstance(kind, type) for kind in kinds):
        for kind in kinds:
            if not issubclass(kind, Exception):
                raise wrong_type(name, "classes of Exception: other errors are no failures", kind)
    else:
        plain_function(name, value, "a class of Exception, a tuple of them, or a function")


def _base(name: str, value: Any) -> None:
    seconds(name, value)
    if value < 1:
        raise wrong_value(name, "at least 1, so that the delays do not shrink", value)


@attrs.frozen(kw_only=True)
class Retry:
    """How often a handler tries a message again, and how long it waits before that.

    The parameters have the names and defaults of the library stamina. The delay after attempt `n`
    is `wait_initial * wait_exp_base ** (n - 1)` and a random part of `wait_jitter`, and at most
    `wait_max`. At that bound the random part is subtracted, so that many failed messages do not
    return at the same moment.

    Attributes:
        attempts: the most attempts, with the first. 1: there is no retry.
        wait_initial: seconds before the first retry.
        wait_max: the longest delay, in seconds.
        wait_jitter: the most seconds of the random part.
        wait_exp_base: the factor from one delay to the next, at least 1.
        on: the errors that are retried: a class, several, or a function of the error that returns
            whether to retry. An exception group is retried if each error in it is.
        random: returns a number from 0 to 1 for the random part. For tests.
    """

    attempts: int = attrs.field(default=10, validator=setting(whole, least=1))
    wait_initial: float = attrs.field(default=0.1, validator=setting(seconds, least=0))
    wait_max: float = attrs.field(default=5.0, validator=setting(seconds, least=0))
    wait_jitter: float = attrs.field(default=1.0, validator=setting(seconds, least=0))
    wait_exp_base: float = attrs.field(default=2.0, validator=setting(_base))
    on: Failures = attrs.field(default=Exception, validator=setting(_failures))
    random: Callable[[], float] = attrs.field(
        default=random.random, repr=False, eq=False, validator=setting(plain_function)
    )

    def delay(self, failed: int) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failed: the number of attempts that have failed, at least 1.
        """
        try:
            backoff = min(self.wait_initial * self.wait_exp_base ** (failed - 1), self.wait_max)
        except OverflowError:
            backoff = self.wait_max
        jitter = min(self.wait_jitter, self.wait_max) * self.random()
        return backoff + jitter if backoff + jitter <= self.wait_max else self.wait_max - jitter

    def matches(self, error: Exception) -> bool:
        """Return whether the error is one that is retried."""
        if isinstance(error, ExceptionGroup):
            return all(self.matches(each) for each in error.exceptions)
        if isinstance(self.on, (type, tuple)):
            return isinstance(error, self.on)
        return bool(self.on(error))

    def allows(self, failed: int, error: Exception) -> bool:
        """Return whether another attempt follows after `failed` attempts, the last with `error`."""
        return failed < self.attempts and self.matches(error)
