"""The text of the errors that ended an app: one traceback for each error, without our own frames.

An error leaves an app in nested groups, one for each node of the tree and one for each nursery.
Python prints each level with frames of the library and of trio. The report opens these groups. It
lists their errors one after the other, each with the frames of the user's code only.
"""

from __future__ import annotations

from collections.abc import Iterator
from traceback import FrameSummary, TracebackException, walk_tb
from types import FrameType

import attrs

# The packages and modules whose frames are left out.
_INTERNAL = {"transport", "nurseries", "trio", "outcome", "contextlib"}
# How the groups begin that nurseries of trio, and task groups of anyio and asyncio, make.
_OF_NURSERIES = ("Exceptions from Trio nursery", "unhandled errors in a TaskGroup")
_MOST_ERRORS = 10


def crash_report(name: str, error: BaseException) -> str:
    """Return the text about the errors that ended an app, with a line break at its end.

    - An error keeps its notes and its chain of causes.
    - An error without a frame of the user's code keeps the frame in which it was raised.
    - A group that the user's code has raised counts as one error, and Python formats it.
    - At most ten errors have a traceback. The last line gives the number of the others.

    Args:
        name: the name of the app's node in the tree.
        error: the error that left `async with app`.
    """
    # Several tasks can raise the same object, such as the error of a call that they all await.
    found = list({id(each.error): each for each in _found(name, error)}.values())
    if len(found) == 1:
        return f"{name} ended with an error{found[0].where}:\n{found[0].text()}"
    parts = [f"{name} ended with {len(found)} errors:\n"]
    for number, each in enumerate(found[:_MOST_ERRORS], 1):
        parts.append(f"\nError {number} of {len(found)}{each.where}:\n{each.text()}")
    if (left := len(found) - _MOST_ERRORS) > 0:
        parts.append(f"\n{left} more errors have no traceback here.\n")
    return "".join(parts)


@attrs.frozen
class _Found:
    """One error, and the groups in which it was found.

    Attributes:
        place: the names of the nodes of the tree below the app.
        callers: the frames of the user's code in the groups.
        notes: the notes of the groups.
    """

    error: BaseException
    place: tuple[str, ...] = ()
    callers: tuple[FrameSummary, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f" in {' > '.join(self.place)}" if self.place else ""

    def text(self) -> str:
        shown = TracebackException.from_exception(self.error, compact=True)
        _leave_out_internal_frames(shown, self.error)
        shown.stack[:0] = self.callers
        if self.notes:
            shown.__notes__ = [*(shown.__notes__ or ()), *self.notes]
        return "".join(shown.format())


def _found(name: str, error: BaseException) -> Iterator[_Found]:
    """Yield the errors of all groups that the library or a nursery has made."""
    left = [_Found(error)]
    while left:
        found = left.pop()
        group = found.error
        if not isinstance(group, BaseExceptionGroup) or _is_chained(group):
            yield found
            continue
        frames = tuple(_frames_of_user(TracebackException.from_exception(group), group))
        is_nameless = group.message == name or group.message.startswith(_OF_NURSERIES)
        if frames and not is_nameless:  # the user's code has raised it
            yield found
            continue
        place = found.place if is_nameless else (*found.place, group.message)
        notes = (*getattr(group, "__notes__", ()), *found.notes)
        left += [
            _Found(each, place, found.callers + frames, notes)
            for each in reversed(group.exceptions)
        ]


def _is_chained(error: BaseException) -> bool:
    """Return whether Python would show a cause of the error."""
    return error.__cause__ is not None or (
        error.__context__ is not None and not error.__suppress_context__
    )


def _leave_out_internal_frames(shown: TracebackException, error: BaseException) -> None:
    """Leave them out of the error, of its chain of causes, and of groups in that chain."""
    left: list[tuple[TracebackException | None, BaseException | None]] = [(shown, error)]
    while left:
        part, of = left.pop()
        if part is None or of is None:
            continue
        part.stack[:] = _frames_of_user(part, of) or part.stack[-1:]
        left += [(part.__cause__, of.__cause__), (part.__context__, of.__context__)]
        if isinstance(of, BaseExceptionGroup):
            left += zip(part.exceptions or (), of.exceptions, strict=False)


def _frames_of_user(shown: TracebackException, error: BaseException) -> list[FrameSummary]:
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return [
        summary
        for summary, frame in zip(shown.stack, frames, strict=False)
        if not _is_internal(frame)
    ]


def _is_internal(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in _INTERNAL
