"""Transactional outbox: a change in SQLite, and the message about it, are never without each other.

python examples/outbox.py [BROKER]

The program writes both in one transaction of the database. A relay sends the rows of the outbox in
order, and removes each after its delivery. A crash between the two sends a message twice, never
not at all. So the key of each message is the id of its row, which a reader can use.
"""

import sqlite3
import sys
import tempfile
from pathlib import Path

import trio

from transport import App

PAYMENTS = 100

app = App("outbox", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
payments = app.topic("payments", key_type=int, value_type=str)


def open_database(path: Path) -> sqlite3.Connection:
    # Each call below runs in a thread, one at a time.
    database = sqlite3.connect(path, check_same_thread=False)
    database.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)")
    database.execute("CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")
    return database


def pay(database: sqlite3.Connection, name: str, amount: int) -> None:
    """Change a balance, and announce the change. Both happen, or neither."""
    with database:
        database.execute(
            "INSERT INTO accounts VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (name, amount),
        )
        database.execute("INSERT INTO outbox (text) VALUES (?)", (f"{name} got {amount}",))


def oldest(database: sqlite3.Connection) -> list[tuple[int, str]]:
    return database.execute("SELECT id, text FROM outbox ORDER BY id LIMIT 50").fetchall()


def remove(database: sqlite3.Connection, last: int) -> None:
    with database:
        database.execute("DELETE FROM outbox WHERE id <= ?", (last,))


async def relay(database: sqlite3.Connection) -> int:
    """Send all rows of the outbox, and return how many."""
    count = 0
    while rows := await trio.to_thread.run_sync(oldest, database):
        await (await payments.send_many(rows))  # raises DeliveryFailed if one was not written
        await trio.to_thread.run_sync(remove, database, rows[-1][0])
        count += len(rows)
    return count


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder, "payments.db"))
        for number in range(PAYMENTS):
            await trio.to_thread.run_sync(pay, database, f"account {number % 3}", number)
        async with app:
            count = await relay(database)
        (left,) = database.execute("SELECT count(*) FROM outbox").fetchone()
        database.close()
    print(f"{count} messages sent, {left} left")


trio.run(main)
