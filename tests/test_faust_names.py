"""docs/faust.md has a row for each name of `faust.transport.base`, and our names in it exist."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

import transport

PAGE = Path(__file__).parent.parent / "docs" / "faust.md"
ROW = re.compile(
    r"^\| `(?P<theirs>[\w.]+)` \| (`(?P<ours>[\w.]+)`)? ?\| (?P<how>\w+)", re.MULTILINE
)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE.read_text())]

NAMES = {
    "Transport": """Consumer Producer TransactionManager Conductor Fetcher url app loop
        driver_version create_consumer create_producer create_transaction_manager
        create_conductor""",
    "Conductor": """add discard clear commit acks_enabled_for acking_topics wait_for_subscriptions
        maybe_wait_for_subscriptions on_partitions_assigned on_client_only_start on_message label
        shortlabel""",
    "Consumer": """transport app flow_active can_resume_flow suspend_flow not_waiting_next_records
        stop_flow resume_flow wait_for_stopped_flow pause_partitions resume_partitions
        on_buffer_full on_buffer_drop getmany track_message ack unacked commit force_commit
        maybe_wait_for_commit_to_finish commit_and_end_transactions commit_interval
        commit_livelock_soft_timeout wait_empty seek perform_seek seek_to_committed
        on_partitions_revoked on_partitions_assigned verify_all_partitions_active verify_event_path
        verify_recovery_event_path on_init_dependencies on_restart on_stop on_task_error close
        consumer_stopped_errors randomly_assigned_topics transactions in_transaction scheduler""",
    "Fetcher": "app on_stop",
    "Producer": """transport app send send_soon send_and_wait flush create_topic key_partition
        begin_transaction commit_transaction abort_transaction stop_transaction
        maybe_begin_transaction commit_transactions supports_headers on_start threaded_producer
        buffer client_id linger_ms max_batch_size acks max_request_size compression_type ssl_context
        partitioner request_timeout loop""",
    "TransactionManager": """app transactional_id_format on_partitions_revoked on_rebalance send
        send_soon send_and_wait commit key_partition flush create_topic supports_headers""",
    "Service": "logger log diag exit_stack async_exit_stack",
}
# The parts of an app whose names may exist only on the object.
OF_AN_APP = {"Transport": "transport", "Producer": "producer", "Consumer": "consumer"}


def test_every_name_has_its_row() -> None:
    told = {row["theirs"] for row in ROWS}
    wanted = {f"{cls}.{name}" for cls, names in NAMES.items() for name in names.split()}
    assert wanted <= told
    assert {name for name in told - wanted if "." in name} <= {"Consumer.on_start"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["theirs"]))
def test_our_name_exists(row: dict[str, str | None]) -> None:
    assert row["how"] in ("same", "better", "gone")
    if row["how"] == "gone":
        assert row["ours"] is None
        return
    assert row["ours"] is not None
    cls, _, name = row["ours"].partition(".")
    ours = getattr(transport, cls)
    fields = [field.name for field in attrs.fields(ours)] if attrs.has(ours) else []
    assert not name or hasattr(ours, name) or name in fields or hasattr(transport.App("x"), name)


@pytest.mark.parametrize(("cls", "part"), OF_AN_APP.items())
def test_an_app_has_the_attributes_of_its_parts(cls: str, part: str) -> None:
    gone = {"loop"}
    ours = getattr(transport.App("x"), part)
    missing = {name for name in NAMES[cls].split() if not hasattr(ours, name)}
    assert missing <= gone
