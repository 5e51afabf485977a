"""The files that are mutated, and the tests that must detect their mutants."""

from __future__ import annotations

CORE = (
    "delivering/test_ledger.py",
    "delivering/test_ledger_model.py",
    "delivering/test_encoded.py",
    "delivering/test_lane.py",
    "delivering/test_channel.py",
    "delivering/test_assignment.py",
)
APPS = (
    "consuming/test_consumer.py",
    "consuming/test_rebalances.py",
    "test_shutdown.py",
    "committing/test_committer.py",
    "consuming/test_rebalance_handler.py",
    "items/test_consumer.py",
    "items/test_conductor.py",
    "items/test_fetcher.py",
)
TRANSACTIONS = ("committing/test_transactions.py", "items/test_transaction_manager.py")
ARGUMENTS = ("test_arguments.py", "test_bad_input.py", "delivering/test_ack_threads.py")
READERS = (
    "consuming/test_restart.py",
    "consuming/test_stuck.py",
    "consuming/test_getmany.py",
    "consuming/test_patterns.py",
    "consuming/test_reading_alone.py",
    "monitoring/test_monitor.py",
)
HANDLERS = (
    "handling/test_handler.py",
    "handling/test_handler_failures.py",
    "handling/test_handler_ends.py",
    "handling/test_handler_rebalances.py",
    "handling/test_dead_letters.py",
    "handling/test_handlers.py",
    "handling/test_letters_topic.py",
    "handling/test_loading.py",
    "handling/test_observer.py",
    "handling/test_handler_transactions.py",
)

# The keys are files of `transport`, the values files or folders of `tests`. A mutant runs only the
# tests that call the changed function, the fastest first. So a long list costs time only for
# mutants that survive.
PLAN: dict[str, tuple[str, ...]] = {
    "delivering/ledger.py": (*CORE, "consuming/test_resets.py"),
    "message.py": (
        *CORE,
        *ARGUMENTS,
        "delivering/test_message.py",
        "items/test_support_types.py",
        "committing/test_transactions.py",
    ),
    "delivering/assignment.py": (*CORE, "consuming/test_rebalances.py"),
    "delivering/drain.py": (
        "delivering/test_drain.py",
        "consuming/test_rebalance_handler.py",
        "committing/test_transactions.py",
        "items/test_consumer.py",
    ),
    "delivering/flow.py": ("delivering/test_flow.py", "items/test_consumer.py"),
    "scheduler.py": (
        "delivering/test_scheduler.py",
        "delivering/test_channel.py",
        "test_arguments.py",
    ),
    "backoff.py": ("test_backoff.py", "committing/test_committer.py"),
    "committing/commit_queue.py": (
        "committing/test_commit_queue.py",
        "committing/test_committer.py",
        *APPS,
        *TRANSACTIONS,
    ),
    "committing/committer.py": (
        "committing/test_committer.py",
        "committing/test_results.py",
        *APPS,
    ),
    "committing/autocommit.py": (
        "committing/test_autocommit.py",
        "committing/test_results.py",
        "committing/test_committer.py",
        *APPS,
        *TRANSACTIONS,
    ),
    "committing/livelock.py": ("committing/test_livelock.py", "committing/test_autocommit.py"),
    "committing/transactions.py": (
        *TRANSACTIONS,
        *ARGUMENTS,
        "consuming/test_topics_deleted.py",
    ),
    "committing/barrier.py": (*TRANSACTIONS, "committing/test_exactly_once_at_random.py"),
    "consuming/consumer.py": (
        *APPS,
        *READERS,
        *TRANSACTIONS,
        *ARGUMENTS,
        "test_endings.py",
        "consuming/test_fetcher.py",
        "consuming/test_resets.py",
        "consuming/test_topics_deleted.py",
        "consuming/test_membership.py",
        "consuming/test_ends.py",
        "committing/test_autocommit.py",
        "delivering/test_encoded.py",
        "model",
    ),
    "consuming/rebalance_handler.py": (
        *APPS,
        "consuming/test_fetcher.py",
        "consuming/test_resets.py",
        "consuming/test_topics_deleted.py",
        "monitoring/test_monitor.py",
        *TRANSACTIONS,
        "model",
    ),
    "consuming/polling.py": (
        *APPS,
        "consuming/test_fetcher.py",
        "consuming/test_resets.py",
        "consuming/test_stuck.py",
        *TRANSACTIONS,
        "model",
    ),
    "consuming/poll_requests.py": (*APPS, "consuming/test_fetcher.py", *TRANSACTIONS, "model"),
    "consuming/pauses.py": (
        "consuming/test_pauses.py",
        *APPS,
        "consuming/test_fetcher.py",
        *TRANSACTIONS,
        "model",
    ),
    "consuming/ownership.py": (
        "consuming/test_ownership.py",
        *APPS,
        "consuming/test_fetcher.py",
        "consuming/test_resets.py",
        "monitoring/test_monitor.py",
        *TRANSACTIONS,
        "model",
    ),
    "handling/key_order.py": (
        "handling/test_key_order.py",
        "handling/test_key_order_model.py",
        "handling/test_handler_failures.py",
    ),
    "handling/retry.py": ("handling/test_retry.py",),
    "handling/timers.py": ("handling/test_timers.py",),
    "handling/workers.py": ("handling/test_workers.py", "handling/test_handler.py"),
    "handling/dead_letters.py": ("handling/test_dead_letters.py", "handling/test_letters_topic.py"),
    "handling/last_resort.py": HANDLERS,
    "handling/handlers.py": HANDLERS,
    "handling/intake.py": HANDLERS,
    "handling/handler.py": HANDLERS,
}
