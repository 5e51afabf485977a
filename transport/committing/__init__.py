"""From acks to a committed offset, with and without transactions.

Start reading at `committer.py`.

- `contract.py`: the calls of every committer. `commit_queue.py`: one commit at a time.
- `committer.py`: the committer without transactions.
- `autocommit.py`: when commits happen without a call. `livelock.py`: offsets that stand still.
- `barrier.py`: the committer with transactions. `transactions.py`: which transaction a message
  belongs to.

Imports: `delivering`, `producing`, the settings, the drivers' contract, and values.
"""
