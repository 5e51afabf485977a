"""A named node of a tree of tasks, with an orderly end.

A trio nursery knows how to end its tasks at once. A service must often end in order: stop taking
work in, finish what was begun, write down how far it came, and only then let its tasks go. So a
`Service` keeps its children in a shelter: cancelling from outside, a crash among the children and
a plain `stop()` all do the same thing first, they start `on_stop`, bounded by `grace` seconds,
while the children still run. After that the children are let go: cancelled, the child services
with what is left of the grace for their own `on_stop`. What went wrong comes out of `serve` as an
ordinary exception group.
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
    """Where a service is in its life; `ENDED` services may be served again."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class ServiceError(RuntimeError):
    """A call that does not fit the state of the service."""


class StopTimeout(RuntimeError):
    """`on_stop` did not end within the grace period; the message says where it stood."""


@attrs.frozen
class Node:
    """One row of a tree, as it was when it was looked at.

    Attributes:
        waits_in: the functions, outermost first, through which the task, or the hook of the
            service, waits; empty for one that runs just now or has ended.
    """

    name: str
    state: State
    waits_in: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()

    def lines(self, indent: str = "") -> Iterator[str]:
        """The tree as text, a line a node."""
        where = f"  in {' > '.join(self.waits_in[-2:])}" if self.waits_in else ""
        yield f"{indent}{self.name}  {self.state.value}{where}"
        for child in self.children:
            yield from child.lines(indent + "    ")


