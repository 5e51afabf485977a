"""Calls into kafka-python's client, also if the client is closed or cut off during the call."""

from __future__ import annotations

import math
import socket
import time

import kafka.errors
import pytest
import trio

from nurseries.worker import Worker
from transport.drivers.kafka import KafkaDriver
from transport.drivers.kafka.calls import Calls
from transport.drivers.kafka.consumer import commit_until
from transport.drivers.settings import ClientSettings
from transport.errors import ClientClosed, CommitUnknown, TransportError

# The errors that a client with a closed loop has raised: its own, those of the loop, and the end of
# a coroutine, which is not an Exception.
THROWN = [
    kafka.errors.Cancelled(),
    kafka.errors.KafkaConnectionError(),
    RuntimeError("NetworkSelector closed!"),
    OSError("bad file descriptor"),
    GeneratorExit(),
]


def opened() -> Calls:
    calls = Calls("client")
    calls.opened = True
    return calls


@pytest.mark.parametrize("thrown", THROWN, ids=repr)
async def test_any_error_of_cut_off_client_becomes_client_closed(
    thrown: BaseException,
) -> None:
    calls = opened()

    def cut() -> None:
        calls.closed = True
        raise thrown

    async with Worker("client") as worker:
        with pytest.raises(ClientClosed):
            await calls.make(worker, "poll", cut)


async def test_commit_outcome_is_raised_although_client_is_cut_off() -> None:
    calls = opened()

    def cut() -> None:
        calls.closed = True
        raise CommitUnknown("no answer")

    async with Worker("client") as worker:
        with pytest.raises(CommitUnknown):
            await calls.make(worker, "commit", cut)


async def test_an_open_client_fails_with_its_own_error() -> None:
    def fail() -> None:
        raise kafka.errors.Cancelled

    async with Worker("client") as worker:
        with pytest.raises(TransportError) as failed:
            await opened().make(worker, "poll", fail)
    assert not isinstance(failed.value, ClientClosed)


async def test_generator_exit_of_client_becomes_runtime_error() -> None:
    def fail() -> None:
        raise GeneratorExit

    async with Worker("client") as worker:
        with pytest.raises(RuntimeError, match="loop was closed"):
            await opened().make(worker, "poll", fail)


async def test_killed_open_raises_client_closed() -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts connections and never answers
    driver = KafkaDriver([f"127.0.0.1:{silent.getsockname()[1]}"])
    client = driver.consumer(ClientSettings(group_id="group", connect_timeout=60.0))
    with silent, trio.fail_after(30.0):
        async with trio.open_nursery() as nursery:
            opened = trio.Event()

            async def open() -> None:
                with pytest.raises(ClientClosed):
                    await client.open()
                opened.set()

            nursery.start_soon(open)
            connection, _ = await trio.to_thread.run_sync(silent.accept)
            with connection:
                await client.kill()
                await opened.wait()


class Unreachable:
    """A client whose first commits fail because no broker can be reached."""

    def __init__(self, failures: float) -> None:
        self.config = {"retry_backoff_ms": 1}
        self.left = failures
        self.made = 0

    def commit(self, offsets: object, timeout_ms: int) -> None:
        self.made += 1
        if self.left:
            self.left -= 1
            raise kafka.errors.KafkaConnectionError("ECONNREFUSED")


def test_commit_is_retried_until_a_broker_can_be_reached() -> None:
    client = Unreachable(failures=3)
    commit_until(time.monotonic() + 60.0, client, {}, opened())
    assert client.made == 4


def test_commit_fails_at_its_deadline() -> None:
    client = Unreachable(failures=math.inf)
    with pytest.raises(kafka.errors.KafkaConnectionError):
        commit_until(time.monotonic() + 0.05, client, {}, opened())
    assert client.made > 1


def test_commit_of_closed_client_is_not_retried() -> None:
    client = Unreachable(failures=math.inf)
    calls = opened()
    calls.closed = True
    with pytest.raises(kafka.errors.KafkaConnectionError):
        commit_until(time.monotonic() + 60.0, client, {}, calls)
    assert client.made == 1
