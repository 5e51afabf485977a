"""The pauses that the polling task applies to the client: `transport/consuming/pauses.py`."""

from __future__ import annotations

from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from transport import TP
from transport.consuming.pauses import Pauses
from transport.delivering.flow import Flow

FIRST, SECOND = TP("orders", 0), TP("orders", 1)
NONE: frozenset[TP] = frozenset()


def paused_by_user(flow: Flow, assigned: set[TP]) -> Pauses:
    """Return pauses of a client that has just paused the first partition."""
    pauses = Pauses(assigned, flow, lambda tp: False)
    flow.pause({FIRST}, assigned)
    paused, resumed = pauses.changes()
    assert (paused, resumed) == ({FIRST}, NONE)
    pauses.note_applied(paused, resumed)
    assert pauses.changes() == (NONE, NONE)
    return pauses


@jumping
async def test_nothing_is_fetched_while_flow_is_stopped() -> None:
    broker = broker_with(FIRST, records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        messages = app.topic("orders").noack()
        await take(messages, 1)
        app.consumer.stop_flow()
        await app.consumer.wait_for_stopped_flow()
        write(broker, FIRST, 2)
        await wait_all_tasks_blocked()
        assert app.consumer.assignment[FIRST].waiting == 0
        app.consumer.resume_flow()
        assert [message.offset for message in await take(messages, 2)] == [1, 2]


async def test_partition_is_resumed_that_the_user_resumes_during_an_assignment_of_others() -> None:
    flow, assigned = Flow(), {FIRST}
    pauses = paused_by_user(flow, assigned)
    assigned.add(SECOND)
    assert pauses.paused_at_start(frozenset({SECOND})) == NONE
    flow.unpause({FIRST}, assigned)
    assert pauses.changes() == (NONE, {FIRST})


async def test_partition_that_the_client_started_without_its_pause_is_paused_again() -> None:
    flow, assigned = Flow(), {FIRST, SECOND}
    pauses = paused_by_user(flow, assigned)
    pauses.forget(frozenset({FIRST, SECOND}))
    assert pauses.changes() == ({FIRST}, NONE)
