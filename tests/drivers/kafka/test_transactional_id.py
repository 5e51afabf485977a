"""The owner of a transactional id, by the state that the broker reports."""

from __future__ import annotations

import pytest

from transport.drivers.kafka.transactional_id import Holder, holder_of


@pytest.mark.parametrize(
    "state", ["Empty", "Ongoing", "PrepareAbort", "CompleteAbort", "CompleteCommit"]
)
def test_id_is_requested_in_our_own_epoch(state: str) -> None:
    assert holder_of(4, state, last_epoch=4) is Holder.TO_BE_ASKED


@pytest.mark.parametrize("state", ["Ongoing", "PrepareCommit", "CompleteCommit"])
def test_transaction_in_later_epoch_means_another_owner(state: str) -> None:
    """A request for the id would abort the other producer's transaction."""
    assert holder_of(5, state, last_epoch=4) is Holder.OTHER


@pytest.mark.parametrize("state", ["PrepareAbort", "PrepareEpochFence"])
def test_owner_is_not_known_until_an_abort_ends(state: str) -> None:
    assert holder_of(5, state, last_epoch=4) is Holder.NOT_KNOWN_YET


@pytest.mark.parametrize("state", ["CompleteAbort", "Empty", "Dead"])
def test_id_is_requested_after_an_abort(state: str) -> None:
    """Either a timeout or a producer that took the id over may have raised the epoch."""
    assert holder_of(5, state, last_epoch=4) is Holder.TO_BE_ASKED
