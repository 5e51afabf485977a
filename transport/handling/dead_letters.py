"""Dead letters: messages whose handler has failed, in a topic of their own.

A dead letter has the key, the value and the headers of its message, as bytes. Its headers with the
prefix `dead.` give the place of the message and the reason of the failure. Look here for the names
of these headers, for their bounds, and for what happens if a dead letter cannot be sent.
"""

from __future__ import annotations

import logging
import traceback

import trio

from transport.backoff import Backoff
from transport.consuming.questions import Questions
from transport.errors import (
    AppClosed,
    AuthorizationFailed,
    BrokerUnavailable,
    DeliveryFailed,
    MessageTooLarge,
    UnknownTopic,
)
from transport.excerpt import excerpt_of_error
from transport.handling.attempts import Attempts
from transport.log import Log
from transport.message import AnyMessage
from transport.producing.pending import outgoing_of
from transport.topic import Topic
from transport.types import Headers

PREFIX = "dead."
# The most bytes of the headers with the error's text and stack.
_MOST_TEXT, _MOST_STACK = 1024, 4096
# A dead letter of a dead letter keeps these headers, which name the first source.
_OF_FIRST_SOURCE = ("topic", "partition", "offset", "timestamp")
# The most attempts to send a dead letter, and the longest wait between two, in seconds.
_MOST_SENDS, _LONGEST_WAIT = 5, 1.0


def letter_headers(message: AnyMessage, attempts: Attempts, *, group: str, handler: str) -> Headers:
    """Return the headers of a message's dead letter.

    The message's own headers come first. If the message is a dead letter itself, the new one keeps
    the first source, replaces the error, and counts one more redrive.
    """
    own = message.headers
    before = {name: value for name, value in own if name.startswith(PREFIX)}
    if any(before.get(PREFIX + name) is None for name in _OF_FIRST_SOURCE):
        before = {}  # not of a dead letter, and half of a place would be a wrong place
    error = attempts.error
    timestamp = message.timestamp
    facts = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "timestamp": "" if timestamp is None else f"{timestamp:.3f}",
        "group": group,
        "handler": handler,
        "error": f"{type(error).__module__}.{type(error).__qualname__}",
        "attempts": str(attempts.failed),
        "first": f"{attempts.first:.3f}",
        "last": f"{attempts.last:.3f}",
        "redrives": str(_redrives(before)),
        "text": _text_of(error),
        "stack": _stack_of(error),
    }
    headers = [(name, value) for name, value in own if not name.startswith(PREFIX)]
    for name, fact in facts.items():
        kept = before.get(PREFIX + name) if name in _OF_FIRST_SOURCE else None
        headers.append((PREFIX + name, _bounded(name, fact) if kept is None else kept))
    return headers


def _stack_of(error: Exception) -> str:
    """Return the traceback. A long text at its end would leave no room for the frames."""
    *frames, text = traceback.format_exception(error)
    return "".join(frames) + _bounded("text", text).decode()


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the error of a user may not have a text
        return excerpt_of_error(RuntimeError(f"{type(error).__name__} has no text"))


def _redrives(before: dict[str, bytes | None]) -> int:
    """Return the number of redrives: how often a dead letter of the message was handled again."""
    if not before:
        return 0
    try:
        return int(before.get(PREFIX + "redrives") or b"0") + 1
    except ValueError:
        return 1


def _bounded(name: str, fact: str) -> bytes:
    """Return a text as UTF-8. Of a long stack the end is kept, because the cause is there."""
    encoded = fact.encode("utf-8", "replace")
    if name == "stack":
        return encoded[-_MOST_STACK:].decode("utf-8", "ignore").encode()
    return encoded[:_MOST_TEXT].decode("utf-8", "ignore").encode()


class DeadLetters:
    """The dead letters of one handler.

    Args:
        topic: the topic of the dead letters.
        group: the consumer group of the app.
        handler: the name of the handler.
    """

    def __init__(self, topic: Topic, log: Log, *, group: str, handler: str) -> None:
        self.topic = topic
        self._log = log
        self._group = group
        self._handler = handler

    async def check(self, questions: Questions) -> None:
        """Check the topic before the first dead letter needs it.

        A warning says that it does not exist, or that it cannot be checked: an app that may write
        to a topic may lack the right to read its settings. A checkpoint.

        Raises ValueError: the topic is compacted, so that dead letters of one key would replace
        each other.
        """
        name = self.topic.name
        try:
            settings = await questions.topic_settings(name)
        except UnknownTopic:
            self._log.warning(
                "letters_topic_absent",
                "handler %s: the topic %s of its dead letters does not exist. Create it: if the"
                " broker does not create it either, the app ends at the first dead letter",
                *(self._handler, name),
                handler=self._handler,
                topic=name,
            )
        except (BrokerUnavailable, AuthorizationFailed) as error:
            self._log.warning(
                "letters_topic_unchecked",
                "handler %s: cannot check the topic %s: %s",
                *(self._handler, name, error),
                handler=self._handler,
                topic=name,
                error=error,
            )
        except AppClosed:
            pass
        else:
            if "compact" in settings.get("cleanup.policy", ""):
                raise ValueError(
                    f"the topic {name!r} of the dead letters of the handler {self._handler!r} is"
                    " compacted, so a dead letter would replace those before it with the same key:"
                    " set its cleanup.policy to delete"
                )

    async def send(self, message: AnyMessage, attempts: Attempts) -> None:
        """Send the dead letter of an unacked message, and wait until it is delivered.

        With transactions, it is sent in the transaction of the message. A checkpoint. Cancelled:
        the dead letter may be sent or not.

        Raises:
            DeliveryFailed: the dead letter was not delivered, also after retries.
            TransactionAborted: the message will be redelivered.
        """
        headers = letter_headers(message, attempts, group=self._group, handler=self._handler)
        backoff, failures = Backoff(_LONGEST_WAIT), 0
        while True:
            try:
                return await self._send(message, headers)
            except MessageTooLarge:
                if not (headers := _without_last(headers)):
                    raise
            except DeliveryFailed as error:
                failures += 1
                if failures == _MOST_SENDS:
                    raise
                self._log.often(
                    logging.WARNING,
                    "dead_letter_resent",
                    "handler %s: the dead letter of %s offset %d was not delivered to %s and is"
                    " sent again: %s",
                    *(self._handler, message.tp, message.offset, self.topic.name, error),
                    handler=self._handler,
                    partitions=[message.tp],
                    offset=message.offset,
                    topic=self.topic.name,
                    error=error,
                )
                await backoff.wait()

    @trio.lowlevel.enable_ki_protection
    async def _send(self, message: AnyMessage, headers: Headers) -> None:
        writer, check = self.topic.writer_for(message)
        record = message.record
        outgoing = outgoing_of(self.topic.name, record.key, record.value, None, None, headers)
        if (tracing := self.topic.app.tracing) is not None:
            tracing.forwarding(outgoing)
        await writer.send_while(check, outgoing)
        await outgoing.wait()


def _without_last(headers: Headers) -> Headers:
    """Return the headers without the stack, or else without the text; empty: both are gone."""
    for name in (PREFIX + "stack", PREFIX + "text"):
        if any(header == name for header, _ in headers):
            return [(header, value) for header, value in headers if header != name]
    return ()
