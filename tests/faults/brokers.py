"""Three brokers with a replica of each partition; an acknowledged message is on two of them.

Clients connect through Toxiproxy. The brokers and our own tools connect directly.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import kafka.errors
from kafka.admin import KafkaAdminClient

from tests.faults.toxiproxy import Toxiproxy
from tests.kafka.cluster import Broker, Guard, free_ports, java_command
from tests.kafka.toolchain import fetch_jars, find_java

NODES = (1, 2, 3)
# Seconds without a heartbeat after which a broker counts as dead.
BROKER_SESSION = 6.0
INTERNAL_PARTITIONS = 8
HEAP = "-Xmx400m"
# Seconds that the cluster may take until all replicas are in sync again.
HEAL_TIMEOUT = 120.0
LOOK_INTERVAL = 0.2

PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller},\
PROXIED://127.0.0.1:{proxied},DIRECT://127.0.0.1:{direct}
advertised.listeners=INTERNAL://127.0.0.1:{internal},PROXIED://127.0.0.1:{proxy},\
DIRECT://127.0.0.1:{direct}
listener.security.protocol.map=\
INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,DIRECT:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
num.partitions=4
default.replication.factor=3
min.insync.replicas=2
auto.create.topics.enable=false
offsets.topic.replication.factor=3
offsets.topic.num.partitions={internal_partitions}
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions={internal_partitions}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""


class Node(Broker):
    """One of the brokers; `ThreeBrokers` starts and ends it."""

    def __init__(self, node: int, properties: str) -> None:
        super().__init__()
        self.node = node
        self._home = Path(tempfile.mkdtemp(prefix="kafka-nursery-"))
        self._guard = Guard(self._home)
        self._log = self._home / "broker.log"
        config = self._home / "server.properties"
        config.write_text(f"{properties}log.dirs={self.data}\n")
        jars, java = fetch_jars(), find_java()
        self._command = java_command(java, jars, "-Dkafka.log.level=INFO", HEAP, "kafka.Kafka")
        self._command.append(str(config))
        self._prepare = functools.partial(
            self._format, java_command(java, jars, "kafka.tools.StorageTool"), config
        )

    def __enter__(self) -> Self:
        self._prepare()
        self.launch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._guard.close()

    @property
    def is_running(self) -> bool:
        return self._process is not None


class ThreeBrokers:
    """The cluster, with Toxiproxy in front of it, until the block ends.

    Attributes:
        nodes: the brokers by their ids.
        bootstrap: for clients, through the proxies.
        direct: the same brokers without the proxies.
        network: the proxies between the clients and the brokers.
    """

    def __init__(self) -> None:
        api, *ports = free_ports(1 + 5 * len(NODES))
        of = {node: ports[5 * at : 5 * at + 5] for at, node in enumerate(NODES)}
        voters = ",".join(f"{node}@127.0.0.1:{of[node][1]}" for node in NODES)
        self.nodes = {}
        for node, (internal, controller, proxied, direct, proxy) in of.items():
            self.nodes[node] = Node(
                node,
                PROPERTIES.format(
                    node=node,
                    voters=voters,
                    internal=internal,
                    controller=controller,
                    proxied=proxied,
                    direct=direct,
                    proxy=proxy,
                    internal_partitions=INTERNAL_PARTITIONS,
                    session_ms=round(BROKER_SESSION * 1000),
                ),
            )
        self.network = Toxiproxy(
            api, {f"broker-{node}": (of[node][4], of[node][2]) for node in NODES}
        )
        self.bootstrap = ",".join(f"127.0.0.1:{of[node][4]}" for node in NODES)
        self.direct = ",".join(f"127.0.0.1:{of[node][3]}" for node in NODES)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.network)
            for node in self.nodes.values():
                stack.enter_context(node)
            for node in self.nodes.values():
                node.wait_until_started()
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    @contextlib.contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """Yield kafka-python's admin client, without the proxies."""
        admin = KafkaAdminClient(bootstrap_servers=self.direct.split(","))
        try:
            yield admin
        finally:
            admin.close()

    def create_topic(self, name: str, partitions: int, **configs: str) -> None:
        with self.admin() as admin:
            options = {
                "num_partitions": partitions,
                "configs": {key.replace("_", "."): value for key, value in configs.items()},
            }
            admin.create_topics({name: options}, wait_for_metadata=True)

    def delete_topic(self, name: str) -> None:
        with self.admin() as admin:
            admin.delete_topics([name])

    def leader_of(self, topic: str, partition: int) -> Node:
        """Return the leader of a partition."""
        with self.admin() as admin:
            (described,) = admin.describe_topics([topic])
            (leader,) = [
                each["leader_id"]
                for each in described["partitions"]
                if each["partition_index"] == partition
            ]
        return self.nodes[leader]

    def coordinator_of(self, group: str) -> Node:
        """Return the coordinator of a group."""
        return self.leader_of("__consumer_offsets", _partition_of(group))

    def coordinator_of_transaction(self, transactional_id: str) -> Node:
        """Return the coordinator of a transactional id."""
        return self.leader_of("__transaction_state", _partition_of(transactional_id))

    def transactional_ids(self, prefix: str) -> list[str]:
        """Return the ids with this prefix that the brokers know."""
        with self.admin() as admin:
            found = admin.list_transactions()
        listed = [each for several in found.values() for each in several]
        ids = [each.transactional_id for each in listed]
        return sorted(each for each in ids if each.startswith(prefix))

    def heal(self) -> None:
        """Repair the network, start stopped brokers, and wait until all replicas are in sync."""
        self.network.mend()
        for node in self.nodes.values():
            if node.is_running:
                node.thaw()
            else:
                node.launch()
        for node in self.nodes.values():
            node.wait_until_started()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until every partition has a leader, and all its replicas are in sync."""
        deadline = time.monotonic() + HEAL_TIMEOUT
        while missing := self._out_of_step():
            if time.monotonic() > deadline:
                raise RuntimeError(f"out of sync after {HEAL_TIMEOUT} s: {missing[:5]}")
            time.sleep(LOOK_INTERVAL)

    def _out_of_step(self) -> list[str]:
        try:
            with self.admin() as admin:
                topics = admin.describe_topics()
        except kafka.errors.KafkaError as error:
            return [str(error)]
        return [
            f"{topic['name']}[{each['partition_index']}]"
            for topic in topics
            for each in topic["partitions"]
            if len(each["isr_nodes"]) < len(NODES) or each["leader_id"] not in NODES
        ]


def _partition_of(name: str) -> int:
    """Return the partition of Kafka's own topics for a group or an id, by Java's hash."""
    value = 0
    for letter in name:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value & (1 << 31) else value
    return (abs(signed) & 0x7FFFFFFF) % INTERNAL_PARTITIONS
