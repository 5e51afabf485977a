"""`App.run`: the exit codes of a program that is only an app, its signals, and its last words."""

from __future__ import annotations

import asyncio
import re
import signal
import textwrap
import threading
from collections.abc import Callable

import pytest
import trio

from tests.apps import broker_with
from tests.kafka.cluster import free_ports
from tests.programs import Ended, run_all
from transport import TP, App, Message

BEGIN = """\
import logging, os, signal, sys, threading, trio
from tests.apps import app_on, broker_with, committed
from tests.scripted import fails, hangs, replace
from transport import TP, App, CommitUnknown
from transport.drivers.memory import MemoryBroker

ORDERS = TP("orders", 0)
broker = broker_with(ORDERS, records=5)


app = app_on(broker)


async def handle(message):
    pass


@app.handler(app.topic("orders"))
async def enrich(message):
    await handle(message)
    print("handled", message.offset)
"""

END = """

app.run()
print("committed", committed(broker).get(ORDERS))
"""

# The programs between BEGIN and END, by the name that the tests use.
PROGRAMS: dict[str, str] = {}


def program(name: str, text: str) -> str:
    PROGRAMS[name] = BEGIN + textwrap.dedent(text) + END
    return name


@pytest.fixture(scope="module")
def ended() -> Callable[[str], Ended]:
    """Return a function that gives the end of a program. All of them have run in parallel."""
    results = dict(zip(PROGRAMS, run_all(list(PROGRAMS.values())), strict=True))
    return results.__getitem__


EndOf = Callable[[str], Ended]


# The orderly end

for sent in ("SIGTERM", "SIGINT"):
    program(
        f"one {sent}",
        f"""
        async def handle(message):
            if message.offset == 1:
                signal.raise_signal(signal.{sent})
                await trio.sleep(5)
        """,
    )


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_one_signal_lets_the_handler_finish_and_exits_with_0(ended: EndOf, sent: str) -> None:
    end = ended(f"one {sent}")
    assert (end.code, end.output.splitlines()) == (
        0,
        ["handled 0", "handled 1", "committed 2"],
    )
    assert end.errors == (
        f"group: {sent} received: the app stops in order, within 20 s. A second signal ends the"
        " process at once\n"
    )


program(
    "too long",
    """
    async def handle(message):
        if message.offset == 1:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(3600)
    """,
)


def test_a_handler_that_takes_too_long_is_cancelled_and_exits_with_0(ended: EndOf) -> None:
    end = ended("too long")
    assert (end.code, end.output) == (0, "handled 0\ncommitted 1\n")
    assert ": 1 delivered message was not acked at shutdown" in end.errors


program(
    "stopped",
    """
    async def handle(message):
        app.stop()
    """,
)


def test_a_handler_that_stops_the_app_exits_with_0_without_a_word(ended: EndOf) -> None:
    end = ended("stopped")
    assert (end.code, end.errors) == (0, "")
    assert end.output.endswith("committed 1\n")


program(
    "signal at the start",
    """
    async def open_producer(*args):
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    replace(app, "producer.open", open_producer)
    """,
)


def test_a_signal_while_the_app_opens_cancels_the_opening_and_exits_with_0(ended: EndOf) -> None:
    end = ended("signal at the start")
    assert (end.code, end.output) == (0, "committed None\n")


program(
    "signal before trio",
    """
    run = trio.run

    def signaled_run(*args, **options):
        signal.raise_signal(signal.SIGTERM)
        run(*args, **options)

    trio.run = signaled_run
    """,
)


def test_a_signal_before_trio_runs_exits_with_0(ended: EndOf) -> None:
    end = ended("signal before trio")
    assert (end.code, end.output) == (0, "committed None\n")


# Crashes

program(
    "crash",
    """
    async def look_up(message):
        raise ValueError(f"no order {message.offset}")

    async def handle(message):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_up, message)
    """,
)


def test_a_crash_exits_with_1_and_prints_one_traceback_of_the_users_code(ended: EndOf) -> None:
    end = ended("crash")
    assert (end.code, end.output) == (1, "")
    report = end.errors[end.errors.index("App(group)") :].splitlines()
    assert report[:2] == [
        "App(group) ended with an error in Handlers > Handler enrich:",
        "Traceback (most recent call last):",
    ]
    assert re.findall(r", in (\w+)$", "\n".join(report), re.MULTILINE) == [
        "enrich",
        "handle",
        "look_up",
    ]
    assert report[-2:] == [
        "ValueError: no order 0",
        "in the handler enrich, for orders-0 offset 0, attempt 1",
    ]
    assert "Group" not in end.errors


