"""Which files are mutated, and which tests have to notice it."""

from __future__ import annotations

CORE = (
    "test_ledger.py",
    "test_ledger_model.py",
    "test_encoded.py",
    "test_lane.py",
    "test_channel.py",
    "test_assignment.py",
)
APPS = (
    "test_consumer.py",
    "test_rebalance.py",
    "test_shutdown.py",
    "test_committer.py",
    "test_handover.py",
    "items/test_consumer.py",
    "items/test_conductor.py",
    "items/test_fetcher.py",
)
TRANSACTIONS = ("test_transactions.py", "items/test_transaction_manager.py")
ARGUMENTS = ("test_arguments.py", "test_bad_input.py", "test_ack_threads.py")
READERS = (
    "test_restart.py",
    "test_stuck.py",
    "test_getmany.py",
    "test_patterns.py",
    "test_reading_alone.py",
    "test_monitor.py",
)

# A file of `transport`, and files or folders of `tests`. A mutant is shown to the tests that call
# what was changed, the quickest first, so a long list costs time for survivors alone.
PLAN: dict[str, tuple[str, ...]] = {
    "ledger.py": (*CORE, "test_resets.py"),
    "message.py": (
        *CORE,
        *ARGUMENTS,
        "test_message.py",
        "items/test_support_types.py",
        "test_transactions.py",
    ),
    "assignment.py": (*CORE, "test_rebalance.py"),
    "flow.py": ("test_flow.py", "items/test_consumer.py"),
    "scheduler.py": ("test_scheduler.py", "test_channel.py"),
    "rounds.py": ("test_rounds.py", "test_committer.py", *APPS, *TRANSACTIONS),
    "backoff.py": ("test_backoff.py", "test_committer.py"),
    "committer.py": ("test_committer.py", *APPS),
    "commits.py": ("test_commits.py", "test_committer.py", *APPS, *TRANSACTIONS),
    "transactions.py": (*TRANSACTIONS, *ARGUMENTS, "test_topics_that_go.py"),
    "barrier.py": (*TRANSACTIONS, "test_exactly_once_at_random.py"),
    "consumer.py": (*APPS, *READERS, *TRANSACTIONS, "model"),
    "handover.py": (*APPS, "test_fetcher.py", "test_monitor.py", *TRANSACTIONS, "model"),
    "fetcher.py": (*APPS, "test_fetcher.py", "test_stuck.py", *TRANSACTIONS, "model"),
    "ownership.py": ("test_ownership.py", *APPS, "test_monitor.py", *TRANSACTIONS, "model"),
}
