"""The fixtures in a project of a user that enables them."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["transport.testing.fixtures"]'
TESTS = """
from transport import App


async def service(broker, done):
    async with App("billing", broker=broker) as app:
        async for order in app.topic("orders").noack():
            done(order)
            order.ack()


def test_it_loses_nothing(simulate):
    report = simulate(service, topics={"orders": 2})
    report.check()
    assert report.seed == SEED


def test_a_broker(memory_broker):
    memory_broker.create_topic("orders", 2)
    assert memory_broker.topics == {"orders"}
"""


@pytest.mark.parametrize(("arguments", "seed"), [([], 0), (["--simulation-seed", "7"], 7)])
def test_fixtures_work_in_another_project(
    pytester: pytest.Pytester, arguments: list[str], seed: int
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS.replace("SEED", str(seed)))
    pytester.runpytest_subprocess("-q", *arguments).assert_outcomes(passed=2)
