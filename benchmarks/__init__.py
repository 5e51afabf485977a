"""Throughput against the bare client: `python -m benchmarks`."""
