"""The way of a message from a fetch to a handler, and its ack.

Start reading at `ledger.py`, which has all rules from acks to the offset that may be committed.
`channel.py` delivers the messages of a topic object to its iterators. `flow.py` has the switches
that stop delivery and pause partitions. The ledger knows neither trio nor Kafka.
Imports: values only.
"""
