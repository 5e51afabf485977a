"""The state of a running app, for people and for probes.

Start reading at `status.py`, which has the state of an app at one moment. `health.py` has the rule
for probes. `status_socket.py` gives the state to other programs of the same user.
Imports: the parts of an app, and values.
"""
