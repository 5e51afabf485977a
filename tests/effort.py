"""The number of cases in property tests: few and fixed in `make test`, many with `EFFORT=long`.

`make properties` sets `EFFORT=long`.
"""

from __future__ import annotations

import os

from hypothesis import settings

LONG = os.environ.get("EFFORT") == "long"

# The seeds from which histories are drawn.
SEEDS = range(2000 if LONG else 40)
# Tests of cancellation cancel at every Nth step.
EVERY = 1 if LONG else 7

settings.register_profile("fast", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=5000)
settings.load_profile("long" if LONG else "fast")
