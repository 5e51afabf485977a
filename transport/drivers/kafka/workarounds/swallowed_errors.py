"""Errors in the client's own threads, tasks and callbacks, which the client only logs.

The client catches an unexpected error where it happens, logs it and continues. It forgets what the
failed step held: a message or a request gets no outcome, or only a timeout. So this module watches
each such place and reports the first error of a client to the client's owner at once. The owner
then closes the client. `docs/client.md` lists the places.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import kafka.errors

# Failures in a row that count as an error: a single failure may be a race with another thread.
_MOST = 3

F = TypeVar("F", bound=Callable[..., Any])


class Crashed(kafka.errors.KafkaError):  # type: ignore[misc]
    """The client failed while it held a message or a request that the broker may have received."""


class NeverSent(kafka.errors.KafkaError):  # type: ignore[misc]
    """The client failed while it held a message that no request contained."""


class Crash:
    """The first unexpected error of one client.

    Args:
        report: called once, with that error, on the thread where it happened.

    Attributes:
        error: the first unexpected error; None: there was none.
    """

    def __init__(self, report: Callable[[BaseException], object]) -> None:
        self._report = report
        self.error: BaseException | None = None

    def note(self, error: BaseException) -> None:
        """Record an error, from any thread. Later errors change nothing."""
        if self.error is None:
            self.error = error
            self._report(error)

    def watching(self, fn: F) -> F:
        """Return the function wrapped so that its errors are recorded and raised."""

        @functools.wraps(fn)
        def watched(*args: Any, **options: Any) -> Any:
            try:
                return fn(*args, **options)
            except BaseException as error:  # the client logs it and continues
                self.note(error)
                raise

        return watched  # type: ignore[return-value]


def watch_tasks(client: Any, crash: Crash) -> None:
    """Record each error that ends a task of the client's loop, such as a timer or a connection."""
    # `_net`, `_task_done`, `_exc`: the loop logs the error of a task and drops the task.
    net, manager = client._net, client._manager
    task_done = net._task_done

    def note_and_drop(task: Any) -> None:
        error = task._exc
        # Closing the client also ends its tasks with an error.
        if isinstance(error, Exception) and not manager.closed:
            crash.note(error)
        task_done(task)

    net._task_done = note_and_drop


def close_client(client: Any) -> None:
    """Close a client's sockets and end its loop, even if the loop has crashed."""
    # `_net`, `_exception`: after a crash each step of the closing raises the loop's error.
    if client._net._exception is None:
        client.close()
        return
    client._net._exception = None
    with contextlib.suppress(Exception):
        client.close()


def watch_fetches(consumer: Any, crash: Crash) -> None:
    """Record each error in a new consumer's handling of a fetch."""
    # `_fetcher`, `_handle_fetch_response`, `_handle_fetch_error`: callbacks, whose errors a future
    # of the client logs. The client then fetches the same data, and fails again.
    fetcher = consumer._fetcher
    fetcher._handle_fetch_response = crash.watching(fetcher._handle_fetch_response)
    fetcher._handle_fetch_error = crash.watching(fetcher._handle_fetch_error)


class Lookups:
    """The tasks in which the client's consumer looks up its positions."""

    def __init__(self, consumer: Any) -> None:
        # `_fetcher`, `_reset_task`, `_validation_task`: nothing waits for these tasks. After a
        # failure each poll starts a new one, and the partition makes no progress.
        self._fetcher = consumer._fetcher
        self._seen: dict[str, Any] = dict.fromkeys(("_reset_task", "_validation_task"))
        self._failures = dict.fromkeys(self._seen, 0)

    def error(self) -> BaseException | None:
        """Return the error of a task that fails repeatedly; None: the tasks make progress."""
        for name, seen in self._seen.items():
            task = getattr(self._fetcher, name)
            if task is None or task is seen or not task.is_done:
                continue
            self._seen[name] = task
            passes = task.succeeded() or task.retriable()
            self._failures[name] = 0 if passes else self._failures[name] + 1
            if self._failures[name] >= _MOST:
                return task.exception  # type: ignore[no-any-return]
        return None