program(
    "crash, caught",
    """
    async def handle(message):
        raise ValueError("bad")

    try:
        app.run()
    except SystemExit as error:
        print(error.code, error.__cause__)
        raise
    """,
)


def test_the_cause_of_the_exit_is_the_error_of_the_app(ended: EndOf) -> None:
    end = ended("crash, caught")
    assert (end.code, end.output) == (1, "1 App(group) (1 sub-exception)\n")


(PORT,) = free_ports(1)
program(
    "no broker",
    f"""
    import time

    app = App("group", "kafka://127.0.0.1:{PORT}", connect_timeout=0.5)
    app.handler(app.topic("orders"), handle)
    """,
)


def test_a_broker_that_does_not_answer_at_the_start_exits_with_1(ended: EndOf) -> None:
    end = ended("no broker")
    assert (end.code, end.output) == (1, "")
    assert "App(group) ended with an error in Producer:\n" in end.errors
    assert f"BrokerUnavailable: no broker answered at 127.0.0.1:{PORT}: " in end.errors
    assert end.errors.count("Traceback") == 1


program(
    "failed close",
    """
    async def handle(message):
        if message.offset == 0:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(1)

    replace(app, "commit", fails(CommitUnknown("no answer")))
    """,
)


def test_a_failed_close_exits_with_1(ended: EndOf) -> None:
    end = ended("failed close")
    assert (end.code, end.output) == (1, "handled 0\n")
    assert "App(group) ended with an error in Consumer:\n" in end.errors
    assert end.errors.endswith("CommitUnknown: no answer\n")


program(
    "two errors",
    """
    async def handle(message):
        if message.offset == 1:
            raise ValueError("bad")

    replace(app, "commit", fails(CommitUnknown("no answer")))
    """,
)


def test_a_crash_and_a_failed_close_are_two_numbered_errors(ended: EndOf) -> None:
    end = ended("two errors")
    assert end.code == 1
    assert "App(group) ended with 2 errors:\n\nError 1 of 2" in end.errors
    assert "ValueError: bad\n" in end.errors
    assert "CommitUnknown: no answer\n" in end.errors


program(
    "exit",
    """
    async def handle(message):
        print("bye", end="")
        sys.exit(3)
    """,
)


def test_system_exit_of_a_handler_leaves_the_program_as_it_is(ended: EndOf) -> None:
    end = ended("exit")
    assert (end.code, end.output) == (3, "bye")
    assert "Traceback" not in end.errors


program(
    "exit with 0, failed close",
    """
    async def handle(message):
        if message.offset == 1:
            sys.exit()

    replace(app, "commit", fails(CommitUnknown("no answer")))
    """,
)


def test_a_failed_close_after_an_exit_with_0_exits_with_1(ended: EndOf) -> None:
    end = ended("exit with 0, failed close")
    assert end.code == 1
    assert end.errors.endswith("CommitUnknown: no answer\n")


program(
    "interrupt",
    """
    async def handle(message):
        raise KeyboardInterrupt
    """,
)


def test_keyboard_interrupt_of_a_handler_ends_the_program_as_python_does(ended: EndOf) -> None:
    end = ended("interrupt")
    assert end.code == -signal.SIGINT
    assert end.errors.endswith("KeyboardInterrupt\n")
    assert "ended with an error" not in end.errors


# The second signal

SECOND = {
    # The handler is suspended: the app would wait for it.
    "a task": "await trio.sleep(60)",
    # No task of trio runs. The signal interrupts the sleep, and its handler runs.
    "the loop": "time.sleep(60)",
    "busy": "while True: pass",
    # The thread holds up the interpreter's own end, which would join it.
    "a thread": "threading.Thread(target=time.sleep, args=[60]).start(); time.sleep(60)",
}
for first, second in (("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")):
    for blocked, code in SECOND.items():
        program(
            f"{first}, {second}, {blocked}",
            f"""
            import time

            print("begin")
            begun = threading.Event()

            def send():
                begun.wait()
                os.kill(os.getpid(), signal.{second})

            async def handle(message):
                signal.raise_signal(signal.{first})
                await app.wait_stopped()
                begun.set()
                {code}

            threading.Thread(target=send).start()
            """,
        )


