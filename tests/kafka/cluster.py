"""A real Apache Kafka for tests and benchmarks: one broker, and Kafka's command-line tools.

The tools are independent clients: tests compare their view of a group or a log with ours. The
module does not need pytest, so benchmarks and people can use it, too::

    python -m tests.kafka.cluster       # prints 127.0.0.1:PORT, runs until Ctrl-C
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from tests.kafka.toolchain import HERE, ToolchainMissing, fetch_jars, find_java, is_older_than

__all__ = [
    "Broker",
    "BrokerFailed",
    "GroupOffset",
    "ToolFailed",
    "ToolchainMissing",
    "describe_group",
    "describe_groups",
    "end_offsets",
    "tool",
    "tool_command",
]

START_TIMEOUT = 60.0  # seconds; about 3 on an idle machine, 12 after a kill
STOP_TIMEOUT = 15.0
TOOL_TIMEOUT = 60.0
HEAP = "-Xmx512m"
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
# The ports open earlier, while the broker is still fenced and refuses to create topics.
STARTED = b"Kafka Server started"
# The tools that have another name or another option in Kafka 3, and options that are newer.
CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
PERFORMANCE = "org.apache.kafka.tools.ProducerPerformance"
NEW_IN_4_2 = ("--reader-property", "--formatter-property")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{more}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more}
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=4
auto.create.topics.enable=true
# One broker: no copies.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
# Fast: fewer internal partitions, and no wait before the first rebalance of a group.
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
# Small: the tests need the cores more than the broker.
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""


class BrokerFailed(RuntimeError):
    """The broker did not start, or ended by itself; the message has the end of its log."""


class ToolFailed(RuntimeError):
    """One of Kafka's command-line tools ended with an error; the message has its output."""


class GroupOffset(NamedTuple):
    """A group's offsets in one partition; None where Kafka's tool shows "-" (no commit yet)."""

    committed: int | None
    end: int | None
    lag: int | None


