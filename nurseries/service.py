"""A named node in a tree of tasks, with an orderly stop.

A trio nursery ends its tasks at once. A service must often stop in order: refuse new work, finish
the work in progress, record its progress, and only then end its tasks. So a `Service` shields its
children. Cancelling from outside, a crash among the children and a plain `stop()` all begin with
the same step: `on_stop` runs, bounded by `grace` seconds, while the children still run. Then the
children are cancelled. A child service has the rest of the grace period for its own `on_stop`.
`serve` raises all errors as an ordinary exception group.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self, TypeVar

import attrs
import trio

from nurseries import arguments

S = TypeVar("S", bound="Service")


class State(enum.Enum):
    """The state of a service. A service that is `ENDED` may be served again."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class ServiceError(RuntimeError):
    """A call that the state of the service does not allow."""


class StopTimeout(RuntimeError):
    """`on_stop` did not end within the grace period. The message names what still ran."""


@attrs.frozen
class Node:
    """A snapshot of one node of a tree.

    Attributes:
        waits_in: the functions, outermost first, in which the task or the hook of the service
            waits. Empty if it runs at this moment or has ended.
    """

    name: str
    state: State
    waits_in: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()

    def lines(self, indent: str = "") -> Iterator[str]:
        """Yield the tree as text, one line for each node."""
        where = f"  in {' > '.join(self.waits_in[-2:])}" if self.waits_in else ""
        yield f"{indent}{self.name}  {self.state.value}{where}"
        for child in self.children:
            yield from child.lines(indent + "    ")


