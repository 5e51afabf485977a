"""Run the benchmarks on a real Kafka: one in turn with its baseline, medians, ratio.

Takes the broker from KAFKA_BOOTSTRAP_SERVERS, or starts one. Prints a line a benchmark and writes
`benchmarks/results/latest.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import consume
from tests.kafka.cluster import Broker

RESULTS = Path("benchmarks/results/latest.json")


def in_turn(
    name: str, run: Callable[[], float], baseline: Callable[[], float], rounds: int
) -> dict[str, object]:
    """Both in turn, once to warm up and then `rounds` times; medians in messages a second."""
    ours, theirs = [], []
    for number in range(rounds + 1):
        theirs.append(baseline())
        ours.append(run())
        print(
            f"  {name}: {ours[-1]:>9,.0f}  bare {theirs[-1]:>9,.0f}" + "  (warm-up)" * (not number)
        )
    value, base = statistics.median(ours[1:]), statistics.median(theirs[1:])
    ratio = statistics.median(mine / bare for mine, bare in zip(ours[1:], theirs[1:], strict=True))
    print(f"{name}: {value:,.0f} messages/s, bare client {base:,.0f}, ratio {ratio:.2f}")
    return {
        "name": name,
        "value": round(value),
        "unit": "messages/s",
        "baseline": round(base),
        "ratio": round(ratio, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--messages", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with ExitStack() as stack:
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if not bootstrap:
            bootstrap = stack.enter_context(Broker()).bootstrap
        topic, n = f"bench-{uuid.uuid4().hex[:8]}", args.messages
        consume.fill(bootstrap, topic, n, size=100, partitions=4)
        results = [
            in_turn(
                f"consume.{kind}.100B",
                lambda batched=batched: consume.pipeline(bootstrap, topic, n, in_batches=batched),
                lambda: consume.bare(bootstrap, topic, n),
                args.rounds,
            )
            for kind, batched in (("messages", False), ("batches", True))
        ]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
