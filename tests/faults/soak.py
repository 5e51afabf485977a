"""Random faults for a chosen time: ``make soak MINUTES=10 SEED=7``.

The faults are those of the tests, one after the other, in an order that the seed determines. One
load runs through all of them. At the end all messages must be handled and copied, as in the tests.
The seed and each fault are printed. If the soak fails, the diaries of the programs are kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.brokers import ThreeBrokers
from tests.faults.faults import FAULTS
from tests.faults.load import SHORT_SESSION, Load, Report, table

# The most seconds between two faults.
REST = 5.0


def soak(minutes: float, seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    began = time.monotonic()
    reports: list[Report] = []

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    def enter(report: Report) -> None:
        reports.append(report)
        say(f"recovered: outage {report.outage:.1f} s, of copies {report.outage_of_copies:.1f} s")

    say(f"seed {seed}, {minutes:g} minutes; diaries in {folder}")
    with ThreeBrokers() as brokers:
        load = Load(brokers, folder, enter, session=SHORT_SESSION, may_be_fenced=True)
        with load.running():
            say("all programs run")
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end:
                fault = chance.choice(FAULTS)
                say(fault.__name__.replace("_", " "))
                fault(brokers, load)
                load.run_for(chance.uniform(0, REST))
            brokers.heal()
            load.check()
    say(f"seed {seed}: {len(reports)} faults, and all messages are handled and copied")
    if reports:
        print(table(reports))


def main() -> int:
    # SIGTERM ends it as Ctrl-C does, so that no program is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="kafka-nursery-soak-"))
    soak(args.minutes, seed, folder)
    shutil.rmtree(folder)  # after an error it is kept
    return 0


if __name__ == "__main__":
    sys.exit(main())
