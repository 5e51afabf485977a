"""One message that the broker refuses must not cost the producer and all that it holds.

An idempotent producer of the client counts each refusal that a retry will not mend (such as:
larger than its topic allows) as fatal: it aborts all that it holds and takes no more. Where it is
not, a new epoch is enough, which mends the gap that is left in the numbers of the messages.
"""

from __future__ import annotations

from typing import Any


def keep_alive(producer: Any) -> None:
    """Let a new producer without transactions outlive such a refusal."""
    # `_transaction_manager`, `classify_batch_error`: where the client decides that.
    manager = producer._transaction_manager
    if manager is None:
        return
    classify = manager.classify_batch_error

    def classify_mildly(error: Any, batch: Any, **details: Any) -> Any:
        verdict = classify(error, batch, **details)
        cause = error if isinstance(error, type) else type(error)
        if verdict == manager.ERROR_CLASS_FATAL and cause not in manager._FATAL_ERRORS:
            return manager.ERROR_CLASS_NEEDS_EPOCH_BUMP
        return verdict

    manager.classify_batch_error = classify_mildly
