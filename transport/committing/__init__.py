"""From acks to a committed offset, with and without transactions.

Start reading at `committer.py`. `contract.py` has the calls of every committer. `commit_queue.py`
makes commits one at a time. `autocommit.py` decides when to commit, and `livelock.py` finds offsets
that stand still. `barrier.py` and `transactions.py` commit offsets together with the messages that
handlers have sent.
Imports: `delivering`, `producing`, the drivers' contract, and values.
"""