@attrs.define(eq=False)
class _Child:
    """A task of a service, which shields the task. `siblings` has the task until its end."""

    name: str
    siblings: list[_Child]
    service: Service | None = None
    shelter: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None

    def __attrs_post_init__(self) -> None:
        # Before the first step of the task: a stop that cancels the children must find it.
        self.siblings.append(self)

    @trio.lowlevel.enable_ki_protection
    async def run(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run the task, shielded from its first step on."""
        self.task = trio.lowlevel.current_task()
        self.shelter.shield = True
        try:
            with self.shelter:
                await exposed(fn, *args)
        finally:
            self.siblings.remove(self)

    @trio.lowlevel.enable_ki_protection
    async def start(
        self,
        fn: Callable[..., Awaitable[object]],
        *args: object,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        """Run the task, shielded once it has started.

        Until then, cancelling the caller that waits for the start also cancels the start.
        """
        self.task = trio.lowlevel.current_task()
        try:
            with self.shelter:
                status = _Started(self, task_status)
                await exposed(functools.partial(fn, task_status=status), *args)
            if self.shelter.cancelled_caught and not self.shelter.shield:
                await trio.lowlevel.checkpoint_if_cancelled()
                raise ServiceError(
                    f"{self.name} was cancelled before it had started: its service has stopped"
                )
        finally:
            self.siblings.remove(self)

    def cancel(self, deadline: float) -> None:
        """Cancel the task. A service has until the deadline to stop in order."""
        self.shelter.cancel()
        if self.service is not None:
            self.service.stop_soon()
            self.service._bound.deadline = min(self.service._bound.deadline, deadline)

    def node(self) -> Node:
        if self.service is not None:
            return self.service.tree()
        return Node(self.name, State.RUNNING, _waits_in(self.task))


@attrs.frozen
class _Started:
    """The task status of a child. It shields the child when the child moves into the nursery."""

    child: _Child
    status: trio.TaskStatus[Any]

    @trio.lowlevel.enable_ki_protection
    def started(self, value: object = None) -> None:
        task = self.child.task
        assert task is not None
        starter = task.parent_nursery
        self.child.shelter.shield = True  # before the move: the nursery may be cancelled already
        self.status.started(value)
        # A task whose start was cancelled does not move. The cancel must reach it.
        self.child.shelter.shield = task.parent_nursery is not starter


@trio.lowlevel.disable_ki_protection
async def exposed(fn: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run an async function without trio's protection from Ctrl-C.

    Code that has this protection calls the functions of users with it. A checkpoint if `fn` is one.
    """
    await fn(*args)


def _waits_in(task: trio.lowlevel.Task | None) -> tuple[str, ...]:
    """Return the names of the functions outside of trio in which the task is suspended."""
    if task is None or (trio.lowlevel.in_trio_task() and task is trio.lowlevel.current_task()):
        return ()
    return tuple(
        frame.f_code.co_qualname
        for frame, _ in task.iter_await_frames()
        if not frame.f_globals.get("__name__", "").startswith(("trio.", __name__))
    )


class Service:
    """A node in a tree of tasks. Subclass it and override the hooks.

    Run it with `await nursery.start(service.serve)` or `async with running(service)`. Inside,
    `add_service` starts a child service and `start` / `spawn` start plain tasks.

    Args:
        name: shown in the tree and in errors. None: the name of the class.
        grace: seconds that `on_stop` may take. math.inf: no limit.
    """

    def __init__(self, name: str | None = None, *, grace: float = 30.0) -> None:
        arguments.or_none(arguments.text, "name", name)
        arguments.seconds("grace", grace, least=0, finite=False)
        self.name = name or type(self).__name__
        self.grace = grace
        self.state = State.IDLE
        self._children: list[_Child] = []
        self._nursery: trio.Nursery | None = None  # of the children, while they may be added
        self._hook: trio.lowlevel.Task | None = None  # the task that runs a hook
        self._life = trio.CancelScope()  # from start to stop; a stop cancels it
        self._bound = trio.CancelScope(shield=True)  # of on_stop; a parent may shorten it
        self._restarted: trio.Event | None = None  # not None while a restart is pending
        self._was_ready = False
        self._has_crashed = False
        self._on_crash: Callable[[], None] = lambda: None  # called upward, before any stop
        self._block: trio.CancelScope | None = None  # of the block inside `running`
        self._ended = trio.Event()

    # Hooks

    async def on_start(self) -> None:
        """Start children and tasks. The service is ready when this returns.

        A stop, cancelling from outside and a crash among the children cancel it.
        """

    async def on_stop(self) -> None:
        """Stop in order, while children and tasks still run. By default, stop the child services.

        Shielded from cancelling from outside, and bounded by `grace`. It also runs after a crash
        and after a failed `on_start`, so parts that `on_start` creates may be missing. If this
        raises or does not stop all child services, the others stop at the same time, within the
        rest of the grace period.
        """
        await self.stop_children()

    async def on_restart(self) -> None:
        """Prepare the next start of a restart, after all children have ended.

        A stop and cancelling from outside cancel it.
        """

    def on_ended(self) -> None:
        """React to the end of the service, when `serve` is about to return or raise.

        It runs once, after the last `on_stop`, and no restart follows. It also runs if a restart
        has failed or a stop has replaced it. Not a coroutine function. It must not raise.
        """

    # For the owner

    @trio.lowlevel.enable_ki_protection
    async def serve(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the service until it is stopped, is cancelled or crashes.

        It reports itself as started when `on_start` is done, or when a stop has cancelled
        `on_start`. A checkpoint. Cancelling leads to an orderly stop within `grace` seconds.

        Raises:
            ExceptionGroup: the errors of the hooks, children and tasks.
            ServiceError: the service is being served already.
        """
        if self.state not in (State.IDLE, State.ENDED):
            raise ServiceError(f"{self.name} is {self.state.value} already")
        if self._ended.is_set():
            self._ended = trio.Event()
        self._was_ready = self._has_crashed = False
        ready = trio.Event()
        try:
            await self._live(ready, task_status)
            if not ready.is_set():
                task_status.started(self)
            while (again := self._restarted) is not None:
                self._restarted = None
                if await self._renew():
                    await self._live(again)
        except BaseExceptionGroup as group:  # it keeps Cancelled and KeyboardInterrupt
            raise _named(self.name, group) from group.__cause__
        finally:
            self._restarted = None
            self.state = State.ENDED
            self.on_ended()
            self._ended.set()

    async def stop(self) -> None:
        """Request an orderly stop, and wait for its end.

        It cancels a start that is under way. It returns at once if the service has not begun or has
        ended. `serve` raises the errors of the stop. A checkpoint. Cancelling ends only the
        waiting: the stop goes on.
        """
        self.stop_soon()
        if self.state is State.IDLE:
            await trio.lowlevel.checkpoint()
        else:
            await self._ended.wait()

    def end_block_by(self, deadline: float) -> None:
        """Cancel the block of `running` at a deadline on trio's clock. Not a checkpoint.

        The service then stops in order, as at any other end of the block. Of several deadlines, the
        earliest counts.
        """
        if self._block is not None:
            self._block.deadline = min(self._block.deadline, deadline)

    def stop_soon(self) -> None:
        """Request an orderly stop, which replaces a pending restart. Not a checkpoint."""
        self._restarted = None
        self._life.cancel()

    @trio.lowlevel.enable_ki_protection
    async def restart(self) -> None:
        """Stop in order, call `on_restart` and start again. Return when the service runs again.

        A checkpoint. Cancelling ends only the waiting: the restart goes on.

        Raises:
            ServiceError: the service does not run, was asked to stop, or ended instead.
        """
        if self._restarted is None:
            if self.state is not State.RUNNING:
                raise ServiceError(f"{self.name} is {self.state.value}, not running")
            if self._life.cancel_called:
                raise ServiceError(f"{self.name} was asked to stop")
            self._restarted = trio.Event()
        restarted = self._restarted
        self._life.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_first_of, nursery, restarted)
            nursery.start_soon(_first_of, nursery, self._ended)
        if not restarted.is_set():
            raise ServiceError(f"{self.name} ended instead of restarting")

    @property
    def is_restarting(self) -> bool:
        """Whether a restart is pending: the service starts again after its stop."""
        return self._restarted is not None

    @property
    def has_crashed(self) -> bool:
        """Whether it, or a service below it, stops because of an error or a cancel from outside."""
        return self._has_crashed

    def _note_crash(self) -> None:
        self._has_crashed = True
        self._on_crash()

    @property
    def ended(self) -> trio.Event:
        """The Event that is set when `serve` is about to return or raise."""
        return self._ended

    @property
    def time_left(self) -> float:
        """The seconds of the grace period that are left, 0 or more. Use it in `on_stop`."""
        return max(0.0, trio.current_effective_deadline() - trio.current_time())

    def tree(self) -> Node:
        """Return a snapshot of the service and all nodes below it."""
        below = tuple(child.node() for child in self._children)
        return Node(self.name, self.state, _waits_in(self._hook), below)

    # For the hooks

    @trio.lowlevel.enable_ki_protection
    async def add_service(self, service: S) -> S:
        """Start a child service, and return it when it is ready. Raise the errors of its start.

        A checkpoint. Cancelling cancels the start, and the call ends after the child has stopped in
        order.
        """
        arguments.instance("service", service, Service, "a Service")
        nursery = self._open_nursery
        child = _Child(service.name, self._children, service)
        service._on_crash = self._note_crash
        await nursery.start(child.start, service.serve)
        return service

    @trio.lowlevel.enable_ki_protection
    async def start(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> Any:
        """Start a task that takes `task_status`, and return the value of its report.

        A checkpoint. Cancelling before that report cancels the task.
        """
        _check_task(name, fn)
        nursery = self._open_nursery
        return await nursery.start(_Child(name, self._children).start, fn, *args)

    @trio.lowlevel.enable_ki_protection
    def spawn(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a plain task. Not a checkpoint."""
        _check_task(name, fn)
        nursery = self._open_nursery
        nursery.start_soon(_Child(name, self._children).run, fn, *args)

    async def stop_children(self) -> None:
        """Stop the child services one after the other, the last one first.

        A checkpoint if there are any. If it is cancelled, the current stop goes on, and the
        services before it are not asked to stop.
        """
        for child in reversed(self._children[:]):
            if child.service is not None:
                await child.service.stop()

    @property
    def _open_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise ServiceError(
                f"{self.name} is {self.state.value}: it accepts children only from the beginning of"
                " on_start to the end of on_stop"
            )
        return self._nursery

    @trio.lowlevel.enable_ki_protection
    async def _live(
        self, ready: trio.Event, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.state = State.STARTING
        begun = trio.Event()
        try:
            with self._new_life():
                async with trio.open_nursery() as self._nursery:
                    # The hooks are tasks for two reasons. The grace period begins when the service
                    # is to end, even if on_start is slow to end. An error of on_stop is raised
                    # beside the error that ended on_start, and does not replace it.
                    self._nursery.start_soon(self._begin, begun, ready, task_status)
                    try:
                        await trio.sleep_forever()
                    finally:
                        # Before the first start is done, its caller handles the error.
                        if self._was_ready and not self._life.cancel_called:
                            self._note_crash()
                        self.state = State.STOPPING
                        self._nursery.start_soon(self._wind_down, begun)
        finally:
            self._bound = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def _renew(self) -> bool:
        """Call `on_restart`. Return False if a stop was requested meanwhile."""
        self.state = State.STARTING
        with self._new_life() as life:
            async with trio.open_nursery():  # puts an error into a group, as for the other hooks
                await self._run_hook(self.on_restart)
        return not life.cancel_called

    def _new_life(self) -> trio.CancelScope:
        self._life = trio.CancelScope()
        return self._life

    @trio.lowlevel.enable_ki_protection
    async def _begin(
        self, begun: trio.Event, ready: trio.Event, task_status: trio.TaskStatus[Self]
    ) -> None:
        try:
            await self._run_hook(self.on_start)
        finally:
            begun.set()
        if self.state is State.STARTING:
            self.state = State.RUNNING
            self._was_ready = True
            ready.set()
            task_status.started(self)

    @trio.lowlevel.enable_ki_protection
    async def _wind_down(self, begun: trio.Event) -> None:
        since = trio.current_time()
        self._bound.deadline = min(self._bound.deadline, since + self.grace)
        try:
            with self._bound:
                try:
                    await begun.wait()
                finally:
                    await self._run_hook(self.on_stop)
        finally:
            still_there = ", ".join(child.name for child in self._children) or "its on_stop"
            self._nursery = None
            for child in self._children:
                child.cancel(self._bound.deadline)
        if self._bound.cancelled_caught:
            allowed = max(self._bound.deadline - since, 0)
            raise StopTimeout(
                f"{self.name} did not stop within {allowed:g} s; still running: {still_there}"
            )

    @trio.lowlevel.enable_ki_protection
    async def _run_hook(self, hook: Callable[[], Awaitable[None]]) -> None:
        self._hook = trio.lowlevel.current_task()
        try:
            await exposed(hook)
        finally:
            self._hook = None


def _check_task(name: str, fn: Callable[..., Awaitable[object]]) -> None:
    arguments.text("name", name)
    arguments.function("fn", fn, "an async function; its arguments follow it")


async def _first_of(nursery: trio.Nursery, event: trio.Event) -> None:
    await event.wait()
    nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def running(service: S) -> AsyncIterator[S]:
    """Serve a service around a block: ready at its start, stopped in order at its end.

    If the service or a service below it crashes, the block is cancelled before anything is stopped.
    At each end of the block (normal, with an exception, cancelled) the service stops in order
    within its grace period. All errors are raised as one exception group. Entering and leaving are
    checkpoints.
    """
    try:
        async with trio.open_nursery() as nursery:
            root = _Child(service.name, [], service)
            await nursery.start(root.start, service.serve)
            service._on_crash = nursery.cancel_scope.cancel
            service._block = nursery.cancel_scope
            try:
                yield service
            finally:
                with trio.CancelScope(shield=True):
                    await service.stop()
    except BaseExceptionGroup as group:  # it keeps Cancelled and KeyboardInterrupt
        raise _named(service.name, group) from group.__cause__


def _named(name: str, group: BaseExceptionGroup[BaseException]) -> BaseExceptionGroup[Any]:
    """Return the same group with the name of a service, and without the frames of the nurseries.

    Each error keeps its own traceback. The frames between the errors only show this module.
    """
    named = BaseExceptionGroup(name, group.exceptions)
    for note in getattr(group, "__notes__", ()):
        named.add_note(note)
    return named
