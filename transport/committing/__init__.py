"""From acks to a committed offset, with and without transactions.

Start reading at `committer.py`.

- `committer.py`: the committer without transactions. `commit_queue.py`: one commit at a time.
- `autocommit.py`: when commits happen without a call, and the protocol of a committer.
- `barrier.py`: the committer with transactions. `transactions.py`: which transaction a message
  belongs to.

Imports: `delivering`, `producing`, the settings, the drivers' contract, and values.
"""