@pytest.mark.parametrize("blocked", SECOND)
@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)]
)
def test_a_second_signal_ends_the_process_at_once(
    ended: EndOf, blocked: str, first: str, second: str, code: int
) -> None:
    end = ended(f"{first}, {second}, {blocked}")
    assert (end.code, end.output) == (code, "begin\n")
    first_line, second_line = end.errors.splitlines()
    assert first_line.startswith(f"group: {first} received: the app stops in order")
    assert second_line == f"group: {second} received again: the process ends at once"


program(
    "stuck stream",
    """
    import time

    class Stuck(logging.Handler):
        def flush(self):
            time.sleep(60)

    logging.basicConfig(handlers=[Stuck()])

    async def handle(message):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    """,
)


def test_a_stuck_log_does_not_delay_the_end_at_once(ended: EndOf) -> None:
    assert ended("stuck stream").code == 143


program(
    "child",
    """
    import multiprocessing, time

    forking = multiprocessing.get_context("fork")

    def work(begun):
        begun.set()
        time.sleep(60)

    async def handle(message):
        for number in (signal.SIGTERM, signal.SIGINT):
            begun = forking.Event()
            child = forking.Process(target=work, args=[begun])
            child.start()
            begun.wait()
            os.kill(child.pid, number)
            child.join()
            print(child.exitcode)
        app.stop()
    """,
)


def test_a_forked_child_ends_at_its_signals_as_without_an_app(ended: EndOf) -> None:
    end = ended("child")
    assert (end.code, end.output) == (0, "-15\n1\nhandled 0\ncommitted 1\n")
    assert end.errors.endswith("KeyboardInterrupt\n")


# Handlers of the program, and its log

program(
    "own handlers",
    """
    def own(number, frame):
        print("own handler of", signal.Signals(number).name)

    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    async def handle(message):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        if message.offset == 1:
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            app.stop()
    """,
)


def test_handlers_of_the_program_and_ignored_signals_stay(ended: EndOf) -> None:
    end = ended("own handlers")
    assert end.code == 0
    assert end.output.splitlines()[:3] == [
        "own handler of SIGTERM",
        "handled 0",
        "own handler of SIGTERM",
    ]
    assert (
        "group: the program has its own handler of SIGTERM, so that signal does not stop the app"
        in end.errors
    )
    assert "received" not in end.errors


program(
    "log",
    """
    import io
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.INFO, format="%(levelname)s %(message)s")

    async def handle(message):
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)
        raise ValueError("bad")

    try:
        app.run()
    except SystemExit:
        print(log.getvalue())
    sys.exit()
    """,
)


def test_a_configured_log_has_the_lines_about_signals_and_the_crash(ended: EndOf) -> None:
    end = ended("log")
    assert "INFO group: SIGTERM received: the app stops in order" in end.output
    assert "CRITICAL group: the app ended with an error: ValueError('bad')" in end.output
    assert end.errors.startswith("App(group) ended with an error in Handlers > ")


program(
    "no log",
    """
    async def handle(message):
        if message.offset == 0:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(1)

    app.run()
    print(logging.root.handlers, logging.getLogger("transport").handlers)
    sys.exit()
    """,
)


def test_run_configures_no_logging(ended: EndOf) -> None:
    assert ended("no log").output.splitlines()[-1] == "[] []"


# Where it may be called


def app_that_stops() -> App:
    """Return an app whose handler stops it at the first message."""
    app = App("orders", broker_with(TP("orders", 0), records=1))

    @app.handler(app.topic("orders"))
    async def stop(message: Message) -> None:
        app.stop()

    return app


def test_the_previous_handlers_are_back_after_the_run() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    app = app_that_stops()
    app.run()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_app_runs_only_once() -> None:
    app = app_that_stops()
    app.run()
    with pytest.raises(RuntimeError, match="'orders' was opened before: make a new App"):
        app.run()


def test_an_app_without_a_handler_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"'orders' has no handler.*@app\.handler"):
        App("orders").run()


def test_run_inside_trio_names_the_block() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"'orders' was run inside trio.*async with app:"):
            app.run()

    app = app_that_stops()
    trio.run(main)
    app.run()  # the refused call has not used up the app


def test_run_inside_asyncio_names_open_app() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"inside an asyncio loop.*open_app\(app\)"):
            app_that_stops().run()

    asyncio.run(main())


def test_run_in_another_thread_is_refused() -> None:
    errors: list[RuntimeError] = []

    def run() -> None:
        with pytest.raises(RuntimeError, match="in the thread 'worker'") as raised:
            app_that_stops().run()
        errors.append(raised.value)

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    thread.join()
    assert len(errors) == 1
