"""A KeyboardInterrupt at a chosen line."""

from __future__ import annotations

import signal
from collections.abc import Collection
from types import FrameType
from typing import Any


class AtLine:
    """A trace function that sends SIGINT before a line of the given files.

    The lines are counted as they run. Set it with `sys.settrace`.
    """

    def __init__(self, number: int, files: Collection[str]) -> None:
        self._left = number
        self._files = files
        self.where = "nowhere"

    @property
    def reached(self) -> bool:
        return self._left < 0

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if frame.f_code.co_name == "exposed":  # only calls a hook: the same as inside the hook
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self._left -= 1
            if self._left == -1:
                self.where = f"{frame.f_code.co_qualname}, {frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self._line