def watch_sender(producer: Any, crash: Crash, *, keeps: bool) -> None:
    """Record each error in the network thread of a new producer.

    The owner must then close the sender by force. Messages that the thread held fail with
    `Crashed`, or with `NeverSent` if `keeps` is set and no request contained them.
    """
    # `_sender`, `run_once`: the thread logs the error of a pass and makes the next pass. It forgets
    # the batches that the failed pass had taken, or the same pass fails forever.
    sender = producer._sender
    run_once, drain = sender.run_once, sender._accumulator.drain
    has_taken = False
    in_a_row = 0

    def drain_noted(cluster: Any, nodes: Any, *args: Any, **options: Any) -> Any:
        nonlocal has_taken
        has_taken = has_taken or bool(nodes)
        return drain(cluster, nodes, *args, **options)

    def run_once_or_end() -> None:
        nonlocal has_taken, in_a_row
        has_taken = False
        try:
            run_once()
        except BaseException as error:  # the client would log it and continue
            in_a_row += 1
            # A pass that has taken no batch is repeated: it may have raced with another thread.
            if has_taken or in_a_row >= _MOST or not isinstance(error, Exception):
                crash.note(error)
            # An Exception, so that after any error the thread still runs its closing steps.
            raise RuntimeError("a pass of the network thread failed") from error
        in_a_row = 0

    # `_accumulator`, `drain`: takes batches out of their queues.
    sender._accumulator.drain = drain_noted
    sender.run_once = run_once_or_end
    # `_handle_produce_response`, `_failed_produce`: callbacks, whose errors a future of the client
    # logs. Their batches then get no outcome.
    sender._handle_produce_response = crash.watching(sender._handle_produce_response)
    sender._failed_produce = crash.watching(sender._failed_produce)
    if (manager := producer._transaction_manager) is not None:
        _watch_requests(sender, manager, crash)
    _end_in_order(sender, crash, keeps)


def _watch_requests(sender: Any, manager: Any, crash: Crash) -> None:
    """Record errors in answers to transaction requests; fail open requests at a forced close."""
    # `next_request_handler`, `on_complete`: `on_complete` is also a callback. After an error in it,
    # the client sends no other request, because it waits for this one forever.
    next_handler = manager.next_request_handler
    last: list[Any] = []

    def next_watched(has_incomplete: bool) -> Any:
        handler = next_handler(has_incomplete)
        if handler is not None:
            last[:] = [handler]
            if "on_complete" not in vars(handler):
                handler.on_complete = crash.watching(handler.on_complete)
        return handler

    def fail_requests() -> None:
        closed = kafka.errors.Cancelled("the client was closed")
        error = closed if crash.error is None else Crashed(crash.error)
        # `_pending_requests`: the queue of requests.
        with manager._lock:
            for handler in [*last, *(entry[-1] for entry in manager._pending_requests)]:
                if not handler.result.is_done:
                    handler.fail(error)

    # `force_close`: in the client it never completes such a request.
    force_close = sender.force_close

    def force_close_and_fail() -> None:
        force_close()
        fail_requests()

    manager.next_request_handler = next_watched
    sender.force_close = force_close_and_fail


def _end_in_order(sender: Any, crash: Crash, keeps: bool) -> None:
    # `_produce_request`: makes a request of batches.
    produce_request = sender._produce_request
    requested: weakref.WeakSet[Any] = weakref.WeakSet()

    def noting(node_id: Any, acks: Any, timeout: Any, batches: Any) -> Any:
        requested.update(batches)
        return produce_request(node_id, acks, timeout, batches)

    sender._produce_request = noting
    # `_accumulator`, `abort_batches`: closes each batch before it fails the batch. If one batch
    # cannot be closed, the others get no outcome, and the sockets stay open.
    accumulator = sender._accumulator

    def outcome(batch: Any, error: Exception) -> Exception:
        if crash.error is None:
            return error
        if batch not in requested:
            try:
                batch.records.close()
            except Exception as own:  # noqa: BLE001 - any error concerns only this batch
                return own
            if keeps:
                return NeverSent()
        return Crashed(crash.error)

    def abort_each(error: Exception) -> None:
        for batch in accumulator._incomplete.all():
            with accumulator._tp_lock(batch.topic_partition):
                queue = accumulator._batches[batch.topic_partition]
                if batch in queue:
                    queue.remove(batch)
            if batch.final_state is None:
                batch.abort(outcome(batch, error))
            accumulator.deallocate(batch)

    accumulator.abort_batches = abort_each
