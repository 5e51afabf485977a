"""Fixtures of the acceptance tests: members of a group, each in its own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.members import Crew


@pytest.fixture
def crew(kafka_java: None, kafka_bootstrap: str, tmp_path: Path) -> Iterator[Crew]:
    """``crew.start(group, topic, ...)`` starts a member on the session's broker."""
    crew = Crew(tmp_path, kafka_bootstrap)
    yield crew
    crew.close()
