"""Building a client of kafka-python, with the reason if that fails.

The client retries to connect until its timeout, and then reports only the timeout. So an `Attempt`
records why each connection ended. A refused login or certificate ends the attempt at once.

A broker that refuses a login sends the refusal and closes the connection. The client drops bytes
that it reads together with the end of a connection, so the driver passes the bytes on first.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kafka.errors

from transport.drivers.kafka.errors import REFUSED_US, of_a_call
from transport.drivers.kafka.waiting import Waiting, reason_of
from transport.drivers.kafka.workarounds.copied_bytes import copy_little
from transport.drivers.kafka.workarounds.dead_connection import close_on_errors
from transport.drivers.kafka.workarounds.dropped_options import hand_on
from transport.drivers.kafka.workarounds.redacted_logins import keep_unseen
from transport.drivers.kafka.workarounds.silent_handshake import ANSWERS_NOTHING, bound_handshakes
from transport.errors import AuthorizationFailed, BrokerUnavailable

# OpenSSL's text if the broker refuses our certificate, or requires one and gets none.
_OUR_CERTIFICATE = re.compile(r"alert .*(certificate|unknown ca|access denied)", re.IGNORECASE)


class Attempt:
    """One attempt to build a client of the library.

    Args:
        servers: the addresses that errors name.
        built: called with the KafkaNetClient as soon as it exists.
        waiting: receives the outcome of each connection, also of later ones.
    """

    def __init__(
        self, servers: Sequence[str], built: Callable[[Any], None], waiting: Waiting
    ) -> None:
        self._servers = servers
        self._built = built
        self._waiting = waiting
        self._mechanism: str | None = None  # the SASL mechanism of the login
        self._failure: BaseException | None = None
        self._is_refused = False
        self._was_closed_on = False  # a broker accepted a connection and then closed it

    def options(self, library_class: Any) -> dict[str, Any]:
        """Return the public option through which this attempt gets the connections of a class."""

        def client(**options: Any) -> Any:
            _check_files(options)
            self._mechanism = options.get("sasl_mechanism")
            made = library_class.DEFAULT_CONFIG["kafka_client"](**options)
            hand_on(made, options)
            self._listen(made._manager)
            bound_handshakes(made._manager)
            self._built(made)
            return made

        return {"kafka_client": client}

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of building the client.

        Raises BrokerUnavailable with the addresses, AuthorizationFailed, or the error of the class
        for a bad option.
        """
        try:
            yield
        except kafka.errors.KafkaError as error:
            if self._is_refused:
                raise self._refusal() from error
            cause = self._failure or error
            if isinstance(cause, REFUSED_US):
                raise of_a_call(cause) from error
            translation = of_a_call(error)
            if isinstance(translation, BrokerUnavailable):
                servers = ", ".join(self._servers)
                reason = f"{reason_of(cause)}{self._hint(cause)}"
                # The text has all facts of the client's own errors, which take many more lines.
                raise BrokerUnavailable(f"no broker answered at {servers}: {reason}") from None
            raise translation from error

    def _refusal(self) -> Exception:
        cause = self._failure
        assert isinstance(cause, Exception)
        if isinstance(cause, kafka.errors.UnsupportedSaslMechanismError):
            return AuthorizationFailed(f"the broker takes no login by {self._mechanism}: {cause}")
        if isinstance(cause, REFUSED_US):
            return of_a_call(cause)
        return AuthorizationFailed(
            f"the broker refuses this app's certificate, or requires one: {cause}"
        )

    def _hint(self, cause: BaseException) -> str:
        if isinstance(cause, kafka.errors.InvalidReceiveError):
            return "; the broker may expect TLS: use kafka+ssl://"
        if self._was_closed_on and self._mechanism is None:
            return (
                "; a broker that requires a login closes connections like this: use kafka+sasl://"
            )
        return ""

    def _listen(self, manager: Any) -> None:
        # `_manager`, `get_connection`, `init_future`, `close_future`: the sources of the reason.
        connect = manager.get_connection
        known: weakref.WeakSet[Any] = weakref.WeakSet()

        def watch_outcome(connection: Any) -> None:
            node = manager.cluster.broker_metadata(connection.node_id)
            if node is None:
                return
            address = f"{node.host}:{node.port}"
            self._waiting.connecting(address)
            connection.init_future.add_callback(lambda _: self._waiting.connected(address))
            connection.init_future.add_errback(lambda error: unreached(address, error))

        def unreached(address: str, error: BaseException) -> None:
            # A refusal is raised as its own error, and closing on our side is not a failure.
            if not (manager.closed or self._is_refused or isinstance(error, REFUSED_US)):
                self._waiting.failed(address, error)

        def get_connection(*args: Any, **options: Any) -> Any:
            try:
                connection = connect(*args, **options)
            except kafka.errors.UnknownBrokerIdError as error:
                # The metadata does not name this leader yet. Callers can wait for a node that is
                # not ready. With the original error, a fetch would stay in flight for ever.
                manager.cluster.request_update()
                raise kafka.errors.NodeNotReadyError(str(error)) from error
            keep_unseen(connection)
            if connection not in known:
                known.add(connection)
                close_on_errors(connection, self._waiting.log)
                copy_little(connection)
                watch_outcome(connection)
            if not manager.bootstrapped:
                connection.init_future.add_errback(failed)
                connection.close_future.add_errback(lambda error: closed_on(connection, error))
            return connection

        def failed(error: BaseException) -> None:
            if manager.bootstrapped or self._is_refused:
                return  # after a refusal, connections fail because this attempt closes them
            if self._failure is not None and ANSWERS_NOTHING in str(error):
                return  # the end of the attempt cut this one off; the earlier failure says more
            self._failure = error
            if isinstance(error, REFUSED_US) or _OUR_CERTIFICATE.search(str(error)):
                self._is_refused = True
                manager.close()  # a retry would be refused, too

        def closed_on(connection: Any, error: BaseException) -> None:
            if connection.init_future.succeeded():
                self._was_closed_on = True
                failed(error)

        manager.get_connection = get_connection


def _check_files(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a certificate that cannot be loaded.

    The client would only fail at each connection, and retry until its timeout.
    """
    if "SSL" not in options["security_protocol"] or options["ssl_context"] is not None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    password = options["ssl_password"]
    loads: dict[str, Callable[[Any], object]] = {
        "ssl_cafile": lambda path: context.load_verify_locations(path),
        # With None, OpenSSL would ask for the password of an encrypted key at the terminal.
        "ssl_certfile": lambda path: context.load_cert_chain(
            path, options["ssl_keyfile"], password if password is not None else ""
        ),
        "ssl_crlfile": lambda path: context.load_verify_locations(path),
    }
    for name, load in loads.items():
        if path := options[name]:
            try:
                load(path)
            except (OSError, ValueError) as error:  # an SSLError is an OSError
                raise ValueError(f"{name} {str(path)!r} cannot be loaded: {error}") from error
