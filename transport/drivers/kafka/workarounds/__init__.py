"""One file for each unexpected behavior of kafka-python, named after the symptom.

Each file corrects the client in one respect, names the private parts of the client that it uses,
and says what happens without the correction. These modules import the client and nothing above
`transport.drivers`. To judge a new release of the client, start with
`tests/drivers/kafka/test_private_names.py`.
"""
