"""`StatusSocket`: a local socket on which other programs of the same user read an app's status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import trio

from nurseries import Service
from transport.inspecting.status import Status

# The setting that stands for a path of its own for each process.
AUTO = "auto"

_TIMEOUT = 5.0  # seconds for a reader to take a status
_SUFFIX = ".sock"
_BACKLOG = 16


class StatusSocket(Service):
    """A service that writes the status of an app to each program that connects, as one JSON value.

    Only the user of this process, and root, can connect: the file has the mode 0600, and the folder
    of `auto` has 0700. A connection can change nothing.

    Args:
        path: the file of the socket, or "auto": see `status_sockets`.
        status: returns the status.
    """

    def __init__(self, app: str, path: str, status: Callable[[], Status]) -> None:
        super().__init__("StatusSocket")
        self.path = _auto_path(app) if path == AUTO else Path(path)
        self._status = status

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        await self.start("listener", self._listen)

    async def _listen(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with _listening_at(self.path) as listening:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            task_status.started()
            await trio.serve_listeners(self._answer, [listener])

    async def _answer(self, stream: trio.SocketStream) -> None:
        """Write the status, and close the connection. A reader that has gone is no error."""
        with trio.move_on_after(_TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(msgspec.json.encode(self._status()) + b"\n")


def status_folder() -> Path:
    """Return the folder of the sockets of this user's apps. It may not exist yet."""
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "kafka-nursery")
    return Path(tempfile.gettempdir(), f"kafka-nursery-{os.getuid()}")


def status_sockets() -> list[Path]:
    """Return the sockets of this user's apps with `status_socket="auto"`, by name.

    A killed app leaves its socket, to which nothing can connect.
    """
    folder = status_folder()
    return sorted(folder.glob(f"*{_SUFFIX}")) if _is_private(folder) else []


def _auto_path(app: str) -> Path:
    """Return the path for an app of this process."""
    name = re.sub(r"[^\w.-]", "_", app)[:50]  # a path of a socket has at most 107 bytes
    return status_folder() / f"{name}-{os.getpid()}{_SUFFIX}"


def _is_private(folder: Path) -> bool:
    """Return whether the folder belongs to this user alone."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


@contextlib.contextmanager
def _listening_at(path: Path) -> Iterator[socket.socket]:
    """Yield a socket that listens at the path. Remove the file at the end.

    Raises:
        RuntimeError: another app listens there; or the folder of "auto" is not this user's alone.
        OSError: the file cannot be made.
    """
    if path.parent == status_folder():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            raise RuntimeError(
                f"the folder {path.parent} of the status sockets is not this user's alone: remove"
                " it, or set status_socket to another path"
            )
    with socket.socket(socket.AF_UNIX) as listening:
        _bind(listening, path)
        try:
            path.chmod(0o600)  # nothing can connect before `listen`
            listening.listen(_BACKLOG)
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _bind(listening: socket.socket, path: Path) -> None:
    """Bind a socket to a path, also if a killed app has left its socket there."""
    try:
        listening.bind(str(path))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = error.strerror or error  # a path that is too long has no errno
            raise OSError(f"status_socket: no socket can be made at {path}: {reason}") from error
        if not path.is_socket() or _is_in_use(path):
            raise RuntimeError(
                f"the path {path} of status_socket is in use: give each process a path of its own,"
                ' or set status_socket="auto"'
            ) from error
        path.unlink()
        listening.bind(str(path))


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
