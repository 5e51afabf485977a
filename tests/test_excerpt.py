"""`excerpt.py`: data from outside is truncated before it goes into an error or a log line."""

from __future__ import annotations

import pytest

from tests.apps import app_on, broker_with, write
from tests.nurseries.clock import jumping
from transport import TP, DecodeError, PendingMessage
from transport.drivers.base import Outgoing
from transport.errors import PartitionGone
from transport.excerpt import excerpt, excerpt_of, excerpt_of_error, listed

HUGE = 1_000_000
SHORT = 1000  # the most characters of an error in these tests
ORDERS = TP("orders", 0)


def test_a_short_text_stays_as_it_is() -> None:
    assert excerpt("größer") == "größer"
    assert excerpt_of(b"key") == "b'key'"
    assert excerpt_of_error(ValueError("no")) == "ValueError('no')"
    assert listed(["a", "b"]) == "a, b"


def test_a_long_text_is_truncated_and_its_length_is_shown() -> None:
    assert excerpt("x" * HUGE) == "x" * 200 + "... (1000000 characters)"
    for value in (b"x" * HUGE, "x" * HUGE, [b"x" * HUGE]):
        assert len(excerpt_of(value)) < 300
    assert len(excerpt_of_error(ValueError("x" * HUGE))) < 300


def test_a_line_of_a_log_stays_one_line() -> None:
    assert excerpt("a\nERROR b\x1b[2J") == "a\\nERROR b\\x1b[2J"
    assert len(excerpt("\n" * HUGE)) < 300


def test_a_decoding_error_does_not_show_all_the_data() -> None:
    with pytest.raises(UnicodeDecodeError) as raised:
        (b"\xff" * HUGE).decode()
    assert excerpt_of_error(raised.value).startswith("UnicodeDecodeError: 'utf-8' codec can't")
    assert len(excerpt_of_error(raised.value)) < 300


def test_a_long_list_of_names_is_truncated() -> None:
    assert listed(range(10_000)).endswith("18, 19 and 9980 more")
    assert len(str(PartitionGone(TP("t", number) for number in range(10_000)))) < SHORT


def test_the_repr_of_a_pending_message_is_truncated() -> None:
    large = {"key": b"k" * HUGE, "value": b"v" * HUGE, "headers": [("name", b"h" * HUGE)]}
    assert len(repr(PendingMessage(topic="t", **large))) < SHORT
    outgoing = Outgoing("t", 0, large["key"], large["value"], large["headers"], None)
    assert len(repr(outgoing)) < SHORT


@jumping
@pytest.mark.parametrize("options", [{"value_type": str}, {"key_type": str}])
async def test_a_large_key_or_value_that_does_not_decode_makes_a_short_error(
    options: dict[str, type],
) -> None:
    broker = broker_with(ORDERS)
    broker.log(ORDERS).append(b"\xff" * HUGE, b"\xff" * HUGE, (), 0)
    write(broker, ORDERS)
    async with app_on(broker) as app:
        messages = app.topic("orders", **options)
        with pytest.raises(DecodeError) as raised:
            await anext(aiter(messages))
    assert "orders-0 offset 0" in str(raised.value)
    assert len(str(raised.value)) < SHORT
