"""`App.stop_on_signals`: SIGTERM and Ctrl-C end an app in order."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.apps import app_on, broker_with, committed
from transport import TP, App
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)


@pytest.fixture(autouse=True)
def _the_handlers_are_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def run(main: object, *args: object) -> None:
    """Run as a program does: in the main thread, with trio's own handler of Ctrl-C."""
    trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))  # type: ignore[arg-type]


async def handle(
    broker: MemoryBroker, done: list[int], *signals: signal.Signals, seconds: float = 1.0
) -> None:
    """Handle ten messages, and raise the signals while the second one is handled."""
    async with app_on(broker) as app:
        app.stop_on_signals(timeout=8.0)
        async for message in app.topic("orders"):
            if message.offset == 1:
                for number in signals:
                    signal.raise_signal(number)
                    await trio.sleep(0.1)
                await trio.sleep(seconds)
            done.append(message.offset)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_handler_finish_its_current_message(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()
    with caplog.at_level(logging.INFO, "transport.app"):
        run(handle, broker, done, number)
    assert done == [0, 1]
    assert committed(broker) == {ORDERS: 2}
    assert sum(f"group: {number.name} received" in line for line in caplog.messages) == 1


def test_the_next_member_does_not_wait_for_the_session_timeout() -> None:
    async def main() -> None:
        broker = broker_with(ORDERS, records=10)
        await handle(broker, [], signal.SIGTERM)
        before = trio.current_time()
        async with app_on(broker) as successor:
            async for message in successor.topic("orders"):
                assert message.offset == 2
                break
        assert trio.current_time() - before < 5 < successor.settings.client.session_timeout

    run(main)


def test_a_second_sigterm_does_nothing() -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()
    run(handle, broker, done, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert done == [0, 1]
    assert committed(broker) == {ORDERS: 2}


def test_a_sigterm_while_the_app_closes_does_nothing() -> None:
    closed = []

    class Signaled(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            signal.raise_signal(signal.SIGTERM)

    async def main() -> None:
        broker = broker_with(ORDERS, records=10)
        async with app_on(broker, kind=Signaled) as app:
            app.stop_on_signals()
            async for _ in app.topic("orders"):
                signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # the program's own handler is back
        closed.append("never")

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert closed == []


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_the_first_signal_is_a_keyboard_interrupt(first: signal.Signals) -> None:
    broker, done = broker_with(ORDERS, records=10), list[int]()
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a group of it, or it itself
        run(handle, broker, done, first, signal.SIGINT)
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    assert done == [0]
    assert committed(broker) == {ORDERS: 1}


def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    async def main() -> None:
        broker, done = broker_with(ORDERS, records=10), list[int]()
        before = trio.current_time()
        await handle(broker, done, signal.SIGTERM, seconds=3600.0)
        assert done == [0]
        assert committed(broker) == {ORDERS: 1}
        assert trio.current_time() - before < 8.0 + 20.0

    run(main)


def test_a_program_that_only_sends_is_cancelled_at_the_timeout() -> None:
    async def main() -> None:
        before = trio.current_time()
        async with App("sender") as app:
            app.stop_on_signals(timeout=3.0)
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()
        assert 3.0 <= trio.current_time() - before < 3.0 + 20.0

    run(main)


def test_stop_on_signals_may_be_called_twice() -> None:
    async def main() -> None:
        async with App("orders") as app:
            app.stop_on_signals()
            app.stop_on_signals()
            signal.raise_signal(signal.SIGTERM)
            async for _ in app.topic("orders"):
                raise AssertionError

    run(main)


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    async def main() -> None:
        async with App("orders") as app:
            app.stop_on_signals()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
            with trio.move_on_after(60) as wait:
                await anext(app.topic("orders").noack())
            assert wait.cancelled_caught

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
    try:
        run(main)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_handler_that_was_installed_later_is_kept() -> None:
    async def main() -> None:
        async with App("orders") as app:
            app.stop_on_signals()
            signal.signal(signal.SIGTERM, later)
        assert signal.getsignal(signal.SIGTERM) is later

    def later(number: int, frame: object) -> None:
        pass

    before = signal.getsignal(signal.SIGTERM)
    try:
        run(main)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_stop_on_signals_needs_an_open_app() -> None:
    async def main() -> None:
        app = App("orders")
        with pytest.raises(RuntimeError, match=r"'orders' is not open.*in its block"):
            app.stop_on_signals()
        async with app:
            pass
        with pytest.raises(RuntimeError, match="'orders' is not open"):
            app.stop_on_signals()

    run(main)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_the_timeout_must_be_above_0(timeout: float) -> None:
    async def main() -> None:
        async with App("orders") as app:
            with pytest.raises(
                ValueError, match="timeout must be a number of seconds, more than 0, not"
            ):
                app.stop_on_signals(timeout=timeout)

    run(main)


def test_stop_on_signals_in_another_thread_names_app_stop() -> None:
    errors: list[Exception] = []

    async def main() -> None:
        async with App("orders") as app:
            try:
                app.stop_on_signals()
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=trio.run, args=[main])
    thread.start()
    thread.join()
    (error,) = errors
    assert "call app.stop()" in str(error)
