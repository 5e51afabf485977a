"""The faults: each one breaks and repairs something, for its test and for the soak.

Each waits until all messages that were acknowledged meanwhile are handled and copied. Its test has
further checks, in `test_brokers`, `test_network` or `test_programs`.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.brokers import BROKER_SESSION, Node, ThreeBrokers
from tests.faults.load import Load

# In seconds.
SHORT_FREEZE = BROKER_SESSION / 3
SHORT_CUT = 5.0
WHILE = 8.0
SLOW_CLOSE = 3.0
# In milliseconds.
LATENCY, JITTER = 300, 100
RESET_AFTER = 1500


def leader_killed(brokers: ThreeBrokers, load: Load) -> None:
    _killed(brokers, load, "leader killed", brokers.leader_of(load.topic, 0))


def group_coordinator_killed(brokers: ThreeBrokers, load: Load) -> None:
    coordinator = brokers.coordinator_of(load.group)
    _killed(brokers, load, "group coordinator killed", coordinator)


def transaction_coordinator_killed(brokers: ThreeBrokers, load: Load) -> None:
    an_id = brokers.transactional_ids(load.copying)[-1]
    coordinator = brokers.coordinator_of_transaction(an_id)
    _killed(brokers, load, "transaction coordinator killed", coordinator)


def _killed(brokers: ThreeBrokers, load: Load, name: str, node: Node) -> None:
    with load.fault(name):
        node.kill()
        load.goes_on()
        brokers.heal()


def broker_frozen_for_a_moment(brokers: ThreeBrokers, load: Load) -> None:
    node = brokers.leader_of(load.topic, 0)
    with load.fault("broker frozen, shorter than its session"):
        node.freeze()
        try:
            load.run_for(SHORT_FREEZE)
        finally:
            node.thaw()


def broker_frozen_for_long(brokers: ThreeBrokers, load: Load) -> None:
    node = brokers.leader_of(load.topic, 0)
    with load.fault("broker frozen, longer than its session"):
        node.freeze()
        try:
            load.goes_on()
            load.run_for(BROKER_SESSION)
        finally:
            node.thaw()
        brokers.heal()


def rolling_restart(brokers: ThreeBrokers, load: Load) -> None:
    with load.fault("rolling restart"):
        for node in brokers.nodes.values():
            node.restart()
            brokers.wait_until_whole()


def connections_refused(brokers: ThreeBrokers, load: Load) -> None:
    with load.fault("connections refused"), brokers.network.refusing():
        load.run_for(SHORT_CUT)


def network_cut_for_a_moment(brokers: ThreeBrokers, load: Load) -> None:
    with load.fault("network cut, shorter than the session"), brokers.network.silent():
        load.run_for(SHORT_CUT)


def network_cut_for_long(brokers: ThreeBrokers, load: Load) -> None:
    with load.fault("network cut, longer than the session"), brokers.network.silent():
        load.run_for(load.session + WHILE)


def latency(brokers: ThreeBrokers, load: Load) -> None:
    slow = brokers.network.poisoned("latency", latency=LATENCY, jitter=JITTER)
    with load.fault("latency"), slow:
        load.run_for(WHILE)
        load.goes_on()


def resets(brokers: ThreeBrokers, load: Load) -> None:
    with load.fault("connections reset"):
        for _ in range(3):
            with brokers.network.poisoned("reset_peer", timeout=RESET_AFTER):
                load.run_for(WHILE / 3)


def slow_close(brokers: ThreeBrokers, load: Load) -> None:
    late = brokers.network.poisoned("slow_close", delay=round(SLOW_CLOSE * 1000))
    with load.fault("slow close"), late:
        brokers.leader_of(load.topic, 0).restart()
        load.goes_on()
        brokers.wait_until_whole()


def programs_frozen_for_a_moment(brokers: ThreeBrokers, load: Load) -> None:
    _frozen(load, "programs frozen, shorter than the session", load.session / 3)


def programs_frozen_for_long(brokers: ThreeBrokers, load: Load) -> None:
    _frozen(load, "programs frozen, longer than the session", 2 * load.session)


def _frozen(load: Load, name: str, seconds: float) -> None:
    """Freeze one program of each group."""
    frozen = load.members[0], load.copiers[0]
    with load.fault(name):
        for program in frozen:
            program.freeze()
        try:
            load.run_for(seconds)
        finally:
            for program in frozen:
                program.thaw()


Fault = Callable[[ThreeBrokers, Load], None]
FAULTS: tuple[Fault, ...] = (
    leader_killed,
    group_coordinator_killed,
    transaction_coordinator_killed,
    broker_frozen_for_a_moment,
    broker_frozen_for_long,
    rolling_restart,
    connections_refused,
    network_cut_for_a_moment,
    network_cut_for_long,
    latency,
    resets,
    slow_close,
    programs_frozen_for_a_moment,
    programs_frozen_for_long,
)
