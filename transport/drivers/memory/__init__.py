"""`memory://`: a deterministic broker inside the process, with Kafka's semantics.

Read the modules from the bottom up. These are pure:

- `log`: one partition.
- `assignor`, `group`: a consumer group and its coordinator.
- `coordinator`: transactions.
- `broker`: topics and groups by name.
- `membership`, `reader`: a client's side of a group, and a client that is not a member.

`consumer`, `producer` and `driver` use trio and implement the contract of `drivers/base.py`.
"""

from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.driver import MemoryDriver

__all__ = ["MemoryBroker", "MemoryDriver"]
