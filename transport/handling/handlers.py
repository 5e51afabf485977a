"""The handlers of an app: a node of the tree, with each handler below it.

Look here for the checks across handlers, and for the way in which they stop together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nurseries import Service, State
from transport.consuming.host import Host
from transport.errors import AppClosed
from transport.handling.handler import Handler
from transport.handling.observer import Observer
from transport.handling.plan import Plan
from transport.topic import Topic


class Handlers(Service):
    """All handlers of one app, in the order in which they were added.

    Args:
        must_hurry: whether the app has crashed, so that running messages are cancelled at once.
        observers: receive the events of all handlers.

    Attributes:
        observers: the same. The list may change while the app runs.
    """

    def __init__(
        self, app: Host, must_hurry: Callable[[], bool], observers: Iterable[Observer] = ()
    ) -> None:
        super().__init__("Handlers", grace=app.settings.grace)
        self.observers = list(observers)
        self._app = app
        self._must_hurry = must_hurry
        self._handlers: list[Handler] = []

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, plan: Plan) -> None:
        """Add a handler, which starts with the app, or now if the app is open.

        Raises:
            ValueError: another handler has the name, or messages could go round in a circle. With
                transactions, another handler reads the same topic.
            AppClosed: the app is closing or closed.
        """
        if self.state in (State.STOPPING, State.ENDED):
            raise AppClosed(f"the app {self._app.id!r} is closing or closed")
        if plan.topic.app is not self._app:
            raise ValueError(
                f"the handler {plan.name!r} reads a topic of another app: make the topic with the"
                " app of the handler"
            )
        if any(plan.name == handler.plan.name for handler in self._handlers):
            raise ValueError(
                f"the app {self._app.id!r} has a handler {plan.name!r} already: pass another name="
            )
        plans = [handler.plan for handler in self._handlers]
        _check_circles([*plans, plan])
        if self._app.settings.transactions is not None:
            _check_shared(plans, plan)
        handler = Handler(plan, self._app, self._must_hurry, self.observers)
        self._handlers.append(handler)
        for observer in self.observers:
            observer.on_added(plan)
        if self.state is State.RUNNING:
            self.spawn(f"start of {handler.name}", self.add_service, handler)

    async def on_start(self) -> None:
        for handler in self._handlers:  # also those that are added meanwhile
            await self.add_service(handler)

    async def on_stop(self) -> None:
        """Stop all handlers at the same time."""
        for handler in self._handlers:
            handler.stop_soon()
        await self.stop_children()


def _check_circles(plans: list[Plan]) -> None:
    """Refuse handlers whose dead letters could come back to them.

    Such a message would be handled again and again, for ever.
    """
    for plan in plans:
        ways = [[name] for name in _letters_of(plan)]
        seen: set[str] = set()
        for way in ways:  # it grows meanwhile
            letters = way[-1]
            if plan.topic.matches(letters):
                raise ValueError(
                    f"the dead letters of the handler {plan.name!r} would come back to it, through"
                    f" {' and '.join(way)}: send them to a topic that no handler reads from"
                )
            if letters not in seen:
                seen.add(letters)
                readers = [each for each in plans if each.topic.matches(letters)]
                ways += [[*way, name] for each in readers for name in _letters_of(each)]


def _check_shared(plans: list[Plan], new: Plan) -> None:
    """Refuse a second handler of a topic: with transactions, only one reader may listen to it.

    Of two patterns it is not known which topics they match.
    """
    for plan in plans:
        names = [each.topic.name for each in (plan, new) if each.topic.pattern is None]
        if any(plan.topic.matches(name) and new.topic.matches(name) for name in names):
            raise ValueError(
                f"the handlers {plan.name!r} and {new.name!r} both read {names[0]!r}. With"
                " transactions, a topic can have only one handler, because the output of one would"
                " be committed without that of the other: call both functions in one handler"
            )


def _letters_of(plan: Plan) -> tuple[str, ...]:
    """Return the name of the topic of the dead letters, if there is one."""
    return (plan.dead_letters.name,) if isinstance(plan.dead_letters, Topic) else ()
