"""Transactional outbox in PostgreSQL, with a relay that waits for rows instead of looking again.

python examples/outbox_postgres.py [BROKER] [DATABASE]

Each payment changes a balance and adds a row to the outbox, in one transaction. The database
notifies the relay at the commit. The relay sends the rows in order, and removes each after its
delivery. A crash between the two sends a message twice, never not at all, so each message has the
id of its row.

- Several processes may run. An advisory lock lets one of them relay, and another one takes over
  when its connection ends.
- Ids are given before the commit, so a row may appear after one with a higher id. Therefore the
  relay removes exactly the rows that it has sent. The payments of one account lock its row, so
  their ids are in order.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import msgspec
import psycopg
import trio

from transport import App

PAYMENTS, WORKERS = 100, 4
RELAY = 20261127  # the number of the advisory lock, for all processes
SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL, amount int NOT NULL
);
"""


class Payment(msgspec.Struct):
    id: int
    account: str
    amount: int


app = App("bookings", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
bookings = app.topic("payments.booked", key_type=str, value_type=Payment)
DATABASE = sys.argv[2] if len(sys.argv) > 2 else "postgresql://127.0.0.1/bookings"


def connected() -> psycopg.Connection:
    return psycopg.connect(DATABASE, autocommit=True)


def pay(database: psycopg.Connection, account: str, amount: int) -> None:
    """Change a balance, and announce the change. Both happen, or neither."""
    with database.transaction():
        database.execute(
            "INSERT INTO accounts VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET balance = accounts.balance + excluded.balance",
            (account, amount),
        )
        database.execute("INSERT INTO outbox (account, amount) VALUES (%s, %s)", (account, amount))
        database.execute("NOTIFY outbox")


def become_the_relay(database: psycopg.Connection) -> None:
    database.execute("SELECT pg_advisory_lock(%s)", (RELAY,))
    database.execute("LISTEN outbox")  # before the first look, so that no row is missed


def oldest(database: psycopg.Connection) -> list[Payment]:
    found = database.execute("SELECT id, account, amount FROM outbox ORDER BY id LIMIT 50")
    return [Payment(*row) for row in found]


def remove(database: psycopg.Connection, rows: list[Payment]) -> None:
    database.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row.id for row in rows],))


async def relay(database: psycopg.Connection, over: trio.Event) -> None:
    """Send all rows of the outbox, and those that come later, until `over`."""
    await trio.to_thread.run_sync(become_the_relay, database, abandon_on_cancel=True)
    while True:
        while rows := await trio.to_thread.run_sync(oldest, database):
            await (await bookings.send_many((row.account, row) for row in rows))
            await trio.to_thread.run_sync(remove, database, rows)
            print(f"{len(rows)} messages sent", flush=True)
        if over.is_set():
            return
        await trio.lowlevel.wait_readable(database.fileno())  # a notification
        list(database.notifies(timeout=0))


async def work(database: psycopg.Connection, number: int) -> None:
    for amount in range(PAYMENTS // WORKERS):
        await trio.to_thread.run_sync(pay, database, f"account {number % 3}", amount)


async def main() -> None:
    with ExitStack() as stack:
        own, *theirs = (stack.enter_context(connected()) for _ in range(1 + WORKERS))
        own.execute(SCHEMA)
        over = trio.Event()
        async with app, trio.open_nursery() as nursery:
            nursery.start_soon(relay, own, over)
            async with trio.open_nursery() as workers:
                for number, database in enumerate(theirs):
                    workers.start_soon(work, database, number)
            over.set()
            theirs[0].execute("NOTIFY outbox")
        (left,) = own.execute("SELECT count(*) FROM outbox").fetchone() or (None,)
    print(f"{left} left")


if __name__ == "__main__":
    trio.run(main)
