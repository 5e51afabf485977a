"""The record codec: from the bytes of a fetch to records, and from messages to a batch's bytes.

Both ways run once per record. So there is an implementation in compiled code and one in Python;
both read and write the same. Look here for formats, bounds and damaged data:

- `fetch.py`: what a fetch brought, by the headers of its batches.
- `encoded.py`: reading it in portions, with all checks and bounds.
- `codec.py`: the contract of an implementation, and the choice of one.
- `pure.py`, `compiled.py`: the implementations. `legacy.py`: the formats before 2.
- `building.py`: the way back.
"""
