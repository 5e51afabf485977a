"""The verb `dead-letters`, on both brokers: each letter goes back once, also after failures."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.command_line.conftest import Run
from tests.command_line.messages import written
from tests.lanes import Place
from transport import App, Message
from transport.command_line.program import run_in_trio
from transport.producing.transaction import Transaction


class Failing(App):
    """An app whose handler `bill` fails for each message."""

    async def fail(self, message: Message) -> None:
        raise (KeyError if message.key == b"k1" else ValueError)(f"no rate for {message.key!r}")


async def failed(place: Place, count: int) -> str:
    """Let messages fail, with the keys k0, k1, ... Return the name of the dead-letter topic."""
    dead = f"{place.name}.dead"
    messages = [
        {"key": b"k%d" % each, "value": b"v", "partition": 1, "headers": {"h": b"x"}}
        for each in range(count)
    ]
    await written(place, place.name, *messages, partitions=2)
    await written(place, dead)
    async with place.app(Failing, commit_interval=0.05) as app:
        app.handler(app.topic(place.name), app.fail, name="bill", dead_letters=app.topic(dead))
        with trio.fail_after(30):
            letters = aiter(app.topic(dead))
            for _ in range(count):
                await anext(letters)
        await app.consumer.commit()
    return dead


async def keys_of(run: Run, topic: str) -> list[Any]:
    return [line["key"] for line in (await run("tail", topic, "--from", "0", "--json")).json_lines]


async def test_list_gives_the_reasons(run: Run, place: Place) -> None:
    dead = await failed(place, 2)
    first, second = (await run("dead-letters", "list", dead, "--json")).json
    assert first["letter"] == "0@0"
    assert first["source"] == f"{place.name}-1@0"
    assert (first["handler"], first["error"]) == ("bill", "builtins.ValueError")
    assert first["text"] == "no rate for b'k0'"
    assert not first["redriven"]
    assert second["error"] == "builtins.KeyError"
    assert "no rate" in (await run("dead-letters", "list", dead)).out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--error", "ValueError"], ["0@0", "0@2"]),
        (["--error", "rate for b'k2'"], ["0@2"]),
        (["--key", "k1"], ["0@1"]),
        (["--letter", "0@2", "--letter", "0@0"], ["0@0", "0@2"]),
        (["--handler", "other"], []),
        (["--most-redrives", "0", "-n", "1"], ["0@2"]),
    ],
)
async def test_options_choose_the_letters(
    run: Run, place: Place, options: list[str], expected: list[str]
) -> None:
    dead = await failed(place, 3)
    listed = (await run("dead-letters", "list", dead, "--json", *options)).json
    assert [row["letter"] for row in listed] == expected


async def test_show_prints_the_message_and_the_stack(run: Run, place: Place) -> None:
    dead = await failed(place, 1)
    shown = (await run("dead-letters", "show", dead, "0@0", "--json")).json
    assert (shown["key"], shown["dead"]["handler"]) == ("k0", "bill")
    text = (await run("dead-letters", "show", dead, "0@0")).out
    assert "Traceback" in text
    missing = await run("dead-letters", "show", dead, "0@9")
    assert (missing.code, missing.out) == (1, "")
    assert (await run("dead-letters", "show", dead, "nine")).code == 2


async def test_redrive_sends_each_letter_back_once(run: Run, place: Place) -> None:
    dead = await failed(place, 3)
    some = (await run("dead-letters", "redrive", dead, "--error", "KeyError", "--json")).json
    assert (some["redriven"], some["redriven_before"]) == (1, 0)
    rest = (await run("dead-letters", "redrive", dead, "--json")).json
    assert (rest["redriven"], rest["redriven_before"]) == (2, 1)
    none = (await run("dead-letters", "redrive", dead, "--json")).json
    assert (none["redriven"], none["redriven_before"]) == (0, 3)
    assert await keys_of(run, place.name) == ["k0", "k1", "k2", "k1", "k0", "k2"]
    listed = (await run("dead-letters", "list", dead, "--json")).json
    assert [row["redriven"] for row in listed] == [True] * 3


async def test_a_redriven_message_has_its_headers_and_its_partition(run: Run, place: Place) -> None:
    dead = await failed(place, 1)
    await run("dead-letters", "redrive", dead)
    (line,) = (await run("tail", place.name, "-n", "1", "--json")).json_lines
    headers = dict(line["headers"])
    assert line["partition"] == 1
    assert headers["h"] == "x"
    assert headers["dead.offset"] == "0"
    assert "dead.stack" not in headers


async def test_a_dry_run_sends_nothing_and_names_the_groups(run: Run, place: Place) -> None:
    dead = await failed(place, 2)
    planned = (await run("dead-letters", "redrive", dead, "--dry-run", "--json")).json
    assert (planned["letters"], planned["redriven"]) == (2, 0)
    assert place.name in planned["groups"]
    assert {row["error"] for row in planned["reasons"]} == {
        "builtins.KeyError",
        "builtins.ValueError",
    }
    assert await keys_of(run, place.name) == ["k0", "k1"]
    assert f"{dead}.redriven" not in (await run("topics", "list")).out


async def test_a_redrive_that_fails_before_its_commit_sends_nothing(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await failed(place, 2)

    async def crash(self: Transaction, *args: object) -> None:
        raise OSError("a crash")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", crash)
        crashed = await run("dead-letters", "redrive", dead)
        assert crashed.code == 1
    assert await keys_of(run, place.name) == ["k0", "k1"]
    again = (await run("dead-letters", "redrive", dead, "--json")).json
    assert again["redriven"] == 2
    assert await keys_of(run, place.name) == ["k0", "k1", "k0", "k1"]


async def test_a_redrive_whose_answer_is_lost_is_not_repeated(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await failed(place, 2)
    commit = Transaction.commit

    async def lose_answer(self: Transaction, *args: Any) -> None:
        await commit(self, *args)
        raise OSError("the answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", lose_answer)
        assert (await run("dead-letters", "redrive", dead)).code == 1
    again = (await run("dead-letters", "redrive", dead, "--json")).json
    assert (again["redriven"], again["redriven_before"]) == (0, 2)
    assert await keys_of(run, place.name) == ["k0", "k1", "k0", "k1"]


async def test_a_redrive_that_is_cancelled_is_undone(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await failed(place, 2)

    async def wait(self: Transaction, *args: object) -> None:
        scope.cancel()
        await trio.sleep_forever()

    with monkeypatch.context() as patch, trio.CancelScope() as scope:
        patch.setattr(Transaction, "commit", wait)
        await run_in_trio(["dead-letters", "redrive", dead])
    assert scope.cancelled_caught
    again = (await run("dead-letters", "redrive", dead, "--json")).json
    assert again["redriven"] == 2
    assert await keys_of(run, place.name) == ["k0", "k1", "k0", "k1"]


async def test_two_redrives_at_a_time_send_each_letter_once(run: Run, place: Place) -> None:
    dead = await failed(place, 4)
    codes: list[int] = []

    async def one() -> None:
        codes.append(await run_in_trio(["dead-letters", "redrive", dead]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert 0 in codes
    await run("dead-letters", "redrive", dead)
    assert sorted(await keys_of(run, place.name)) == sorted(["k0", "k1", "k2", "k3"] * 2)


async def test_receipts_do_not_count_for_a_later_topic_of_the_same_name(
    run: Run, place: Place
) -> None:
    dead = await failed(place, 1)
    await run("dead-letters", "redrive", dead)
    printed = await run("tail", dead, "--json")
    await run("topics", "delete", dead, "--yes")
    await place_letter_again(place, dead, printed.json)
    listed = (await run("dead-letters", "list", dead, "--json")).json
    assert [row["redriven"] for row in listed] == [False]


async def place_letter_again(place: Place, dead: str, line: dict[str, Any]) -> None:
    headers = [(name, value.encode()) for name, value in line["headers"]]
    await written(place, dead, {"key": b"k0", "value": b"v", "headers": headers})


async def test_a_source_that_is_gone_is_named_and_nothing_is_sent(run: Run, place: Place) -> None:
    dead = await failed(place, 1)
    await run("topics", "delete", place.name, "--yes")
    refused = await run("dead-letters", "redrive", dead)
    assert refused.code == 1
    assert place.name in refused.err
    await run("topics", "create", f"{place.name}-new", "-p", "1")
    assert (await run("dead-letters", "redrive", dead, "--to", f"{place.name}-new")).code == 0
    assert await keys_of(run, f"{place.name}-new") == ["k0"]
