"""A named node of a tree of tasks, with an orderly end.

A trio nursery knows how to end its tasks at once. A service must often end in order: stop taking
work in, finish what was begun, write down how far it came, and only then let its tasks go. So a
`Service` keeps its children in a shelter: cancelling from outside, a crash among the children and
a plain `stop()` all do the same thing first, they start `on_stop`, bounded by `grace` seconds,
while the children still run. After that the children are cancelled, and what went wrong comes out
of `serve` as an ordinary exception group.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self, TypeVar

import attrs
import trio

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
        waits_in: the functions, outermost first, through which the task waits; empty for a
            task that runs just now or has ended.
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
    """A task in the shelter of its service."""

    name: str
    service: Service | None = None
    shelter: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    task: trio.lowlevel.Task | None = None

    async def run(
        self,
        fn: Callable[..., Awaitable[object]],
        *args: object,
        task_status: trio.TaskStatus[Any] | None = None,
    ) -> None:
        self.task = trio.lowlevel.current_task()
        with self.shelter:
            if task_status is None:
                await fn(*args)
            else:
                await fn(*args, task_status=task_status)

    def look(self) -> Node:
        if self.service is not None:
            return self.service.tree()
        return Node(self.name, State.RUNNING, _waits_in(self.task))


def _waits_in(task: trio.lowlevel.Task | None) -> tuple[str, ...]:
    """Names of the functions outside of trio in which the task is suspended."""
    if task is None or task is trio.lowlevel.current_task():
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
        grace: seconds that `on_stop` may take.
    """

    def __init__(self, name: str | None = None, *, grace: float = 30.0) -> None:
        self.name = name or type(self).__name__
        self.grace = grace
        self.state = State.IDLE
        self._children: list[_Child] = []
        self._nursery: trio.Nursery | None = None
        self._stop_asked = trio.Event()
        self._ended = trio.Event()
        self._restarted: trio.Event | None = None  # set while a restart is asked for
        self._bound = trio.CancelScope()  # of on_stop

    # Hooks

    async def on_start(self) -> None:
        """Start children and tasks; the service is ready when this returns."""

    async def on_stop(self) -> None:
        """End in order, while children and tasks still run; stops the child services.

        Shielded from cancelling from outside, bounded by `grace`. Called after a crash and
        after a failed `on_start`, too: what was not set up may be missing.
        """
        await self.stop_children()

    async def on_restart(self) -> None:
        """Between two lives, when all children are gone."""

    # For the owner

    async def serve(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until stopped, cancelled or crashed.

        Reports itself as started once `on_start` is done. A checkpoint; cancelling leads to an
        orderly stop within `grace` seconds.

        Raises:
            ExceptionGroup: of what the hooks, children and tasks raised.
            ServiceError: it is being served already.
        """
        if self.state not in (State.IDLE, State.ENDED):
            raise ServiceError(f"{self.name} is {self.state.value} already")
        self._ended = trio.Event()
        self._stop_asked = trio.Event()
        try:
            await self._live(task_status)
            while (restarted := self._restarted) is not None:
                self._restarted = None
                self._stop_asked = trio.Event()
                await self.on_restart()
                await self._live(trio.TASK_STATUS_IGNORED, restarted)
        finally:
            self.state = State.ENDED
            self._ended.set()

    async def stop(self) -> None:
        """Ask for an orderly stop and wait for its end; at once if it has not begun or has ended.

        A checkpoint. Cancelled: the stop goes on, only the waiting ends. Errors come out of
        `serve`, not here.
        """
        self.stop_soon()
        if self.state is State.IDLE:
            await trio.lowlevel.checkpoint()
        else:
            await self._ended.wait()

    def stop_soon(self) -> None:
        """Ask for an orderly stop; not a checkpoint. It takes precedence over a restart."""
        self._restarted = None
        self._stop_asked.set()

    async def restart(self) -> None:
        """Stop in order, call `on_restart`, start again; returns once it runs again.

        Raises ServiceError if it ends instead. A checkpoint; cancelled: the restart goes on.
        """
        if self.state is not State.RUNNING:
            raise ServiceError(f"{self.name} is {self.state.value}, not running")
        self._restarted = self._restarted or trio.Event()
        restarted = self._restarted
        self._stop_asked.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_first_of, nursery, restarted)
            nursery.start_soon(_first_of, nursery, self._ended)
        if not restarted.is_set():
            raise ServiceError(f"{self.name} ended instead of restarting")

    @property
    def ended(self) -> trio.Event:
        """Set when `serve` is about to return or raise."""
        return self._ended

    def tree(self) -> Node:
        """What the service and all below it do at this moment."""
        return Node(self.name, self.state, (), tuple(child.look() for child in self._children))

    # For the hooks

    async def add_service(self, service: S) -> S:
        """Start a child service; returns when it is ready, raises what its start raised."""
        child = _Child(service.name, service)
        await self._open_nursery.start(self._adopt, child, service.serve)
        return service

    async def start(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> Any:
        """Start a task that takes `task_status`; returns what it reports as started."""
        return await self._open_nursery.start(self._adopt, _Child(name), fn, *args)

    def spawn(self, name: str, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a plain task; not a checkpoint."""
        self._open_nursery.start_soon(self._keep, _Child(name), fn, *args)

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

    async def _live(
        self, task_status: trio.TaskStatus[Self], restarted: trio.Event | None = None
    ) -> None:
        self.state = State.STARTING
        self._bound = trio.CancelScope()
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self.on_start()
                    self.state = State.RUNNING
                    task_status.started(self)
                    if restarted is not None:
                        restarted.set()
                    await self._stop_asked.wait()
                finally:
                    await self._wind_down()
        finally:
            self._nursery = None

    async def _wind_down(self) -> None:
        self.state = State.STOPPING
        still_there: list[str] = []
        try:
            with self._bound:
                self._bound.shield = True
                self._bound.deadline = min(self._bound.deadline, trio.current_time() + self.grace)
                try:
                    await self.on_stop()
                finally:
                    still_there += [child.name for child in self._children]
        finally:
            for child in self._children:
                child.shelter.cancel()
                if child.service is not None:
                    child.service._bound.cancel()  # its grace is within ours, used up or not
        if self._bound.cancelled_caught and trio.current_time() >= self._bound.deadline:
            raise StopTimeout(
                f"{self.name} did not stop within {self.grace:g} s;"
                f" still there: {', '.join(still_there) or 'its on_stop'}"
            )

    async def _adopt(
        self,
        child: _Child,
        fn: Callable[..., Awaitable[object]],
        *args: object,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        self._children.append(child)
        try:
            await child.run(fn, *args, task_status=task_status)
        finally:
            self._children.remove(child)

    async def _keep(
        self, child: _Child, fn: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        self._children.append(child)
        try:
            await child.run(fn, *args)
        finally:
            self._children.remove(child)


async def _first_of(nursery: trio.Nursery, event: trio.Event) -> None:
    await event.wait()
    nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running(service: S) -> AsyncIterator[S]:
    """Serve a service around a block: ready at its start, stopped in order at its end.

    The block is cancelled when the service crashes. However the block ends, by its last line, an
    exception or cancelling, the service is stopped in order within its grace period. All that went
    wrong comes out as one exception group.
    """
    async with trio.open_nursery() as nursery:
        root = _Child(service.name, service)
        await nursery.start(root.run, service.serve)
        try:
            yield service
        finally:
            with trio.CancelScope(shield=True):
                await service.stop()
