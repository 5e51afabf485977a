"""The command `python -m transport`, which runs the demonstration."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence

import trio

from transport.demo import demo
from transport.errors import TransportError


async def _until_signal(scope: trio.CancelScope, got: list[int]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for signum in signals:
            got.append(signum)
            scope.cancel()


async def _demo(broker: str, orders: int) -> int:
    got: list[int] = []
    good = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope, got)
        good = (await demo(broker, orders)).is_good
        nursery.cancel_scope.cancel()
    if got:
        print(f"ended by {signal.Signals(got[0]).name}", file=sys.stderr)
        return 128 + got[0]
    return 0 if good else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m transport", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("demo", help="100,000 orders, two members, a crash, a check")
    shown.add_argument("--broker", default="memory://demo", metavar="URL")
    shown.add_argument("--orders", type=int, default=100_000, metavar="N")
    args = parser.parse_args(argv)
    try:
        return trio.run(_demo, args.broker, args.orders)
    except* (TransportError, ValueError) as group:
        for line in dict.fromkeys(_lines(group)):
            print(line, file=sys.stderr)
    return 1


def _lines(error: BaseException) -> Iterator[str]:
    """Yield one line for each error in a group."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _lines(part)
    else:
        yield f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main())
