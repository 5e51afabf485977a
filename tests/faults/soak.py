"""Faults at random, for as long as you like: ``make soak MINUTES=10 SEED=7``.

The faults are those of the tests, one after the other in an order that the seed gives, on one load
that runs through all of them. In the end everything must have been made good, as in the tests. The
seed and the history are printed as it goes; the diaries of the programs are kept if it fails.
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

# Seconds between two faults, at most.
REST = 5.0


def soak(minutes: float, seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    began = time.monotonic()
    reports: list[Report] = []

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    def enter(report: Report) -> None:
        reports.append(report)
        say(f"made good: outage {report.outage:.1f} s, of copies {report.outage_of_copies:.1f} s")

    say(f"seed {seed}, {minutes:g} minutes; diaries in {folder}")
    with ThreeBrokers() as brokers:
        load = Load(brokers, folder, enter, session=SHORT_SESSION, may_be_fenced=True)
        with load.running():
            say("all is running")
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end:
                fault = chance.choice(FAULTS)
                say(fault.__name__.replace("_", " "))
                fault(brokers, load)
                load.run_for(chance.uniform(0, REST))
            brokers.heal()
            load.check()
    say(f"seed {seed}: {len(reports)} faults, and all was made good")
    if reports:
        print(table(reports))


def main() -> int:
    # Ended in the middle it leaves no program behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="kafka-nursery-soak-"))
    soak(args.minutes, seed, folder)
    shutil.rmtree(folder)  # kept where something went wrong
    return 0


if __name__ == "__main__":
    sys.exit(main())
