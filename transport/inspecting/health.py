"""`Health`: whether an app is alive and ready, for the probes of a supervisor. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from nurseries import State
from transport.inspecting.status import Status


@attrs.frozen
class Health:
    """The answer to a probe.

    Attributes:
        live: False: only a restart of the process helps. The app has ended, or the client is not
            polled.
        ready: the app is open and was not stopped, has joined its group, is not too far behind, and
            nothing is stuck.
        reasons: why it is not live, and why it is not ready. Empty: all is well.
    """

    live: bool
    ready: bool
    reasons: tuple[str, ...]


def health_of(status: Status, ready_lag: int | None) -> Health:
    """Return the health of an app.

    Args:
        ready_lag: the most messages that a ready app may be behind, over all its partitions. None:
            the lag does not count.
    """
    dead = tuple(_deadly(status))
    reasons = (*dead, *_hindering(status, ready_lag))
    return Health(live=not dead, ready=not reasons, reasons=reasons)


def _deadly(status: Status) -> Iterator[str]:
    """Yield what only a restart of the process mends."""
    if status.tree.state is State.ENDED:
        yield "the app has crashed" if status.has_crashed else "the app has closed"
    elif not status.is_polled:
        yield "the client is not polled: its thread, or the polling task, hangs"


def _hindering(status: Status, ready_lag: int | None) -> Iterator[str]:
    """Yield what may pass, or what a restart does not mend."""
    match status.tree.state:
        case State.IDLE | State.STARTING:
            yield "the app is not open yet"
            return
        case State.STOPPING:
            yield f"the app is closing{' after an error' if status.has_crashed else ''}"
            return
        case State.ENDED:
            return
    if status.has_stopped:
        yield "the app was stopped: its loops and handlers end"
    if status.is_member is False:
        yield "the app has not joined its group, or was removed from it"
    for partition in status.partitions:
        if partition.stuck is not None:
            yield f"{partition} is stuck: {partition.stuck}"
        elif partition.highwater is None and not partition.is_paused:
            yield f"{partition} was not fetched from yet"
    lag = sum(partition.lag or 0 for partition in status.partitions)
    if ready_lag is not None and lag > ready_lag:
        yield f"the app is {lag:,} messages behind, which is more than ready_lag ({ready_lag:,})"
