"""The options of each verb that talks to a broker: its URL, the client's options, the timeout.

Look here for where the broker comes from, and for how the text of an option becomes its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import attrs
from cyclopts import Group, Parameter

from transport.app import App
from transport.command_line.usage import UsageError, checked_arguments
from transport.drivers import driver_for
from transport.drivers.admin import Admin, AdministeredDriver
from transport.drivers.base import ConsumerClient
from transport.drivers.client_options import PASSED
from transport.drivers.settings import ClientSettings, ClientSettingsArgs

ENVIRONMENT = "KAFKA_NURSERY_BROKER"
# The name under which the broker's logs and quotas show the command line. It is never a group.
CLIENT_ID = "kafka-nursery"
_GROUP = Group("Connection", sort_key=100)
_FLAGS = {"true": True, "false": False}


def broker_and_settings(
    broker: str | None, options: Sequence[str], timeout: float
) -> tuple[Sequence[str], ClientSettingsArgs]:
    """Return the URLs of the broker, and the settings of its clients.

    Args:
        broker: the option `--broker`, or the environment variable.
        options: the options `--option`, each as NAME=VALUE.
        timeout: seconds to find a broker.

    Raises UsageError.
    """
    if not broker:
        raise UsageError(
            f"no broker was named: use --broker kafka://HOST:PORT, or set {ENVIRONMENT}"
        )
    settings: ClientSettingsArgs = {
        "client_id": CLIENT_ID,
        "connect_timeout": timeout,
        "client_options": dict(map(_option, options)),
    }
    return [broker], settings


@Parameter(name="*", group=_GROUP)
@attrs.frozen(kw_only=True)
class Connection:
    """The options for the connection, which the command line of a verb has given."""

    broker: Annotated[
        str | None,
        Parameter(
            name=("--broker", "-b"),
            env_var=ENVIRONMENT,
            help="The broker, such as kafka://HOST:PORT or kafka+sasl+ssl://USER:PASSWORD@HOST.",
        ),
    ] = attrs.field(default=None, repr=False)
    option: Annotated[
        tuple[str, ...],
        Parameter(
            name=("--option", "-o"),
            negative="",
            help="An option of the client as NAME=VALUE, such as ssl_cafile=ca.pem. May be"
            " repeated.",
        ),
    ] = attrs.field(default=(), repr=False)
    timeout: Annotated[float, Parameter(name="--timeout", help="Seconds to find a broker.")] = 10.0

    def driver(self) -> AdministeredDriver:
        """Return the driver for the broker. Raises UsageError."""
        urls, _ = self._given()
        with checked_arguments():
            return driver_for(urls)

    def settings(self, **more: Any) -> ClientSettings:
        """Return the settings of a client. Raises UsageError."""
        _, settings = self._given()
        with checked_arguments():
            return ClientSettings(**{**settings, **more})

    def admin(self) -> Admin:
        """Return an admin client, which is not open yet. Raises UsageError."""
        driver, settings = self.driver(), self.settings()
        with checked_arguments():
            return driver.admin(settings)

    def reader(self, isolation: Any = "read_committed") -> ConsumerClient:
        """Return a consumer without a group, which is not open yet. Raises UsageError."""
        settings = self.settings(
            client_only=True, auto_offset_reset="earliest", isolation=isolation
        )
        driver = self.driver()
        with checked_arguments():
            return driver.consumer(settings)

    def writer(self, **more: Any) -> App:
        """Return an app that only sends, which is not open yet. Raises UsageError."""
        urls, settings = self._given()
        with checked_arguments():
            return App(CLIENT_ID, broker=urls, **{**settings, "client_only": True, **more})

    def _given(self) -> tuple[Sequence[str], ClientSettingsArgs]:
        return broker_and_settings(self.broker, self.option, self.timeout)


def _option(text: str) -> tuple[str, object]:
    """Return the name and the value of an option of the client."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        # The text may be a password.
        raise UsageError("--option takes NAME=VALUE, such as --option ssl_cafile=ca.pem")
    check = PASSED.get(name)
    meanings: list[object] = [value]
    if value.lower() in _FLAGS:
        meanings.insert(0, _FLAGS[value.lower()])
    if value.isascii() and value.isdigit():
        meanings.append(int(value))
    for meaning in meanings if check is not None else ():
        try:
            check(name, meaning)  # type: ignore[misc]
        except (TypeError, ValueError):
            continue
        return name, meaning
    return name, value  # the settings refuse it, and give the reason
