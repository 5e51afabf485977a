"""Everything that happens to a message between `send` and its outcome.

Start reading at `producer.py`.

- `pending.py`: a message before it is accepted.
- `delivery.py`: the messages in flight, their bounds and their outcomes.
- `buffer.py`, `threaded.py`: sending from code that cannot wait, and from other threads.
- `transaction.py`, `transactional_producers.py`: transactions, with a producer for each id.
- `topic_creation.py`: one request at a time for a topic that is created.
- `host.py`: the app, as far as this package uses it.

Imports: the settings, the drivers' contract, and values.
"""
