"""The verb `send`: write lines, files or JSON lines to a topic, and wait until they are written."""

from __future__ import annotations

import collections
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import attrs
import trio
from cyclopts import Parameter

from transport.app import App
from transport.command_line.connection import Connection
from transport.command_line.input_lines import Input, inputs
from transport.command_line.progress import counting
from transport.command_line.record_lines import Unsent, unsent_of
from transport.command_line.types import Types, ValueType
from transport.command_line.usage import UsageError
from transport.errors import DeliveryFailed
from transport.producing.delivery import Delivery
from transport.types import Headers


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Form:
    """The options that say how a text of the input becomes a message."""

    key: Annotated[str | None, Parameter(name=("--key", "-k"), help="The key of each message.")] = (
        None
    )
    key_separator: Annotated[
        str | None,
        Parameter(
            name=("--key-separator", "-K"),
            help="The text between the key and the value of each line. The first one counts.",
        ),
    ] = None
    header: Annotated[
        tuple[str, ...],
        Parameter(
            name="--header",
            negative="",
            help="A header of each message, as NAME=VALUE. May be repeated.",
        ),
    ] = ()
    json: Annotated[
        bool,
        Parameter(
            name="--json",
            negative="",
            help="The lines are JSON, as tail --json prints them: with key, value, headers, and"
            " timestamp.",
        ),
    ] = False
    whole: Annotated[
        bool,
        Parameter(name="--whole", negative="", help="Each file is one message, with all lines."),
    ] = False
    partition: Annotated[
        int | None,
        Parameter(name=("--partition", "-p"), help="The partition of each message."),
    ] = None
    keep_partition: Annotated[
        bool,
        Parameter(
            name="--keep-partition",
            negative="",
            help="With --json: the partition is that of the line. Without it, the key decides.",
        ),
    ] = False

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.key is not None and self.key_separator is not None:
            raise UsageError("give --key or --key-separator, not both")
        if self.key_separator == "":
            raise UsageError("--key-separator takes at least one character")
        if self.json and (self.key is not None or self.key_separator is not None or self.whole):
            raise UsageError("with --json, the key comes from each line: leave out the others")
        if self.keep_partition and not self.json:
            raise UsageError("--keep-partition needs --json")

    @property
    def headers(self) -> Headers:
        pairs = [text.partition("=") for text in self.header]
        if any(not name or not equals for name, equals, _ in pairs):
            raise UsageError("--header takes NAME=VALUE")
        return [(name, value.encode()) for name, _, value in pairs]


async def send(
    topic: str,
    /,
    *files: Path,
    rate: Annotated[float | None, Parameter(name=("--rate", "-r"))] = None,
    form: Form = Form(),
    types: Types = Types(),
    connection: Connection = Connection(),
) -> None:
    """Write a message for each line of stdin or of files, and wait until all are written.

    If a message is not written, the command ends with exit code 1 and names the line. Earlier
    lines are written then, and some later ones may be.

    Example: echo "anna:20" | kafka-nursery send orders --key-separator :

    Parameters
    ----------
    topic:
        The topic. It must exist.
    files:
        The files. Without them, stdin is read.
    rate:
        The most messages in a second.
    """
    form.check()
    if rate is not None and not rate > 0:
        raise UsageError(f"--rate takes a number above 0, not {rate:g}")
    key_type, value_type = types.of(topic)
    headers = form.headers
    async with connection.admin() as admin:
        await admin.topic(topic)  # sending to it would create it
    async with connection.writer() as app:
        with counting("sent", topic) as show:
            sender = _Sender(app, topic)
            began = trio.current_time()
            async with aclosing(inputs(files, whole=form.whole)) as texts:
                async for each in texts:
                    if form.json and not each.data.strip():
                        continue
                    message = await _message(each, form, headers, key_type, value_type)
                    if rate is not None:
                        await trio.sleep_until(began + sender.accepted / rate)
                    await sender.send(message, each.place)
                    show(sender.written)
            await sender.finish()
            show(sender.written)


async def _message(
    each: Input, form: Form, headers: Headers, key_type: ValueType, value_type: ValueType
) -> Unsent:
    try:
        if form.json:
            message = await unsent_of(each.data.decode(), key_type, value_type)
            kept = message.partition if form.keep_partition else form.partition
            return attrs.evolve(message, headers=[*message.headers, *headers], partition=kept)
        key: bytes | None = None if form.key is None else form.key.encode()
        value = each.data
        if form.key_separator is not None:
            key, separator, value = each.data.partition(form.key_separator.encode())
            if not separator:
                raise ValueError(f"there is no {form.key_separator!r} between a key and a value")
        return Unsent(
            None if key is None else await key_type.encode_text(key),
            await value_type.encode_text(value),
            headers,
            form.partition,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{each.place}: {error}") from error


class _Sender:
    """Sends messages in order, and keeps count of those that are written.

    Attributes:
        accepted: the number of messages that were sent.
        written: the number of the first messages that are all written.
    """

    def __init__(self, app: App, topic: str) -> None:
        self.accepted = self.written = 0
        self._topic = app.topic(topic)
        self._waiting: collections.deque[tuple[Delivery, str]] = collections.deque()

    async def send(self, message: Unsent, place: str) -> None:
        """Send a message.

        Raises:
            ValueError: the message is not valid.
            DeliveryFailed: it is too large, or an earlier one was not written.
        """
        try:
            delivery = await self._topic.send(
                key=message.key,
                value=message.value,
                headers=message.headers,
                partition=message.partition,
                timestamp=message.timestamp,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {error}") from error
        except DeliveryFailed as error:
            raise DeliveryFailed(f"{place}: {error}") from error
        self.accepted += 1
        self._waiting.append((delivery, place))
        while self._waiting and self._waiting[0][0].is_done:
            await self._confirm()

    async def finish(self) -> None:
        """Wait until all messages are written. Raises DeliveryFailed."""
        while self._waiting:
            await self._confirm()

    async def _confirm(self) -> None:
        delivery, place = self._waiting.popleft()
        try:
            await delivery
        except DeliveryFailed as error:
            raise DeliveryFailed(
                f"{place} was not written: {error}. Of the lines before it, {self.written} are"
                " written"
            ) from error
        self.written += 1
