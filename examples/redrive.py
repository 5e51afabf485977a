"""Redrive: handle dead letters again, when the cause of the failures is repaired.

python examples/redrive.py [BROKER]

The function `redrive` is what you need. So that there are dead letters, the program first runs a
payment service that does not know the rate of a currency.
"""

import sys
from collections.abc import Callable, Mapping

import trio
from msgspec import Struct

from transport import TP, App, MemoryBroker, Message, Retry, Topic

BROKER = sys.argv[1] if len(sys.argv) > 1 else MemoryBroker()
PAYMENTS = 20


class Payment(Struct):
    amount: int
    currency: str


PaymentMessage = Message[str, Payment]


def add_payments(
    app: App,
    payments: Topic[str, Payment],
    dead_letters: str,
    rates: Mapping[str, int],
    wanted: Callable[[PaymentMessage], bool] | None = None,
) -> None:
    """Add the handler of payments to the app of the service, or to that of a redrive."""
    bookings = app.topic("bookings", key_type=str, value_type=int)

    @app.handler(
        payments,
        concurrency=10,
        order="key",
        filter=wanted,
        retry=Retry(attempts=5, on=OSError),
        dead_letters=app.topic(dead_letters),
    )
    async def pay(message: PaymentMessage) -> None:
        cents = message.value.amount * rates[message.value.currency]
        await bookings.send_and_wait(key=message.key, value=cents)


def is_wanted(letter: PaymentMessage) -> bool:
    """Return whether a letter is of this handler, and has not failed in three redrives."""
    headers = dict(letter.headers)
    return headers["dead.handler"] == b"pay" and int(headers["dead.redrives"] or 0) < 3


async def redrive(source: str, failed_again: str, rates: Mapping[str, int]) -> int:
    """Handle all dead letters that are in a topic now, and return how many did not fail.

    Its group remembers where it ended, so the next redrive begins there.
    """
    async with App("payments.redrive", broker=BROKER) as app:
        ends = await app.consumer.end_offsets(await app.consumer.partitions(source))
        starts = await app.consumer.beginning_offsets(ends)
        letters = app.topic(source, key_type=str, value_type=Payment)
        add_payments(app, letters, failed_again, rates, is_wanted)
        committed: Mapping[TP, int | None] = starts
        while any((committed[tp] or starts[tp]) < end for tp, end in ends.items()):
            await trio.sleep(app.settings.commit_interval)
            committed = await app.consumer.committed(ends)
    (handler,) = app.handlers
    return handler.counts.handled


async def serve() -> None:
    async with App("payments", broker=BROKER) as app:
        for name in ("payments.dead", "payments.dead.again"):
            await app.producer.create_topic(name, 4)
        payments = app.topic("payments", key_type=str, value_type=Payment)
        add_payments(app, payments, "payments.dead", {"EUR": 100})
        for number in range(PAYMENTS):
            currency = "USD" if number % 4 == 0 else "EUR"
            await payments.send(key=f"account-{number % 7}", value=Payment(number, currency))
        letters = 0
        async for _ in app.topic("payments.dead"):
            letters += 1
            if letters == PAYMENTS // 4:
                app.stop()
    print(f"{letters} dead letters")


async def main() -> None:
    await serve()
    paid = await redrive("payments.dead", "payments.dead.again", {"EUR": 100, "USD": 90})
    print(f"{paid} of them paid by the redrive")


trio.run(main)
