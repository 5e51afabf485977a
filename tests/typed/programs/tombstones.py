"""A program that reads tombstones, for which the topic's annotation makes checkers look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from transport import App, Codec, Topic


@dataclass
class User:
    name: str


USERS: Codec[User] = Codec(lambda user: user.name.encode(), lambda data: User(data.decode()))

app = App("users")
users: Topic[str, User | None] = app.topic("users", key_type=str, value_type=User)
by_codec: Topic[str, User | None] = app.topic("users", key_type=str, value_type=USERS)
names: dict[str, str] = {}


async def follow() -> None:
    async for message in users:
        assert_type(message.value, User | None)
        if message.value is None:
            names.pop(message.key, None)
        else:
            names[message.key] = message.value.name
    async for batch in by_codec.batches():
        assert_type(batch.values(), list[User | None])
    await users.send(key="ada", value=None)
    await users.send(key="ada", value=User("Ada"))
    async for message in users:
        print(message.value.name)  # error: union-attr, reportOptionalMemberAccess
