"""The record codec: from the bytes of a fetch to records, and from messages to the bytes of a batch.

Both ways run once per record, so there is a compiled implementation and one in Python, which read
and write the same. Look here for formats, bounds and damaged data. `codec.py` has the contract and
chooses the implementation.
"""
