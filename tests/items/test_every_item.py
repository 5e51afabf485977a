"""Each item of `faust.transport.base` has a test that is named after it and runs on both brokers.

The tests of a part are in the file that is named after the part. The name of a test begins with the
names of the items that it proves. So each item leads to its test.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

import transport
from tests.test_faust_names import NAMES, ROWS

# Items that `NAMES` does not have.
BESIDE = {
    "Conductor": "on_key_decode_error on_value_decode_error",
    "Consumer": "on_start on_partitions_lost",
    "SupportTypes": """TP Message acked refcount incref decref ack RecordMetadata PendingMessage
        FutureMessage SchedulingStrategy ProducerBuffer Sensor""",
}
# Items whose test is in another file.
ELSEWHERE = {
    "App.client_only": (
        "tests/consuming/test_reading_alone.py",
        "test_client_only_reads_all_partitions_and_commits_nothing",
    ),
    "App.partitions": (
        "tests/consuming/test_reading_alone.py",
        "test_named_partitions_start_at_given_offsets_and_commit",
    ),
    "App.topic of a pattern": (
        "tests/consuming/test_patterns.py",
        "test_pattern_reads_matching_topics_and_later_ones",
    ),
    "Transport.url that is wrong": (
        "tests/drivers/test_urls.py",
        "test_error_of_invalid_url_names_problem_without_password",
    ),
    # The memory broker has no connections.
    "Producer.ssl_context": (
        "tests/kafka/test_security.py",
        "test_an_untrusted_broker_is_unavailable_after_connect_timeout",
    ),
    "Service.diag": ("tests/test_shutdown.py", "test_the_tree_shows_the_tasks_of_a_running_app"),
}
GONE = {row["theirs"] for row in ROWS if row["how"] == "gone"}
PARTS = [name for name in {**NAMES, **BESIDE} if name != "Service"]
TESTS = Path(__file__).parent.parent


def items(part: str) -> set[str]:
    names = NAMES.get(part, "").split() + BESIDE.get(part, "").split()
    return {name for name in names if f"{part}.{name}" not in GONE | set(ELSEWHERE)}


def snake(name: str) -> str:
    """Return the form of a name in the names of files and tests."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def found_in(part: str) -> dict[str, Callable[..., object]]:
    module = importlib.import_module(f"tests.items.test_{snake(part)}")
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


def proved_by(test: str, names: Collection[str]) -> set[str]:
    """Return the items with whose names the name of a test begins."""
    by_words = {snake(name): name for name in names}
    longest_first = "|".join(sorted(by_words, key=len, reverse=True))
    begins = re.match(rf"test((?:_(?:{longest_first})(?![a-z0-9]))*)", test)
    assert begins is not None
    return {by_words[word] for word in re.findall(rf"_({longest_first})(?![a-z0-9])", begins[1])}


@pytest.mark.parametrize("part", PARTS)
def test_each_item_has_a_test_by_its_name(part: str) -> None:
    proved = {test: proved_by(test, items(part)) for test in found_in(part)}
    assert [test for test, names in proved.items() if not names] == [], "named after no item"
    assert items(part) - set().union(*proved.values()) == set(), "without a test"


@pytest.mark.parametrize("part", PARTS)
def test_each_test_runs_on_both_brokers(part: str) -> None:
    for name, test in found_in(part).items():
        assert "place" in inspect.signature(test).parameters, name


