"""The command `kafka-nursery`: one file for each verb, and the parts that the verbs share.

`program.py` runs a verb, and decides about signals, errors and exit codes. `verbs.py` lists the
verbs. This package needs the extra `kafka-nursery[cli]`; `transport/__main__.py` explains that.
"""
