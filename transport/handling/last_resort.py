"""The treatment of a message for which there are no more attempts."""

from __future__ import annotations

import logging

from nurseries import exposed
from transport.codecs import DecodeError
from transport.consuming.questions import Questions
from transport.delivering.channel import raise_decode_error
from transport.errors import TransportError
from transport.excerpt import excerpt_of_error
from transport.handling.attempts import Attempts
from transport.handling.dead_letters import DeadLetters
from transport.handling.observer import Events
from transport.handling.plan import Plan
from transport.log import Fields, Log
from transport.message import AnyMessage
from transport.topic import Topic


class LastResort:
    """What the plan of a handler says about messages after their last attempt.

    Args:
        group: the consumer group of the app.
    """

    def __init__(self, plan: Plan, events: Events, log: Log, *, group: str) -> None:
        self._plan = plan
        self._log = log
        self._events = events
        self._letters: DeadLetters | None = None
        if isinstance(plan.dead_letters, Topic):
            self._letters = DeadLetters(plan.dead_letters, log, group=group, handler=plan.name)

    @property
    def fails(self) -> bool:
        """Whether the app ends with the error of the message."""
        return self._plan.dead_letters == "fail"

    async def check(self, questions: Questions) -> None:
        """Check the topic of the dead letters, if there is one; see `DeadLetters.check`."""
        if self._letters is not None:
            await self._letters.check(questions)

    async def apply(self, message: AnyMessage, attempts: Attempts) -> None:
        """Send a dead letter for a message, or skip it, and ack it. Or raise its error.

        A checkpoint, except for a message that is skipped. Cancelled: the message is unacked, and
        its dead letter may be sent or not.
        """
        error = attempts.error
        fields = _fields(self._plan, message, attempts)
        report = self._events.skipped
        if isinstance(error, DecodeError) and await self._is_handled(error):
            pass
        elif self._letters is not None:
            try:
                await self._letters.send(message, attempts)
            except TransportError as failure:
                failure.add_note(
                    f"in the handler {self._plan.name}, for the dead letter of {message.tp} offset"
                    f" {message.offset} in {self._letters.topic.name}"
                )
                raise
            fields["topic"] = self._letters.topic.name
            self._log.often(
                logging.INFO,
                "dead_letter",
                "handler %s: %s offset %d failed at attempt %d and is a dead letter in %s: %s",
                *(self._plan.name, message.tp, message.offset, attempts.failed),
                *(self._letters.topic.name, excerpt_of_error(error)),
                **fields,
            )
            report = self._events.dead_letter
        elif self.fails:
            error.add_note(
                f"in the handler {self._plan.name}, for {message.tp} offset {message.offset},"
                f" attempt {attempts.failed}"
            )
            raise error
        else:
            self._log.often(
                logging.WARNING,
                "skipped",
                "handler %s skips %s offset %d, which failed at attempt %d: %s",
                *(self._plan.name, message.tp, message.offset, attempts.failed),
                excerpt_of_error(error),
                **fields,
            )
        if message.refcount > 0:  # the function may have acked it
            message.ack()
        report(message, attempts)

    async def _is_handled(self, error: DecodeError) -> bool:
        """Await the hook for decode errors of the topic object; return whether there is one."""
        channel = self._plan.topic.channel
        is_key = error.part == "key"
        hook = channel.on_key_decode_error if is_key else channel.on_value_decode_error
        if hook is raise_decode_error:
            return False
        await exposed(hook, error, error.message)
        return True


def _fields(plan: Plan, message: AnyMessage, attempts: Attempts) -> Fields:
    return {
        "handler": plan.name,
        "attempt": attempts.failed,
        "partitions": [message.tp],
        "offset": message.offset,
        "error": attempts.error,
    }
