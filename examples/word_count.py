"""Word count, exactly once: the counts, and the offsets of the counted lines, in one transaction.

python examples/word_count.py [BROKER]

The counts are a state: each depends on the count before. An abort undoes what was sent, so the
state must go back with it. The partition then begins a new epoch, and so it does after a crash or
a rebalance. In each of these cases, `state_of` reads the committed counts again.
"""

import sys
from collections import Counter

import attrs
import trio

from transport import TP, App, MemoryBroker, Message

BROKER = sys.argv[1] if len(sys.argv) > 1 else MemoryBroker()
LINES = ["the cat and the dog", "the dog", "a cat"] * 100

app = App("word-count", BROKER, transactions="member")
lines = app.topic("lines", value_type=str)
# One record for each change: the word, and its count in this partition of the lines.
counts = app.topic("word-counts", key_type=str, value_type=int)


@attrs.define
class State:
    """The counts of one partition of the lines, in one epoch of it."""

    epoch: int
    words: Counter[str]


states: dict[int, State] = {}


async def committed_counts(partition: int) -> Counter[str]:
    """Read the committed counts of a partition, with a reader of its own."""
    place = TP(counts.name, partition)
    words: Counter[str] = Counter()
    async with App("word-count.restore", BROKER, partitions={place: 0}) as reader:
        reader.conductor.add(reader.topic(counts.name, key_type=str, value_type=int))
        consumer = reader.consumer
        end = (await consumer.end_offsets([place]))[place]
        while place not in consumer.assignment or await consumer.position(place) < end:
            async for _, message in consumer.getmany(timeout=0.2):
                words[message.key] = message.value
                message.ack()
            await consumer.commit()  # moves the position past the marks of transactions
    return words


async def state_of(message: Message[bytes, str]) -> State:
    """Return the state of the message's partition, in the message's epoch."""
    partition = message.tp.partition
    state = states.get(partition)
    if state is None or state.epoch != message.epoch:
        state = states[partition] = State(message.epoch, await committed_counts(partition))
    return state


@app.handler(lines)
async def count(message: Message[bytes, str]) -> None:
    state = await state_of(message)
    for word in message.value.split():
        state.words[word] += 1
        await counts.send(key=word, value=state.words[word], partition=message.tp.partition)
    # A service does not stop here.
    if sum(each.words.total() for each in states.values()) == len(" ".join(LINES).split()):
        app.stop()


async def main() -> None:
    async with app:
        app.stop_on_signals()
        for name in (lines.name, counts.name):
            await app.producer.create_topic(name, 3)
        await lines.send_many(((None, line) for line in LINES), source=None)
        await app.wait_stopped()
    total = sum((each.words for each in states.values()), Counter[str]())
    for word, number in sorted(total.items()):
        print(word, number)


if __name__ == "__main__":
    trio.run(main)
