"""One file for each unexpected behavior of kafka-python, named after the symptom.

Each file changes one client object, names the client's private parts that it uses, and says what
happens without it. These modules import the client and nothing above `transport.drivers`. To judge
a new release of the client, start with `tests/drivers/kafka/test_private_names.py`.
"""
