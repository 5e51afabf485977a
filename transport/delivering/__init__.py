"""The way of a message from a fetch to a handler, and its ack.

Start reading at `ledger.py`.

- `ledger.py`: all rules from acks to the offset that may be committed. `assignment.py`: the ledgers
  of the assigned partitions. Both know neither trio nor Kafka.
- `channel.py`: the buffer of a topic object, and the iterators that deliver its messages.
- `decoding.py`: decoded values that several topic objects share.
- `flow.py`: the switch for all delivery, and the partitions that the user has paused.
- `in_hand.py`: the message that a task handles, for transactions.

Imports: values only.
"""