@pytest.mark.parametrize(("file", "test"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_tests_in_other_files_exist(file: str, test: str) -> None:
    text = (TESTS.parent / file).read_text()
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE)


# The calls as Faust declares them, without the argument `loop`.
CALLS = """
    Transport(url, app)
    Transport.create_consumer(callback)
    Transport.create_producer()
    Transport.create_transaction_manager(consumer, producer)
    Transport.create_conductor()
    Conductor(app)
    async Conductor.commit(topics)
    Conductor.acks_enabled_for(topic)
    async Conductor.wait_for_subscriptions()
    async Conductor.maybe_wait_for_subscriptions()
    async Conductor.on_partitions_assigned(assigned)
    async Conductor.on_client_only_start()
    Conductor.clear()
    Conductor.add(topic)
    Conductor.discard(topic)
    Consumer(transport, callback, on_partitions_revoked, on_partitions_assigned, *,
        commit_interval, commit_livelock_soft_timeout)
    Consumer.on_init_dependencies()
    async Consumer.on_start()
    async Consumer.on_restart()
    async Consumer.on_stop()
    async Consumer.on_task_error(exc)
    Consumer.close()
    Consumer.on_buffer_full(tp)
    Consumer.on_buffer_drop(tp)
    async Consumer.perform_seek()
    async Consumer.seek_to_committed()
    async Consumer.seek(partition, offset)
    Consumer.stop_flow()
    Consumer.resume_flow()
    async Consumer.wait_for_stopped_flow()
    Consumer.pause_partitions(tps)
    Consumer.resume_partitions(tps)
    async Consumer.on_partitions_revoked(revoked)
    async Consumer.on_partitions_assigned(assigned, generation_id)
    Consumer.getmany(timeout)
    Consumer.track_message(message)
    Consumer.ack(message)
    async Consumer.wait_empty()
    async Consumer.commit_and_end_transactions()
    async Consumer.verify_all_partitions_active()
    Consumer.verify_event_path(now, tp)
    Consumer.verify_recovery_event_path(now, tp)
    async Consumer.commit(topics, start_new_transaction)
    async Consumer.force_commit(topics, start_new_transaction)
    async Consumer.maybe_wait_for_commit_to_finish()
    Fetcher(app)
    async Fetcher.on_stop()
    Producer(transport)
    async Producer.on_start()
    async Producer.send(topic, key, value, partition, timestamp, headers, *, transactional_id)
    Producer.send_soon(fut)
    async Producer.send_and_wait(topic, key, value, partition, timestamp, headers, *,
        transactional_id)
    async Producer.flush()
    async Producer.create_topic(topic, partitions, replication, *, config, timeout, retention,
        compacting, deleting, ensure_created)
    Producer.key_partition(topic, key)
    Producer.supports_headers()
    async Producer.begin_transaction(transactional_id)
    async Producer.commit_transaction(transactional_id)
    async Producer.abort_transaction(transactional_id)
    async Producer.stop_transaction(transactional_id)
    async Producer.maybe_begin_transaction(transactional_id)
    async Producer.commit_transactions(tid_to_offset_map, group_id, start_new_transaction)
    TransactionManager(transport, *, consumer, producer)
    async TransactionManager.on_partitions_revoked(revoked)
    async TransactionManager.on_rebalance(assigned, revoked, newly_assigned)
    async TransactionManager.send(topic, key, value, partition, timestamp, headers, *,
        transactional_id)
    TransactionManager.send_soon(fut)
    async TransactionManager.send_and_wait(topic, key, value, partition, timestamp, headers, *,
        transactional_id)
    async TransactionManager.commit(offsets, start_new_transaction)
    async TransactionManager.flush()
    async TransactionManager.create_topic(topic, partitions, replication, *, config, timeout,
        retention, compacting, deleting, ensure_created)
    TransactionManager.key_partition(topic, key)
    TransactionManager.supports_headers()
"""


@pytest.mark.parametrize(
    ("is_async", "cls", "method", "arguments"),
    re.findall(r"(async )?(\w+)\.?(\w*)\((.*?)\)", CALLS, re.DOTALL),
)
def test_a_call_takes_the_arguments_of_faust_in_their_order(
    is_async: str, cls: str, method: str, arguments: str
) -> None:
    ours = getattr(getattr(transport, cls), method or "__init__")
    assert inspect.iscoroutinefunction(ours) == bool(is_async)
    before, _, by_keyword = arguments.partition("*")
    positional = re.findall(r"\w+", before)
    keywords = {name: name for name in re.findall(r"\w+", by_keyword)}
    bound = inspect.signature(ours).bind("self", *positional, **keywords)
    for name in [*positional, *keywords]:
        more = [bound.arguments.get(name, ()) for name in ("args", "others")]
        passed_on = [*itertools.chain(*more), *bound.arguments.get("options", {}).values()]
        assert bound.arguments.get(name) == name or name in passed_on