class Broker:
    """One broker in its own process, with its own ports and data folder, until the block ends.

    A sync context manager: entering takes about 3 s (the first time also fetches Kafka's jars) and
    raises ToolchainMissing or BrokerFailed. Its calls block: a trio test that must not block runs
    them in a thread. If this process is killed, a guard ends the broker and removes its data.

    Args:
        listeners: names of further listeners, each on its own port.
        properties: further lines of the configuration, with the protocols of these listeners.
    """

    bootstrap: str

    def __init__(self, listeners: Sequence[str] = (), properties: str = "") -> None:
        self._listeners = tuple(listeners)
        self._properties = properties
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        jars, java = fetch_jars(), find_java()
        with contextlib.ExitStack() as stack:
            self._home = Path(tempfile.mkdtemp(prefix="kafka-nursery-"))
            self._guard = Guard(self._home)
            stack.callback(self._guard.close)
            port, controller_port, *ports = free_ports(2 + len(self._listeners))
            self.bootstrap = f"127.0.0.1:{port}"
            self.addresses = {
                name: f"127.0.0.1:{each}" for name, each in zip(self._listeners, ports, strict=True)
            }
            more = "".join(f",{name}://{where}" for name, where in self.addresses.items())
            properties = PROPERTIES.format(
                port=port, controller_port=controller_port, more=more, data=self._home / "data"
            )
            config = self._home / "server.properties"
            config.write_text(properties + self._properties)
            self._log = self._home / "broker.log"
            self._command = java_command(java, jars, "-Dkafka.log.level=INFO", HEAP, "kafka.Kafka")
            self._command.append(str(config))
            self._format(java_command(java, jars, "kafka.tools.StorageTool"), config)
            stack.callback(self.stop)
            self.start()
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    @property
    def data(self) -> Path:
        """The folder that has a folder TOPIC-NUMBER for each partition."""
        return self._home / "data"

    def start(self) -> None:
        """Start a stopped or killed broker on the same ports and data, and wait until it is ready.

        This takes 2.5 s, but 12 s after a kill: first the session of the killed broker must expire.
        """
        self.launch()
        self.wait_until_started()

    def launch(self) -> None:
        """Start the process, and do not wait until it is ready: the first half of `start`."""
        if self._process is not None:
            raise RuntimeError("the broker is running")
        with self._log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach it: `stop` ends it in order
            )
        self._guard.watch(self._process.pid)

    def wait_until_started(self) -> None:
        """Wait until the broker is ready: the second half of `start`."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while not self._started(self._log_begin):
            if self._process.poll() is not None:
                raise BrokerFailed(f"the broker ended while it started:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"the broker did not start within {START_TIMEOUT} s:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the process in order, or kill it after STOP_TIMEOUT; keep data and ports."""
        if self._process is None:
            return
        try:
            self._process.terminate()
            self.thaw()
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the process, as a crash would (SIGKILL); keep data and ports."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._guard.watch(None)
            self._process = None

    def restart(self) -> None:
        """Stop the broker in order if it runs, and start it again on the same ports and data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        # Wait until all its threads are stopped: until then one of them could answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Continue a frozen broker (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def wait(self) -> None:
        """Wait until the broker ends by itself, and raise BrokerFailed. It should not end."""
        if self._process is None:
            raise RuntimeError("the broker is not running")
        code = self._process.wait()
        raise BrokerFailed(f"the broker ended by itself with {code}:\n{self.log_tail()}")

    def log_tail(self, characters: int = 4000) -> str:
        """Return the end of the broker's log, for an error message."""
        return self._log.read_text(errors="replace")[-characters:]

    def _format(self, storage_tool: list[str], config: Path) -> None:
        answer = subprocess.run(
            [*storage_tool, "format", "-t", CLUSTER_ID, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_TIMEOUT,
        )
        if answer.returncode != 0:
            raise BrokerFailed(f"formatting its storage failed:\n{answer.stdout[-4000:]}")

    def _started(self, begin: int) -> bool:
        with self._log.open("rb") as log:
            log.seek(begin)
            return STARTED in log.read()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        self._process.send_signal(number)


class Guard:
    """A small process that kills the broker and removes its folder when this process ends.

    It notices the end because its pipe closes. So a test run that is killed leaves neither a broker
    nor its data. It kills the pid of the last `watch`; `watch(None)` follows the broker's end.
    """

    SCRIPT = 'while read -r line; do pid=$line; done; [ -z "$pid" ] || kill -9 "$pid"; rm -rf "$1"'

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", self.SCRIPT, "guard", str(folder)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int | None) -> None:
        pipe = self._pipe()
        pipe.write(f"{pid or ''}\n".encode())
        pipe.flush()

    def close(self) -> None:
        self._pipe().close()
        self._process.wait()

    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin


def tool_command(main_class: str, *args: str, bootstrap: str) -> list[str]:
    """Return the command line of one of Kafka's tools, for those that keep running.

    Args:
        main_class: the tool's name in Kafka 4.
        args: its arguments in Kafka 4.2 and later.
    """
    broker = ["--bootstrap-server", bootstrap]
    if is_older_than(4, 2):
        args = tuple("--property" if word in NEW_IN_4_2 else word for word in args)
    if is_older_than(4, 0):
        if main_class == CONSOLE_PRODUCER:
            main_class = "kafka.tools.ConsoleProducer"
        elif main_class == PERFORMANCE:
            broker = ["--producer-props", f"bootstrap.servers={bootstrap}"]
    java = ["-XX:TieredStopAtLevel=1", "-Xmx256m", main_class]
    return [*java_command(find_java(), fetch_jars(), *java), *broker, *args]


def tool(
    main_class: str,
    *args: str,
    bootstrap: str,
    stdin: str = "",
    timeout: float = TOOL_TIMEOUT,
) -> str:
    """Run one of Kafka's tools until it ends, and return its stdout.

    ``main_class`` as in ``org.apache.kafka.tools.TopicCommand``; ``timeout`` in seconds. Raises
    ToolFailed, with all of its output, for an exit code other than 0 and after the timeout.
    """
    command = tool_command(main_class, *args, bootstrap=bootstrap)
    name = main_class.rpartition(".")[2]
    try:
        answer = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        said = b"".join(part for part in (error.stdout, error.stderr) if part)
        raise ToolFailed(f"{name} took over {timeout} s:\n{said.decode()}") from error
    if answer.returncode != 0:
        raise ToolFailed(f"{name} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
    return answer.stdout


Offsets = dict[tuple[str, int], GroupOffset]


def describe_group(bootstrap: str, group: str) -> Offsets:
    """Return what ConsumerGroupCommand shows: {(topic, partition): (committed, end, lag)}.

    It has each partition that has a commit or is assigned. Raises ToolFailed for a group that does
    not exist. Takes about a second, as each run of a tool does.
    """
    return describe_groups(bootstrap, group)[group]


def describe_groups(bootstrap: str, *groups: str) -> dict[str, Offsets]:
    """Return the same for several groups, with one run of the tool."""
    text = tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        *("--describe", *(word for group in groups for word in ("--group", group))),
        bootstrap=bootstrap,
    )
    if text.lstrip().startswith("Error:"):  # although the exit code is 0
        raise ToolFailed(text.strip())
    offsets: dict[str, Offsets] = {group: {} for group in groups}
    for row in map(str.split, text.splitlines()):
        # GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID
        if len(row) >= 6 and row[0] in offsets and row[2].isdigit():
            committed, end, lag = (None if cell == "-" else int(cell) for cell in row[3:6])
            offsets[row[0]][row[1], int(row[2])] = GroupOffset(committed, end, lag)
    return offsets


def end_offsets(bootstrap: str, *topics: str) -> dict[tuple[str, int], int]:
    """Return what GetOffsetShell shows for some topics: {(topic, partition): end offset}."""
    text = tool(
        "org.apache.kafka.tools.GetOffsetShell",
        *("--topic", "|".join(topics)),
        bootstrap=bootstrap,
    )
    rows = [line.rsplit(":", 2) for line in text.splitlines()]
    return {(name, int(partition)): int(end) for name, partition, end in rows}


def java_command(java: str, jars: Path, *args: str) -> list[str]:
    return [
        *(java, "-XX:+UseSerialGC", "-cp", f"{jars}/*"),
        *(f"-Dlog4j2.configurationFile={HERE / 'log4j2.xml'}", *args),
    ]


def free_ports(number: int) -> list[int]:
    """Return free ports below the range that the system gives to outgoing connections.

    Within that range, a client that connects to a stopped broker can get the broker's own port.
    """
    free: list[int] = []
    for port in random.sample(range(15000, 32000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == number:
            return free
    raise BrokerFailed("no free port on 127.0.0.1")


def main() -> None:
    # Set explicitly: a shell starts its background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Broker() as broker:
        print(broker.bootstrap, flush=True)
        broker.wait()


if __name__ == "__main__":
    try:
        main()
    except (ToolchainMissing, BrokerFailed) as error:
        sys.exit(str(error))
