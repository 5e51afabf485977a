"""How hard the tests with many cases try: with a few fixed seeds in `make test`, and for long with
`EFFORT=long`, which `make properties` sets.
"""

from __future__ import annotations

import os

from hypothesis import settings

LONG = os.environ.get("EFFORT") == "long"

# Of histories that are drawn from a seed.
SEEDS = range(2000 if LONG else 40)
# Cancel after each step, or after every so-maniest.
EVERY = 1 if LONG else 7

settings.register_profile("fast", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=5000)
settings.load_profile("long" if LONG else "fast")
