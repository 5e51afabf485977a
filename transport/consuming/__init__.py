"""One member of a consumer group: it polls, enters fetches into ledgers, and serves rebalances.

Start reading at `consumer.py`, which makes the parts. `polling.py` has the loop that polls the
client. `poll_requests.py` has the one way to ask that loop for something. `rebalance_handler.py`
has the steps before partitions are released, and before new ones are fetched from.
Imports: `committing`, `producing`, `delivering`, the drivers' contract, and values.
"""
