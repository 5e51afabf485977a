"""The admin client of Kafka: kafka-python's, whose blocking calls run on a thread of its own.

`admin_answers.py` translates the answers. Look here for which request answers which question.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple

import kafka.errors
import trio
from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec

from nurseries.worker import Worker
from transport.backoff import Backoff
from transport.drivers.admin import (
    Cluster,
    Config,
    GroupDescription,
    GroupListing,
    TopicDescription,
)
from transport.drivers.client_options import nearest
from transport.drivers.commit_metadata import notes_of
from transport.drivers.kafka import admin_answers as answers
from transport.drivers.kafka.calls import CUT_TIMEOUT, join_workers, made
from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.errors import of_a_call, translated
from transport.drivers.kafka.waiting import Waiting, reason_of
from transport.drivers.kafka.workarounds.swallowed_errors import close_client
from transport.errors import AuthorizationFailed, BrokerUnavailable, CommitFailed, TransportError
from transport.types import TP

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# The longest wait between two tries of a question, in seconds.
_LONGEST_WAIT = 0.5
# The broker has no coordinator of the group yet, or it has moved. A repetition harms nothing.
_MOVED = (
    kafka.errors.CoordinatorNotAvailableError,
    kafka.errors.CoordinatorLoadInProgressError,
    kafka.errors.NotCoordinatorError,
)
_HAS_MEMBERS = (
    kafka.errors.UnknownMemberIdError,
    kafka.errors.RebalanceInProgressError,
    kafka.errors.IllegalGenerationError,
)


class KafkaAdmin:
    """An `Admin` on kafka-python; see the protocol for what each call promises.

    Args:
        options: the options of the KafkaAdminClient.
        waiting: receives the outcome of each connection.
    """

    def __init__(self, options: Mapping[str, Any], waiting: Waiting) -> None:
        self._options = options
        self._waiting = waiting
        self._patience = options["request_timeout_ms"] / 1000
        self._worker = Worker(f"admin {options['client_id']}")
        self._client: Any = None  # the KafkaNetClient: connections and IO thread
        self._admin: Any = None  # the KafkaAdminClient

    async def __aenter__(self) -> KafkaAdmin:
        self._worker.start()
        try:
            await self._worker.call("connect", self._connect)
        except BaseException:  # also Cancelled: the thread may still try to connect
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    # Topics

    async def cluster(self) -> Cluster:
        found = await self._ask(self._admin.describe_cluster)
        clock: float | None = None
        with contextlib.suppress(TransportError):  # an old broker, or no right to ask
            clock = _clock_in(await self._ask(self._admin.describe_metadata_quorum))
        return Cluster(
            found["cluster_id"],
            # `_manager`: no public call returns the version that the client has found.
            ".".join(map(str, self._admin._manager.broker_version)),
            found["controller_id"],
            tuple(map(answers.node_of, sorted(found["brokers"], key=lambda b: b["broker_id"]))),
            answers.rights_of(found),
            clock,
        )

    async def topics(self) -> Sequence[TopicDescription]:
        found = await self._ask(self._admin.describe_topics)
        return sorted(map(answers.topic_of, found), key=lambda topic: topic.name)

    async def topic(self, name: str) -> TopicDescription:
        (found,) = await self._ask(self._admin.describe_topics, [name])
        return answers.topic_of(found)

    async def configs(self, topic: str) -> Sequence[Config]:
        await self.topic(topic)  # the client returns nothing for a topic that does not exist
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = await self._ask(lambda: self._admin.describe_configs([resource], False, "all"))
        if not (configs := found["topic"][topic]):
            raise AuthorizationFailed(f"this client may not see the configuration of {topic!r}")
        return answers.configs_of(configs)

    async def set_configs(self, topic: str, changes: Mapping[str, str | None]) -> None:
        await self._check_configs(topic, changes)
        set_values = {name: value for name, value in changes.items() if value is not None}
        unset = [name for name, value in changes.items() if value is None]
        if set_values:
            await self._change_configs(self._admin.alter_configs, topic, set_values)
        if unset:
            await self._change_configs(self._admin.reset_configs, topic, unset)

    async def _check_configs(self, topic: str, names: Collection[str]) -> None:
        """Raise ValueError for a configuration that does not exist."""
        known = [each.name for each in await self.configs(topic)]
        for name in names:
            if name not in known:
                near = nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                raise ValueError(f"a topic has no configuration {name!r}{hint}")

    async def _change_configs(self, change: Callable[..., Any], topic: str, configs: Any) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs)
        result = (await self._call(change, [resource]))["topic"][topic]
        if result != "OK":
            if "InvalidConfiguration" in result:
                raise ValueError(f"the topic {topic!r}: {result.partition(': ')[2]}")
            raise TransportError(f"the configuration of {topic!r} was not changed: {result}")

    async def create_topic(
        self,
        name: str,
        partitions: int | None,
        replication: int | None,
        configs: Mapping[str, str],
    ) -> None:
        wanted = {
            "num_partitions": -1 if partitions is None else partitions,
            "replication_factor": -1 if replication is None else replication,
            "configs": dict(configs),
        }
        answer = await self._call(
            lambda: self._admin.create_topics({name: wanted}, raise_errors=False)
        )
        (topic,) = answer["topics"]
        answers.check(f"the topic {name!r} was not created", *_error_in(topic))
        await self._call(self._admin.wait_for_topics, [name], self._options["request_timeout_ms"])

    async def delete_topic(self, name: str) -> None:
        answer = await self._call(lambda: self._admin.delete_topics([name], raise_errors=False))
        (topic,) = answer["topics"]
        answers.check(f"the topic {name!r} was not deleted", *_error_in(topic))

    async def grow_topic(self, name: str, partitions: int) -> None:
        answer = await self._call(
            lambda: self._admin.create_partitions({name: partitions}, raise_errors=False)
        )
        (topic,) = answer.to_dict()["results"]
        answers.check(f"no partition was added to {name!r}", *_error_in(topic))

    # Offsets of logs

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]:
        return await self._log_offsets(dict.fromkeys(tps, OffsetSpec.EARLIEST))

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        return await self._log_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))

    async def offsets_at(self, tps: Collection[TP], time: float) -> dict[TP, int]:
        found = await self._log_offsets(dict.fromkeys(tps, round(time * 1000)))
        return {tp: offset for tp, offset in found.items() if offset >= 0}

    async def _log_offsets(self, specs: Mapping[TP, int]) -> dict[TP, int]:
        if not specs:
            await trio.lowlevel.checkpoint()
            return {}
        wanted = {TopicPartition(*tp): spec for tp, spec in specs.items()}
        found = await self._ask(self._admin.list_partition_offsets, wanted)
        return {TP(*tp): each.offset for tp, each in found.items()}

    # Groups

    async def groups(self) -> Sequence[GroupListing]:
        return answers.listings_of(await self._ask(self._admin.list_groups))

    async def group(self, id: str) -> GroupDescription:
        with _reading(id):
            described = await self._ask(self._describe, id)
        found = answers.group_of(described)
        if found is not None:
            return found
        # The client has no request that describes a group with the protocol "consumer".
        listed = (each.state for each in await self.groups() if each.id == id)
        return GroupDescription(id, next(listed, "Dead"), "", ())

    async def committed(self, group: str) -> dict[TP, int]:
        return {tp: each.offset for tp, each in (await self._commits_of(group)).items()}

    async def _commits_of(self, group: str) -> dict[TP, OffsetAndMetadata]:
        with _reading(group):
            found = (await self._ask(self._admin.list_group_offsets, [group]))[group]
        return {TP(*tp): each for tp, each in found.items() if each.offset >= 0}

    async def commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        # The notes of the library hold for the group. The program's text holds for the old offset.
        before = await self._commits_of(group)
        notes = {tp: notes_of(each.metadata) for tp, each in before.items()}
        wanted = {
            TopicPartition(*tp): OffsetAndMetadata(offset, notes.get(tp, ""), -1)
            for tp, offset in offsets.items()
        }
        outcomes = await self._ask(self._admin.alter_group_offsets, group, wanted)
        for tp, error in sorted(outcomes.items()):
            if issubclass(error, _HAS_MEMBERS):
                raise CommitFailed(f"the group {group!r} has members: stop them first")
            answers.check(f"{TP(*tp)} of the group {group!r}", error.errno, None)

    # In trio

    async def _ask(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Make a call that may be repeated, and repeat it while the group's broker moves."""
        backoff = Backoff(_LONGEST_WAIT, self._patience)
        while True:
            try:
                return await self._call(fn, *args)
            except TransportError as error:
                if not isinstance(error.__cause__, _MOVED) or backoff.is_spent:
                    raise
            await backoff.wait()

    async def _call(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            with translated(of_a_call):
                return await self._worker.call("request", made, fn, *args)
        except BrokerUnavailable as error:
            servers = ", ".join(self._options["bootstrap_servers"])
            reason = reason_of(error.__cause__)
            raise BrokerUnavailable(f"no answer of the brokers at {servers}: {reason}") from error

    @trio.lowlevel.enable_ki_protection
    async def _close(self) -> None:
        """Close the connections, so that a call under way fails, and join the threads.

        Cannot be cancelled. Raises TransportError: a thread was stuck, and was abandoned.
        """
        deadline = trio.current_time() + CUT_TIMEOUT
        closing = Worker(f"{self._worker.name}: closing")
        closing.start()
        if self._client is not None:
            closing.submit("close", close_client, self._client)
        if stuck := await join_workers(deadline, closing, self._worker):
            raise TransportError(f"abandoned: {'; '.join(stuck)}")

    # On the worker's thread

    def _connect(self) -> None:
        attempt = Attempt(self._options["bootstrap_servers"], self._built, self._waiting)
        with attempt.errors():
            self._admin = KafkaAdminClient(**{**self._options, **attempt.options(KafkaAdminClient)})

    def _built(self, client: Any) -> None:
        self._client = client

    def _describe(self, group: str) -> Mapping[str, Any]:
        """Return the client's description of a group.

        Raises one of `_MOVED`, which the client has only as a text in its answer.
        """
        described: Mapping[str, Any] = self._admin.describe_groups([group])[group]
        for kind in _MOVED:
            if kind.__name__ in (described["error"] or ""):
                raise kind(f"the group {group!r}")
        return described


@contextlib.contextmanager
def _reading(group: str) -> Iterator[None]:
    """Let the error of a missing right name the group."""
    try:
        yield
    except AuthorizationFailed as error:
        raise AuthorizationFailed(
            f"this client has no right to read the group {group!r}"
        ) from error


def _error_in(answer: Mapping[str, Any]) -> tuple[int, str | None]:
    return answer["error_code"], answer.get("error_message")


def _clock_in(quorum: Mapping[str, Any]) -> float | None:
    """Return the time at the leader of the controllers, which reports itself as caught up now."""
    (partition,) = quorum["topics"][0]["partitions"]
    for voter in partition["current_voters"]:
        if voter["replica_id"] == partition["leader_id"]:
            caught_up = voter.get("last_caught_up_timestamp") or -1
            return caught_up / 1000 if caught_up > 0 else None
    return None
