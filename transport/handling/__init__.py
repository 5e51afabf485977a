"""From a taken message to its outcome: handlers with concurrency, order, retries and dead letters.

Start with `handler.py`. `key_order.py` has the rule of the order, and `retry.py` that of retries.
"""
