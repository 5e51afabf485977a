"""The record codec: from the bytes of a fetch to records, and from messages to a batch's bytes.

Decoding and encoding run once per record. So there is an implementation in compiled code and one
in Python. Both read and write the same formats. Look here for formats, bounds and damaged data:

- `fetch.py`: reading the batch headers of a fetch.
- `encoded.py`: decoding a fetch in portions, with all checks and bounds.
- `codec.py`: the contract of an implementation. `choice.py`: the choice of one.
- `pure.py`, `compiled.py`: the implementations. `legacy.py`: the formats before 2.
- `building.py`: encoding messages.
"""
