"""The options of each verb that talks to a broker: its URL, the client's options, the timeout.

Look here for what the command line takes of the settings of an app.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import attrs
from cyclopts import Group, Parameter

from transport.app import App
from transport.command_line.usage import UsageError, checked_arguments
from transport.configuration import configured
from transport.configuration.conversion import BROKER, OPTIONS, converted
from transport.configuration.layer import Given, Layer
from transport.drivers import driver_for
from transport.drivers.admin import Admin, AdministeredDriver
from transport.drivers.base import ConsumerClient
from transport.drivers.settings import ClientSettings, ClientSettingsArgs
from transport.settings import SettingsArgs

ENVIRONMENT = "KAFKA_NURSERY_BROKER"
# The name under which the broker's logs and quotas show the command line. It is never a group.
CLIENT_ID = "kafka-nursery"
_GROUP = Group("Connection", sort_key=100)


# Settings of a service in the environment that the command line must not take.
_ALONE: SettingsArgs = {
    "client_only": True,
    "group_instance_id": None,
    "monitor": None,
    "partitions": None,
    "tracing": None,
    "transactions": None,
}
# What the command line takes of the settings of an app, beside the broker: how a client connects.
_TAKEN = (
    "max_decompressed_bytes",
    "metadata_max_age",
    "record_codec",
    "request_timeout",
    "ssl_context",
)


def broker_and_settings(
    broker: str | None, options: Sequence[str], timeout: float
) -> tuple[Sequence[str], ClientSettingsArgs]:
    """Return the URLs of the broker, and the settings of its clients.

    What the command line does not give comes from the environment or from the TOML file, as for an
    app. Only settings of the connection are taken from there.

    Args:
        broker: the option `--broker`.
        options: the options `--option`, each as NAME=VALUE.
        timeout: seconds to find a broker.

    Raises UsageError.
    """
    given = Layer({}, dict(map(_option, options)))
    with checked_arguments():
        chosen = {name: each.value for name, each in converted(given).client_options.items()}
        configuration = configured(CLIENT_ID, broker, {**_ALONE, OPTIONS: chosen})
    if BROKER not in configuration.origins:
        raise UsageError(
            f"no broker was named: use --broker kafka://HOST:PORT, or set {ENVIRONMENT}"
        )
    client = configuration.settings.client
    settings: dict[str, Any] = {name: getattr(client, name) for name in _TAKEN}
    settings |= {"client_id": CLIENT_ID, "connect_timeout": timeout}
    urls = configuration.broker
    return (
        [urls] if isinstance(urls, str) else urls,
        cast(ClientSettingsArgs, {**settings, OPTIONS: client.client_options}),
    )


@Parameter(name="*", group=_GROUP)
@attrs.frozen(kw_only=True)
class Connection:
    """The options for the connection, which the command line of a verb has given."""

    broker: Annotated[
        str | None,
        Parameter(
            name=("--broker", "-b"),
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
            return App(CLIENT_ID, broker=urls, **{**settings, **_ALONE, **more})

    def _given(self) -> tuple[Sequence[str], ClientSettingsArgs]:
        return broker_and_settings(self.broker, self.option, self.timeout)


def _option(text: str) -> tuple[str, Given]:
    """Return the name and the text of an option of the client."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        # The text may be a password.
        raise UsageError("--option takes NAME=VALUE, such as --option ssl_cafile=ca.pem")
    return name, Given(value, "--option")
