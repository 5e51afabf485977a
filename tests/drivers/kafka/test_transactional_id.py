"""A producer finds out from the broker whether another one has its transactional id."""

from __future__ import annotations

import pytest

from transport.drivers.kafka.transactional_id import Holder, holder_of


@pytest.mark.parametrize(
    "state", ["Empty", "Ongoing", "PrepareAbort", "CompleteAbort", "CompleteCommit"]
)
def test_in_our_own_epoch_the_id_is_asked_for(state: str) -> None:
    assert holder_of(4, state, last_epoch=4) is Holder.TO_BE_ASKED


@pytest.mark.parametrize("state", ["Ongoing", "PrepareCommit", "CompleteCommit"])
def test_no_timeout_begins_or_commits_a_transaction_in_a_later_epoch(state: str) -> None:
    """To ask for the id would abort what is open under it."""
    assert holder_of(5, state, last_epoch=4) is Holder.OTHER


@pytest.mark.parametrize("state", ["PrepareAbort", "PrepareEpochFence"])
def test_the_end_of_an_abort_is_waited_for(state: str) -> None:
    assert holder_of(5, state, last_epoch=4) is Holder.NOT_KNOWN_YET


@pytest.mark.parametrize("state", ["CompleteAbort", "Empty", "Dead"])
def test_after_an_abort_the_broker_decides(state: str) -> None:
    """A timeout may have raised the epoch, or a producer that took the id over."""
    assert holder_of(5, state, last_epoch=4) is Holder.TO_BE_ASKED
