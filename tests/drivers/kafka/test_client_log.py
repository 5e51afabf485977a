"""The level of the client's logger: `transport/drivers/kafka/client_log.py`."""

from __future__ import annotations

import logging

import pytest

from transport.drivers.kafka.client_log import ClientLog


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("kafka")


def test_level_is_set_while_a_client_is_open(logger: logging.Logger) -> None:
    log = ClientLog(logger)
    log.hold("first", "critical")
    log.hold("second", "critical")
    log.release("first")
    assert logger.level == logging.CRITICAL
    log.release("second")
    log.release("second")
    assert logger.level == logging.NOTSET


def test_lowest_level_of_several_clients_counts(logger: logging.Logger) -> None:
    log = ClientLog(logger)
    log.hold("quiet", "critical")
    log.hold("loud", "info")
    assert logger.level == logging.INFO
    log.release("loud")
    assert logger.level == logging.CRITICAL


def test_level_of_the_program_is_kept(logger: logging.Logger) -> None:
    logger.setLevel(logging.INFO)
    log = ClientLog(logger)
    log.hold("client", "critical")
    assert logger.level == logging.INFO
    log.release("client")
    assert logger.level == logging.INFO


def test_level_that_the_program_sets_while_a_client_is_open_is_kept(
    logger: logging.Logger,
) -> None:
    log = ClientLog(logger)
    log.hold("first", "critical")
    logger.setLevel(logging.DEBUG)
    log.hold("second", "critical")
    assert logger.level == logging.DEBUG
    log.release("first")
    log.release("second")
    assert logger.level == logging.DEBUG


def test_none_leaves_the_logger_alone(logger: logging.Logger) -> None:
    log = ClientLog(logger)
    log.hold("client", None)
    assert logger.level == logging.NOTSET
    log.release("client")
    assert logger.level == logging.NOTSET
