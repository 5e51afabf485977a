"""The switch for the linger, in which the client's batches wait for more messages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.producer.record_accumulator import RecordAccumulator

from transport.drivers.kafka.linger import Linger


class Client:
    """The parts of a producer of the client that `Linger` uses."""

    def __init__(self) -> None:
        self.woken = 0
        self._accumulator = RecordAccumulator(linger_ms=60_000)
        self._sender = SimpleNamespace(wakeup=self._wake)

    @property
    def lingers(self) -> bool:
        return not self._accumulator.flush_in_progress()

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def linger(client: Client) -> Linger:
    return Linger(client)


def test_no_batch_lingers_in_block(client: Client, linger: Linger) -> None:
    with linger.suspended():
        with linger.suspended():
            assert not client.lingers
        assert not client.lingers
    assert client.lingers
    assert client.woken == 2


def test_an_error_ends_the_block_as_well(client: Client, linger: Linger) -> None:
    with pytest.raises(ValueError, match="in it"), linger.suspended():
        raise ValueError("in it")
    assert client.lingers


def test_no_batch_lingers_between_end_and_next_transaction(client: Client, linger: Linger) -> None:
    linger.end()
    linger.end()
    assert not client.lingers
    assert client.woken == 1
    linger.restore()
    assert client.lingers


def test_next_transaction_does_not_end_block(client: Client, linger: Linger) -> None:
    with linger.suspended():
        linger.end()
        linger.restore()
        assert not client.lingers
    assert client.lingers
    linger.end()
    assert not client.lingers


def test_next_transaction_ends_flush_that_client_never_ends(client: Client, linger: Linger) -> None:
    with linger.suspended():
        client._accumulator.begin_flush()
    assert not client.lingers
    linger.restore()
    assert client.lingers