@attrs.define(eq=False)
class _Child:
    """A task in the shelter of its service; on the list of its siblings until it has ended."""

    name: str
    siblings: list[_Child]
    service: Service | None = None
    shelter: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None

    def __attrs_post_init__(self) -> None:
        # Listed before the task takes its first step: whoever lets the children go must find it.
        self.siblings.append(self)

    @trio.lowlevel.enable_ki_protection
    async def run(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """The task, sheltered from its first step."""
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
        """The task, sheltered once it has started.

        Until then whoever waits for the start can be cancelled, and the start with it.
        """
        self.task = trio.lowlevel.current_task()
        try:
            with self.shelter:
                status = _Started(self, task_status)
                await exposed(functools.partial(fn, task_status=status), *args)
            if self.shelter.cancelled_caught and not self.shelter.shield:
                await trio.lowlevel.checkpoint_if_cancelled()
                raise ServiceError(f"{self.name} was let go before it had started")
        finally:
            self.siblings.remove(self)

    def let_go(self, deadline: float) -> None:
        """Cancel the task; a service has until the deadline to stop in order."""
        self.shelter.cancel()
        if self.service is not None:
            self.service.stop_soon()
            self.service._bound.deadline = min(self.service._bound.deadline, deadline)

    def look(self) -> Node:
        if self.service is not None:
            return self.service.tree()
        return Node(self.name, State.RUNNING, _waits_in(self.task))


@attrs.frozen
class _Started:
    """The task status of a child: its shelter goes up when it moves into the nursery."""

    child: _Child
    status: trio.TaskStatus[Any]

    @trio.lowlevel.enable_ki_protection
    def started(self, value: object = None) -> None:
        task = self.child.task
        assert task is not None
        starter = task.parent_nursery
        self.child.shelter.shield = True  # before the move: the nursery may be cancelled already
        self.status.started(value)
        # A task whose start was cancelled does not move. It must see that it is cancelled.
        self.child.shelter.shield = task.parent_nursery is not starter


@trio.lowlevel.disable_ki_protection
async def exposed(fn: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run code of a user, which Ctrl-C may interrupt anywhere, from code where it may not.

    A checkpoint if the code is one.
    """
    await fn(*args)


def _waits_in(task: trio.lowlevel.Task | None) -> tuple[str, ...]:
    """Names of the functions outside of trio in which the task is suspended."""
    if task is None or (trio.lowlevel.in_trio_task() and task is trio.lowlevel.current_task()):
        return ()
    return tuple(
        frame.f_code.co_qualname
        for frame, _ in task.iter_await_frames()
        if not frame.f_globals.get("__name__", "").startswith(("trio.", __name__))
    )


class Service:
    """A node of the tree; subclass it and fill in the hooks.

    Run it with `await nursery.start(service.serve)` or `async with running(service)`. Inside,
    `add_service` starts a child service and `start` / `spawn` start plain tasks.

    Args:
        name: shown in the tree and in errors; the class name unless given.
        grace: seconds that `on_stop` may take; math.inf: as long as it wants.
    """

    def __init__(self, name: str | None = None, *, grace: float = 30.0) -> None:
        arguments.or_none(arguments.text, "name", name)
        arguments.seconds("grace", grace, least=0, finite=False)
        self.name = name or type(self).__name__
        self.grace = grace
        self.state = State.IDLE
        self._children: list[_Child] = []
        self._nursery: trio.Nursery | None = None  # of the children, while it takes them in
        self._hook: trio.lowlevel.Task | None = None  # the task that runs a hook
        self._life = trio.CancelScope()  # up to the stop, which cancels it
        self._bound = trio.CancelScope(shield=True)  # of on_stop; a parent may tighten it
        self._restarted: trio.Event | None = None  # there while a restart is asked for
        self._was_ready = False
        self._on_crash: Callable[[], None] = lambda: None  # up the tree, before anything is stopped
        self._block: trio.CancelScope | None = None  # of the block that `running` serves it around
        self._ended = trio.Event()

    # Hooks

    async def on_start(self) -> None:
        """Start children and tasks; the service is ready when this returns.

        Cancelled by a stop, by cancelling from outside and by a crash among the children.
        """

    async def on_stop(self) -> None:
        """End in order, while children and tasks still run; stops the child services.

        Shielded from cancelling from outside, bounded by `grace`. Called after a crash and
        after a failed `on_start`, too: what was not set up may be missing. A child service
        that still runs afterwards, because this raised or did not stop it, stops in what is left
        of the grace, together with the others.
        """
        await self.stop_children()

    async def on_restart(self) -> None:
        """Between two lives, when all children are gone. Cancelled as `on_start` is."""

    def on_ended(self) -> None:
        """Called once, when `serve` is about to return or raise and no restart follows.

        Called after the last `on_stop`, and also where a restart has failed or was overtaken by
        a stop. Not a coroutine function; it must not raise.
        """

    # For the owner

    @trio.lowlevel.enable_ki_protection
    async def serve(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until stopped, cancelled or crashed.

        Reports itself as started once `on_start` is done, or was cut short by a stop. A
        checkpoint; cancelling leads to an orderly stop within `grace` seconds.

        Raises:
            ExceptionGroup: of what the hooks, children and tasks raised.
            ServiceError: it is being served already.
        """
        if self.state not in (State.IDLE, State.ENDED):
            raise ServiceError(f"{self.name} is {self.state.value} already")
        if self._ended.is_set():
            self._ended = trio.Event()
        self._was_ready = False
        ready = trio.Event()
        try:
            await self._live(ready, task_status)
            if not ready.is_set():
                task_status.started(self)
            while (again := self._restarted) is not None:
                self._restarted = None
                if await self._renew():
                    await self._live(again)
        except BaseExceptionGroup as group:  # Cancelled and KeyboardInterrupt stay in it
            raise _named(self.name, group) from group.__cause__
        finally:
            self._restarted = None
            self.state = State.ENDED
            self.on_ended()
            self._ended.set()

    async def stop(self) -> None:
        """Ask for an orderly stop and wait for its end; at once if it has not begun or has ended.

        A start that is under way is cancelled. A checkpoint. Cancelled: the stop goes on, only
        the waiting ends. Errors come out of `serve`, not here.
        """
        self.stop_soon()
        if self.state is State.IDLE:
            await trio.lowlevel.checkpoint()
        else:
            await self._ended.wait()

    def end_block_by(self, deadline: float) -> None:
        """Cancel the block of `running` at a deadline on trio's clock; not a checkpoint.

        The service then stops in order, as at any other end of the block. The earliest of several
        deadlines counts.
        """
        if self._block is not None:
            self._block.deadline = min(self._block.deadline, deadline)

    def stop_soon(self) -> None:
        """Ask for an orderly stop; not a checkpoint. It takes precedence over a restart."""
        self._restarted = None
        self._life.cancel()

    @trio.lowlevel.enable_ki_protection
    async def restart(self) -> None:
        """Stop in order, call `on_restart`, start again; returns once it runs again.

        Raises ServiceError if it ends instead. A checkpoint; cancelled: the restart goes on.
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
        """Whether the stop that is under way leads to another life."""
        return self._restarted is not None

    @property
    def ended(self) -> trio.Event:
        """Set when `serve` is about to return or raise."""
        return self._ended

    @property
    def time_left(self) -> float:
        """For `on_stop`: how many seconds of the grace are left, 0 or more."""
        return max(0.0, trio.current_effective_deadline() - trio.current_time())

    def tree(self) -> Node:
        """What the service and all below it do at this moment."""
        below = tuple(child.look() for child in self._children)
        return Node(self.name, self.state, _waits_in(self._hook), below)

    # For the hooks

    @trio.lowlevel.enable_ki_protection
    async def add_service(self, service: S) -> S:
        """Start a child service; returns when it is ready, raises what its start raised.

        A checkpoint; cancelled: its start is cancelled, and it has stopped in order.
        """
        arguments.instance("service", service, Service, "a Service")
        nursery = self._open_nursery
        child = _Child(service.name, self._children, service)
        service._on_crash = lambda: self._on_crash()
        await nursery.start(child.start, service.serve)
        return service

    @trio.lowlevel.enable_ki_protection
    async def start(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> Any:
        """Start a task that takes `task_status`; returns what it reports as started.

        A checkpoint; cancelled before that report: the task is cancelled.
        """
        _check_task(name, fn)
        nursery = self._open_nursery
        return await nursery.start(_Child(name, self._children).start, fn, *args)

    @trio.lowlevel.enable_ki_protection
    def spawn(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a plain task; not a checkpoint."""
        _check_task(name, fn)
        nursery = self._open_nursery
        nursery.start_soon(_Child(name, self._children).run, fn, *args)

    async def stop_children(self) -> None:
        """Stop the child services, the last one first, each waited for."""
        for child in reversed(self._children[:]):
            if child.service is not None:
                await child.service.stop()

    @property
    def _open_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise ServiceError(f"{self.name} is {self.state.value}: it can have no children now")
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
                    # The hooks are tasks, so that the grace runs from the moment that something
                    # ends the life, even if the start is slow to give up, and so that what
                    # on_stop raises stands beside what ended the start and does not replace it.
                    self._nursery.start_soon(self._begin, begun, ready, task_status)
                    try:
                        await trio.sleep_forever()
                    finally:
                        # What goes wrong before the first start is done is for who waits for it.
                        if self._was_ready and not self._life.cancel_called:
                            self._on_crash()
                        self.state = State.STOPPING
                        self._nursery.start_soon(self._wind_down, begun)
        finally:
            self._bound = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def _renew(self) -> bool:
        """Call `on_restart`; False if a stop came meanwhile."""
        self.state = State.STARTING
        with self._new_life() as life:
            async with trio.open_nursery():  # an error comes as a group, like those of other hooks
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
                child.let_go(self._bound.deadline)
        if self._bound.cancelled_caught:
            allowed = max(self._bound.deadline - since, 0)
            raise StopTimeout(
                f"{self.name} did not stop within {allowed:g} s; still there: {still_there}"
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

    The block is cancelled as soon as the service, or one below it, crashes; only then are they
    stopped. However the block ends, by its last line, an exception or cancelling, the service is
    stopped in order within its grace period. All that went wrong comes out as one exception group.
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
    except BaseExceptionGroup as group:  # Cancelled and KeyboardInterrupt stay in it
        raise _named(service.name, group) from group.__cause__


def _named(name: str, group: BaseExceptionGroup[BaseException]) -> BaseExceptionGroup[Any]:
    """Return the same group with the name of a service, and without the frames of the nurseries.

    Each part keeps its own traceback; the frames between the parts only show how we serve them.
    """
    named = BaseExceptionGroup(name, group.exceptions)
    for note in getattr(group, "__notes__", ()):
        named.add_note(note)
    return named
