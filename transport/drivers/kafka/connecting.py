"""Why a client could not be built: it tries on until its time is up, and only says that.

So we listen to the ends of the connections that it tries. A refused login ends the attempt at once.
A broker refuses a login and closes the connection in one go, and the client drops what it reads
together with the end: so we let it take that first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kafka.errors

from transport.drivers.kafka.errors import REFUSED_US, of_a_call
from transport.errors import BrokerUnavailable


class Attempt:
    """One attempt to build a client of the library.

    Args:
        servers: to name in errors.
        built: called with the KafkaNetClient as soon as there is one.
    """

    def __init__(self, servers: Sequence[str], built: Callable[[Any], None]) -> None:
        self._servers = servers
        self._built = built
        self._failure: BaseException | None = None

    def options(self, library_class: Any) -> dict[str, Any]:
        """What makes the class hand us its connections; among its public options."""

        def client(**options: Any) -> Any:
            made = library_class.DEFAULT_CONFIG["kafka_client"](**options)
            self._listen(made._manager)
            self._built(made)
            return made

        return {"kafka_client": client}

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate what the building raises.

        Raises BrokerUnavailable with the addresses, AuthorizationFailed, or what the class says of
        its options.
        """
        try:
            yield
        except kafka.errors.KafkaError as error:
            cause = self._failure or error
            if isinstance(cause, REFUSED_US):
                raise of_a_call(cause) from error
            translation = of_a_call(error)
            if isinstance(translation, BrokerUnavailable):
                servers = ", ".join(self._servers)
                raise BrokerUnavailable(f"no broker answered at {servers}: {cause}") from error
            raise translation from error

    def _listen(self, manager: Any) -> None:
        # `_manager`, `get_connection`, `init_future`: the one place where the reason is told.
        connect = manager.get_connection

        def get_connection(*args: Any, **options: Any) -> Any:
            connection = connect(*args, **options)
            if not manager.bootstrapped:
                _hear_out(connection)
                connection.init_future.add_errback(failed)
            return connection

        def failed(error: BaseException) -> None:
            if manager.bootstrapped or isinstance(self._failure, REFUSED_US):
                return  # what fails after a refusal fails by our closing
            self._failure = error
            if isinstance(error, REFUSED_US):
                manager.close()  # nothing changes by trying again

        manager.get_connection = get_connection


def _hear_out(connection: Any) -> None:
    """Let a connection take what the broker has said before it closed."""
    # `connection_made`, `_sock_recv`: where what was read and the end are told at once.
    made = connection.connection_made

    def connection_made(transport: Any) -> None:
        receive = transport._sock_recv

        def receive_before_the_end() -> tuple[bytes, Exception | None]:
            data, end = receive()
            return data, None if data else end  # the end is there to be read again

        transport._sock_recv = receive_before_the_end
        made(transport)

    connection.connection_made = connection_made
