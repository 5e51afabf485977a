"""One member of a consumer group: it polls, enters fetches into ledgers, and serves rebalances.

Start reading at `consumer.py`, which makes the parts.

- `polling.py`, `poll_requests.py`: the loop that polls the client, and the requests of other parts
  to it. `fetcher.py`: the service whose task runs the loop. `pauses.py`: what to fetch from.
- `conductor.py`: the topic objects, their subscription, and the way from a fetch to a ledger.
- `rebalance_handler.py`: the steps before partitions are released, and before new ones are fetched
  from. `ownership.py`: the changes of the assignment in these steps, for all parts at once.
- `membership.py`, `resets.py`, `ends.py`, `stuck.py`, `stall_detector.py`: what is reported about
  the group, start offsets, lag and partitions that stand still.
- `getmany.py`: messages without iterators. `host.py`: the app, as far as this package uses it.

Imports: `committing`, `producing`, `delivering`, the settings, the drivers' contract, and values.
"""
