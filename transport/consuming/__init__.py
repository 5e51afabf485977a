"""One member of a consumer group: it polls, enters what it fetched, and serves rebalances.

Start reading at `consumer.py`, which makes the parts. `polling.py` has the loop that polls the
client, `poll_requests.py` the one way to ask that loop for something, and `rebalance_handler.py`
what happens before partitions go and before those that came are read.
Imports: `committing`, `producing`, `delivering`, the drivers' contract, and values.
"""
