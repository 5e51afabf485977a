"""Handlers on both brokers: two members share the work, with retries and dead letters."""

from __future__ import annotations

from collections import Counter

import trio

from tests.handling.calls import Broken
from tests.lanes import Place
from transport import TP, App, Message, Retry

PARTITIONS, KEYS, RECORDS = 4, 10, 400


class Member:
    """A member of the group, whose function notes what it has handled."""

    def __init__(self, place: Place, shared: Counter[tuple[TP, int]]) -> None:
        self.app: App = place.app(commit_interval=0.2)
        self.done = shared
        self.most = 0
        self._running: dict[tuple[TP, bytes | None], int] = {}
        self._last: dict[tuple[TP, int, bytes | None], int] = {}
        self.app.handler(
            self.app.topic(place.name),
            self.handle,
            order="key",
            concurrency=20,
            retry=Retry(attempts=3, wait_initial=0.05, wait_max=0.2),
            dead_letters=self.app.topic(f"{place.name}.dead"),
        )

    async def handle(self, message: Message) -> None:
        key, in_epoch = (message.tp, message.key), (message.tp, message.epoch, message.key)
        assert key not in self._running, "two of a key at once"
        assert message.offset >= self._last.get(in_epoch, -1), "out of order"
        self._last[in_epoch] = message.offset
        self._running[key] = message.offset
        self.most = max(self.most, len(self._running))
        try:
            await trio.sleep(0.01)
        finally:
            del self._running[key]
        if message.value == b"bad":
            raise Broken
        self.done[message.tp, message.offset] += 1


async def test_two_members_handle_all_messages_and_each_bad_one_is_a_dead_letter(
    place: Place,
) -> None:
    tps = await place.create(PARTITIONS)
    done: Counter[tuple[TP, int]] = Counter()
    one, other = Member(place, done), Member(place, done)
    async with one.app:
        await one.app.producer.create_topic(f"{place.name}.dead", 1)
        many = [
            (b"%d" % (number % KEYS), b"bad" if number % 50 == 7 else b"good")
            for number in range(RECORDS)
        ]
        for key, value in many:
            await one.app.producer.send(place.name, key, value)
        await one.app.producer.flush()
        await trio.sleep(0.5)
        async with other.app:
            for key, value in many:
                await one.app.producer.send(place.name, key, value)
            await one.app.producer.flush()
            good = 2 * sum(value == b"good" for _, value in many)
            with trio.fail_after(45):
                while sum((await place.committed()).values()) < 2 * RECORDS:  # noqa: ASYNC110
                    await trio.sleep(0.2)  # no event reports it
        assert set(await place.committed()) == set(tps)
        assert len(done) == good
        sources = set()
        with trio.move_on_after(10):
            async for letter in one.app.topic(f"{place.name}.dead"):
                headers = dict(letter.headers)
                sources.add((headers["dead.partition"], headers["dead.offset"]))
                assert letter.value == b"bad"
                if len(sources) == 2 * RECORDS - good:
                    break
    assert len(sources) == 2 * RECORDS - good
    assert max(one.most, other.most) > 5
