"""Programs without the extras import the library, and an import of the registry names its extra."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("confluent_kafka", "pydantic", "fastavro")))  # not importable
from transport import App
print(App("shop", broker="memory://").topic("orders", value_type=dict))
try:
    import transport.registry
except ImportError as error:
    print(error)
"""


def test_a_missing_extra_is_named_only_when_it_is_needed() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    topic, error = ended.stdout.splitlines()
    assert topic == "<Topic orders>"
    assert "needs confluent-kafka: pip install 'kafka-nursery[registry]'" in error
