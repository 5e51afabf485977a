"""`memory://`: a deterministic broker inside the process, with Kafka's semantics.

Reads from the bottom up: `log` (one partition), `assignor` and `group` (the coordinator), `broker`
(both by name), `membership` (a client's side of the group), all of them pure; then `consumer`,
`producer` and `driver`, which are what trio sees of it.
"""

from transport.drivers.memory.broker import MemoryBroker
from transport.drivers.memory.driver import MemoryDriver

__all__ = ["MemoryBroker", "MemoryDriver"]
