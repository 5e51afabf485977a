"""The command `kafka-nursery`, also as `python -m transport`.

The verbs are in `transport/command_line/`, and need the extra `kafka-nursery[cli]`. Without it,
only `--version` and `demo` work, and each other verb names the extra. So this file must not import
what the extra brings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from transport.demo import run_demo

NAME = "kafka-nursery"
# The packages of the extra that the command line cannot do without.
_EXTRA = ("cyclopts", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if all(find_spec(name) for name in _EXTRA):
        from transport.command_line.program import main as run_verb

        return run_verb(given)
    return _without_verbs(given)


def _without_verbs(argv: Sequence[str]) -> int:
    """Run `demo` or `--version`. For another verb, name the extra that has it."""
    parser = argparse.ArgumentParser(prog=NAME, description="A Kafka transport for trio.")
    parser.add_argument("--version", action="version", version=version(NAME))
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("demo", help="100,000 orders, two members, a crash, a check")
    shown.add_argument("--broker", default="memory://demo", metavar="URL")
    shown.add_argument("--orders", type=int, default=100_000, metavar="N")
    if argv[:1] and not argv[0].startswith("-") and argv[0] != "demo":
        print(
            f"{NAME}: the verb {argv[0]!r} needs the extra cli: pip install '{NAME}[cli]'",
            file=sys.stderr,
        )
        return 2
    try:
        args = parser.parse_args(argv)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 2
    return run_demo(args.broker, args.orders)


if __name__ == "__main__":
    sys.exit(main())
