"""The codec that each type of a topic stands for."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from typing import Any, Generic, NamedTuple, Optional, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from transport.codecs import (
    BOOLEAN,
    DECIMAL_TEXT,
    DOUBLE,
    FLOAT,
    INTEGER,
    JSON,
    LONG,
    SHORT,
    TEXT,
    UUID_TEXT,
    Codec,
    codec_for,
)

T = TypeVar("T")


class Order(msgspec.Struct, tag=True):
    customer: str
    amount: int


class Refund(msgspec.Struct, tag=True):
    order: str


class Box(msgspec.Struct, Generic[T]):
    inside: T


@dataclasses.dataclass
class Parcel:
    weight: float
    orders: list[Order]


@attrs.define
class Truck:
    name: str
    seats: int = attrs.field(default=2, validator=attrs.validators.ge(1))


class Point(NamedTuple):
    x: int
    y: int


class Mail(TypedDict):
    to: str


class Color(enum.Enum):
    RED = "red"


class Customer(pydantic.BaseModel):
    name: str
    born: int = pydantic.Field(alias="yearOfBirth")


class Supplier(pydantic.BaseModel):
    city: str


@pydantic.dataclasses.dataclass
class Even:
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("it is odd")
        return number


@dataclasses.dataclass
class Account:
    owner: Customer


class Foreign:
    """A class of which neither msgspec nor pydantic knows the fields."""


def codec(kind: Any) -> Codec[Any]:
    found = codec_for(kind)
    assert found is not None
    return found


BORN = Customer(name="Eve", yearOfBirth=1990)


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (Order, Order("Eve", 5), b'{"type":"Order","customer":"Eve","amount":5}'),
        (Order | Refund, Refund("7"), b'{"type":"Refund","order":"7"}'),
        (list[Refund], [Refund("7")], b'[{"type":"Refund","order":"7"}]'),
        (Box[int], Box(5), b'{"inside":5}'),
        (Parcel, Parcel(0.5, []), b'{"weight":0.5,"orders":[]}'),
        (Truck, Truck("big"), b'{"name":"big","seats":2}'),
        (Point, Point(1, 2), b"[1,2]"),
        (Mail, {"to": "Eve"}, b'{"to":"Eve"}'),
        (Color, Color.RED, b'"red"'),
        (dict, {"a": [1, None]}, b'{"a":[1,null]}'),
        (list, [{"a": 1}], b'[{"a":1}]'),
        (dict[str, int], {"a": 1}, b'{"a":1}'),
        (int | str, "5", b'"5"'),
        (Any, {"a": 0.5}, b'{"a":0.5}'),
        (JSON, ["\u00e9"], '["\u00e9"]'.encode()),
        (Customer, BORN, b'{"name":"Eve","yearOfBirth":1990}'),
        (Customer | Supplier, Supplier(city="Rome"), b'{"city":"Rome"}'),
        (list[Customer], [BORN], b'[{"name":"Eve","yearOfBirth":1990}]'),
        (Account, Account(BORN), b'{"owner":{"name":"Eve","yearOfBirth":1990}}'),
        (Even, Even(4), b'{"number":4}'),
    ],
)
def test_structured_types_are_json(kind: Any, value: object, data: bytes) -> None:
    found = codec(kind)
    assert found.encode(value) == data
    assert found.decode(data) == value
    assert type(found.decode(data)) is type(value)


@pytest.mark.parametrize(
    ("kind", "named", "value", "data"),
    [
        (str, TEXT, "\u00e9", b"\xc3\xa9"),
        (int, LONG, -2, b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (INTEGER, INTEGER, 258, b"\x00\x00\x01\x02"),
        (SHORT, SHORT, -1, b"\xff\xff"),
        (float, DOUBLE, 1.5, b"\x3f\xf8\x00\x00\x00\x00\x00\x00"),
        (FLOAT, FLOAT, 1.5, b"\x3f\xc0\x00\x00"),
        (bool, BOOLEAN, True, b"\x01"),
        (bool, BOOLEAN, False, b"\x00"),
        (
            uuid.UUID,
            UUID_TEXT,
            uuid.UUID("12345678-1234-5678-1234-567812345678"),
            b"12345678-1234-5678-1234-567812345678",
        ),
        (DECIMAL_TEXT, DECIMAL_TEXT, -(2**70), b"-1180591620717411303424"),
    ],
)
def test_single_values_have_the_bytes_of_javas_serializers(
    kind: Any, named: Codec[Any], value: object, data: bytes
) -> None:
    assert codec(kind) is named
    assert named.encode(value) == data
    assert named.decode(data) == value


@pytest.mark.parametrize("kind", [None, bytes, bytes | None])
def test_bytes_need_no_codec(kind: Any) -> None:
    assert codec_for(kind) is None


@pytest.mark.parametrize(
    ("kind", "alone"),
    [(str | None, str), (Optional[int], int), (None | Order, Order)],  # noqa: UP045 - the old way
)
def test_none_in_a_union_changes_nothing(kind: Any, alone: type) -> None:
    """None is never encoded: it is a tombstone."""
    assert codec(kind) == codec(alone)


def test_codecs_of_the_same_type_are_equal() -> None:
    """So topic objects of one type share what they decode."""
    assert codec(list[Order]) == codec(list[Order])
    assert codec(Customer) == codec(Customer)
    assert codec(Order) != codec(Refund)
    assert len({codec(Order), codec(Order), codec(dict), JSON}) == 3
    first, second = (Codec(str.encode, lambda data: data.decode()) for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Order, b'{"customer":"Eve"}'),
        (Order | Refund, b'{"type":"Parcel"}'),
        (Truck, b'{"name":"big","seats":0}'),
        (dict, b"[]"),
        (list[int], b'["a"]'),
        (Customer, b'{"name":"Eve"}'),
        (Even, b'{"number":3}'),
        (JSON, b"{"),
        (JSON, b"NaN"),
        (str, b"\xff"),
        (int, b"5"),
        (INTEGER, b""),
        (bool, b"\x02"),
        (uuid.UUID, b"5"),
        (DECIMAL_TEXT, b" 5"),
        (DECIMAL_TEXT, b"1_000"),
        (DECIMAL_TEXT, b"--5"),
    ],
)
def test_bytes_that_do_not_fit_the_type_are_an_error(kind: Any, data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each library has a text of its own
        codec(kind).decode(data)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 2**63),
        (SHORT, 40_000),
        (int, True),
        (DECIMAL_TEXT, True),
        (FLOAT, 1e300),
        (Customer, Customer.model_construct(name="Eve", born="long ago")),
        (JSON, {"a": Foreign()}),
        (JSON, "\ud800"),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_an_error(kind: Any, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec(kind).encode(value)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Foreign, "value_type cannot be .*Foreign'>: msgspec does not support the class Foreign"),
        (list[Foreign], "msgspec does not support the class Foreign"),
        (object, "msgspec does not support the class object"),
        (Order | Truck, "value_type cannot be .*more than one dict-like type"),
        (list[Customer | Order], "pydantic does not support the type"),
        (bytearray, "value_type must be bytes, not <class 'bytearray'>"),
        ("Order", "value_type must be bytes, str or another type, a Codec such as JSON"),
        (Order("Eve", 5), "value_type must be bytes, str or another type"),
        (lambda data: data, "value_type must be bytes, str or another type"),
    ],
)
def test_a_type_without_a_codec_is_refused_at_once(kind: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        codec_for(kind)


@pytest.mark.parametrize(
    ("kind", "expected", "instances"),
    [
        (Order, "an Order", (Order,)),
        (Order | Refund, "an Order | Refund", (Order, Refund)),
        (list[Order], "a list[Order]", (list,)),
        (Box[int], "a Box[int]", (Box,)),
        (Mail, "a Mail", (dict,)),
        (float | str, "a float | str", (int, float, str)),
        (Customer, "a Customer", (Customer,)),
        (Any, "JSON", ()),
        (int | list[Any], "an int | list[Any]", (int, list)),
    ],
)
def test_a_codec_names_its_type_and_the_classes_of_its_values(
    kind: Any, expected: str, instances: tuple[type, ...]
) -> None:
    found = codec(kind)
    assert found.expected == expected
    assert found.instances == instances


def test_a_float_that_json_cannot_hold_is_null() -> None:
    assert JSON.encode([math.nan, math.inf]) == b"[null,null]"
