"""The way of a message from `send` to its outcome.

Start reading at `producer.py`. `delivery.py` counts what is in flight and has the outcomes,
`buffer.py` and `threaded.py` take messages that nobody waits for, and `transaction.py` has the
steps of a transaction.
Imports: the drivers' contract, and values.
"""
