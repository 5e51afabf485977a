"""A secured broker: each refused client gets a clear error in time, and no password is shown."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from kafka.admin import ACLOperation, ResourceType

from tests.kafka.secured import SecuredBroker
from transport import App, AuthorizationFailed, BrokerUnavailable, RecordMetadata
from transport.drivers import driver_for
from transport.drivers.settings import ClientSettings

pytestmark = pytest.mark.kafka

TOPIC, GROUP, ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
ALL, READ, DESCRIBE = ACLOperation.ALL, ACLOperation.READ, ACLOperation.DESCRIBE
SCRAM = {"sasl_mechanism": "SCRAM-SHA-512"}
# Seconds within which an error must come, on a busy machine. A hanging call would never end.
MOMENT = 15.0
PASSWORDS = ("guest-pw", "anna-pw", "wrong-pw", "ssl-pw")


@pytest.fixture(scope="module")
def secured(kafka_java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with SecuredBroker(tmp_path_factory.mktemp("secured")) as broker:
        broker.set_password("anna", "anna-pw")
        broker.create_topic("open")
        for user in ("ANONYMOUS", "member", "anna", "guest"):
            broker.allow(user, TOPIC, "open", ALL)
            broker.allow(user, GROUP, f"of-{user}", READ)
        yield broker


def an_app(
    secured: SecuredBroker, group: str, login: str = "guest:guest-pw", **settings: Any
) -> App:
    url = secured.url("LOGIN", login)
    return App(group, url, ssl_context=secured.trust(), heartbeat_interval=0.5, **settings)


# Accepted clients

GOOD = {
    "ANONYMOUS": ("TLS", "", None, {}),
    "member": ("MUTUAL", "", "member", {}),
    "guest": ("LOGIN", "guest:guest-pw", None, {}),
    "anna": ("LOGIN", "anna:anna-pw", None, SCRAM),
}


@pytest.mark.parametrize("user", GOOD)
async def test_an_accepted_client_writes_and_reads(secured: SecuredBroker, user: str) -> None:
    listener, login, certificate, options = GOOD[user]
    context = secured.trust(certificate)
    url = secured.url(listener, login)
    with trio.fail_after(4 * MOMENT):
        async with App(f"of-{user}", url, ssl_context=context, client_options=options) as app:
            assert app.producer.ssl_context is context
            sent = await app.topic("open").send_and_wait(value=user.encode())
            async for message in app.topic("open"):
                if message.offset == sent.offset:
                    assert message.value == user.encode()
                    break


async def test_certificates_may_be_named_as_files(secured: SecuredBroker) -> None:
    options = {
        "ssl_cafile": str(secured.folder / "ca.pem"),
        "ssl_certfile": str(secured.folder / "locked.pem"),
        "ssl_password": "ssl-pw",
    }
    async with App("of-member", secured.url("MUTUAL"), client_options=options) as app:
        assert isinstance(await app.topic("open").send_and_wait(value=b"v"), RecordMetadata)


# Refused clients

Opening = Callable[[], Awaitable[object]]


def openings(url: str, settings: dict[str, Any]) -> dict[str, Opening]:
    """Return the call that opens each kind of client."""
    driver = driver_for([url])
    transactional = ClientSettings(**settings, transactional_id="t")
    return {
        "consumer": driver.consumer(ClientSettings(**settings, group_id="g")).open,
        "producer": partial(driver.producer(ClientSettings(**settings)).open, print),
        "transactional": partial(driver.producer(transactional).open, print),
    }


async def no_client_opens(
    url: str, settings: dict[str, Any], error: type[Exception], match: str, bound: float
) -> None:
    async def opens(kind: str, opening: Opening) -> None:
        began = trio.current_time()
        with pytest.raises(error, match=match) as caught:
            await opening()
        assert trio.current_time() - began < bound, kind
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert not [password for password in PASSWORDS if password in shown]

    async with trio.open_nursery() as nursery:
        for kind, opening in openings(url, settings).items():
            nursery.start_soon(opens, kind, opening)


NOT_TRUSTED = {
    "STRANGER": "CERTIFICATE_VERIFY_FAILED.*unable to get local issuer certificate",
    "EXPIRED": "CERTIFICATE_VERIFY_FAILED.*certificate has expired",
    "ELSEWHERE": "CERTIFICATE_VERIFY_FAILED.*not valid for '127.0.0.1'",
}


@pytest.mark.parametrize("listener", NOT_TRUSTED)
async def test_an_untrusted_broker_is_unavailable_after_connect_timeout(
    secured: SecuredBroker, listener: str
) -> None:
    """The client retries until `connect_timeout`, because another broker may be trusted."""
    url, match = secured.url(listener), NOT_TRUSTED[listener]
    address = secured.broker.addresses[listener]
    settings = {"ssl_context": secured.trust(), "connect_timeout": 1.0}
    await no_client_opens(url, settings, BrokerUnavailable, f"{address}.*{match}", 1.0 + MOMENT)
    with contextlib.ExitStack() as stack:
        unavailable = pytest.RaisesExc(BrokerUnavailable, match=match)
        stack.enter_context(pytest.RaisesGroup(unavailable, flatten_subgroups=True))
        await App("g", url, **settings).__aenter__()


async def test_the_host_name_is_not_checked_if_the_context_says_so(secured: SecuredBroker) -> None:
    context = secured.trust()
    context.check_hostname = False
    async with App("of-ANONYMOUS", secured.url("ELSEWHERE"), ssl_context=context):
        pass


def refusals(secured: SecuredBroker) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Return the URL, the settings and the text of the error for each kind of refusal."""
    login = partial(secured.url, "LOGIN")
    trust = {"ssl_context": secured.trust()}
    sha256 = {**trust, "client_options": {"sasl_mechanism": "SCRAM-SHA-256"}}
    return {
        "password": (login("guest:wrong-pw"), trust, "Invalid username or password"),
        "user": (login("nobody:wrong-pw"), trust, "Invalid username or password"),
        "password by SCRAM": (
            login("anna:wrong-pw"),
            {**trust, "client_options": SCRAM},
            "invalid credentials with SASL mechanism SCRAM-SHA-512",
        ),
        "mechanism": (login("anna:anna-pw"), sha256, "takes no login by SCRAM-SHA-256"),
        "no certificate": (secured.url("MUTUAL"), trust, "certificate"),
        "a stranger's certificate": (
            secured.url("MUTUAL"),
            {"ssl_context": secured.trust("nobody")},
            "certificate",
        ),
    }


WRONG = ["password", "user", "password by SCRAM", "mechanism"]
WRONG += ["no certificate", "a stranger's certificate"]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_refused_login_or_certificate_is_an_error_at_once(
    secured: SecuredBroker, wrong: str
) -> None:
    url, settings, match = refusals(secured)[wrong]
    settings = {**settings, "connect_timeout": 10 * MOMENT}
    await no_client_opens(url, settings, AuthorizationFailed, match, MOMENT)
    refused = pytest.RaisesExc(AuthorizationFailed, match=match)
    with pytest.RaisesGroup(refused, flatten_subgroups=True):
        await App("g", url, **settings).__aenter__()


WRONG_WAYS = {
    "in the clear to TLS": (lambda s: f"kafka://{s.broker.addresses['TLS']}", "may expect TLS"),
    "TLS to one in the clear": (lambda s: f"kafka+ssl://{s.broker.bootstrap}", "SSL"),
    "without a login": (lambda s: f"kafka://{s.broker.bootstrap}", "requires a login"),
}


@pytest.mark.parametrize("way", WRONG_WAYS)
async def test_an_error_hints_at_a_wrong_scheme(secured: SecuredBroker, way: str) -> None:
    url_of, match = WRONG_WAYS[way]
    settings = {"connect_timeout": 1.0}
    await no_client_opens(url_of(secured), settings, BrokerUnavailable, match, 1.0 + MOMENT)


@pytest.mark.parametrize("option", ["ssl_cafile", "ssl_certfile", "ssl_crlfile"])
async def test_an_error_names_a_certificate_file_that_cannot_be_read(
    secured: SecuredBroker, option: str
) -> None:
    settings = {"client_options": {option: "/no/such.pem"}, "connect_timeout": 10 * MOMENT}
    match = f"{option} '/no/such.pem'"
    await no_client_opens(secured.url("TLS"), settings, ValueError, match, MOMENT)


async def test_an_error_names_the_file_of_a_key_with_a_wrong_password(
    secured: SecuredBroker,
) -> None:
    for password in ("wrong-pw", None):
        options = {
            "ssl_certfile": str(secured.folder / "locked.pem"),
            "ssl_password": password,
        }
        settings = {"client_options": options, "connect_timeout": 10 * MOMENT}
        await no_client_opens(secured.url("MUTUAL"), settings, ValueError, "locked.pem", MOMENT)


# Rights


@pytest.fixture
def rights(secured: SecuredBroker) -> Iterator[Rights]:
    rights = Rights(secured, f"test-{uuid.uuid4().hex[:12]}")
    secured.create_topic(rights.name)
    secured.create_topic(rights.output)
    yield rights
    for kind, name in rights.given:
        secured.forbid("guest", kind, name)


class Rights:
    """The rights of the user `guest` to a topic and a group of one name; none at first."""

    def __init__(self, secured: SecuredBroker, name: str) -> None:
        self.secured = secured
        self.name = name
        self.output = f"{name}-output"
        self.given: list[tuple[ResourceType, str]] = []

    def give(self, kind: ResourceType, *operations: ACLOperation, name: str | None = None) -> None:
        self.secured.allow("guest", kind, name or self.name, *operations)
        self.given.append((kind, name or self.name))

    def give_all(self) -> None:
        for kind, name in (
            (TOPIC, self.name),
            (TOPIC, self.output),
            (GROUP, self.name),
            (ID, f"{self.name}-0"),
            (ID, "*"),
        ):
            self.give(kind, ALL, name=name)

    async def take(self, kind: ResourceType, name: str | None = None) -> None:
        forbid = self.secured.forbid
        await trio.to_thread.run_sync(forbid, "guest", kind, name or self.name)

    def app(self, **settings: Any) -> App:
        return an_app(self.secured, self.name, **settings)


@contextlib.asynccontextmanager
async def refused(match: str) -> AsyncIterator[None]:
    """Check that the block raises AuthorizationFailed, and no other error, in time."""
    raised = pytest.raises((AuthorizationFailed, ExceptionGroup))
    with trio.fail_after(2 * MOMENT), raised as caught:
        yield
    errors = list(flattened(caught.value))
    assert {type(error) for error in errors} == {AuthorizationFailed}
    assert [error for error in errors if re.search(match, str(error))], errors


def flattened(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from flattened(each)
    else:
        yield error


async def test_reading_and_sending_need_the_right_to_see_the_topic(rights: Rights) -> None:
    rights.give(GROUP, READ)
    async with refused(f"may not see {rights.name}"), rights.app() as app:
        await anext(app.topic(rights.name).noack())
    async with rights.app() as app, refused(f"may not see {rights.name}"):
        await app.producer.send(rights.name, None, b"v")


async def test_reading_needs_the_right_to_read_the_topic(rights: Rights) -> None:
    rights.give(GROUP, READ)
    rights.give(TOPIC, DESCRIBE)
    async with refused(rights.name), rights.app() as app:
        await anext(app.topic(rights.name).noack())


async def test_reading_needs_the_right_to_the_group(rights: Rights) -> None:
    rights.give(TOPIC, ALL)
    async with refused(f"Group.*{rights.name}"), rights.app() as app:
        await anext(app.topic(rights.name).noack())


async def test_sending_needs_the_right_to_write_to_the_topic(rights: Rights) -> None:
    rights.give(TOPIC, DESCRIBE)
    async with rights.app() as app:
        async with refused(rights.name):
            await (await app.producer.send(rights.name, None, b"v"))
        assert isinstance(await app.topic("open").send_and_wait(value=b"v"), RecordMetadata)


async def test_a_producer_needs_the_right_to_write_to_some_topic(secured: SecuredBroker) -> None:
    """The broker gives a producer id only to users that may write to some topic."""
    secured.set_password("reader", "anna-pw")
    secured.allow("reader", TOPIC, "open", READ)
    url, context = secured.url("LOGIN", "reader:anna-pw"), secured.trust()
    async with App("r", url, ssl_context=context, client_options=SCRAM) as app:
        for _ in range(2):
            async with refused("may not write to any topic"):
                await (await app.producer.send("open", None, b"v"))


async def test_creating_a_topic_needs_the_right_to_create(rights: Rights) -> None:
    async with rights.app() as app, refused("create|Cluster|Topic"):
        await app.producer.create_topic(f"{rights.name}-new", 1)


async def test_a_transaction_needs_the_right_to_its_id(rights: Rights) -> None:
    rights.give(TOPIC, ALL)
    rights.give(GROUP, READ)
    no_id = refused("may not use the transactional id '")
    async with no_id, rights.app(transactions="member") as app:
        async for _ in app.topic(rights.name):
            raise AssertionError("a message was delivered")


# Rights that are taken away


@pytest.mark.parametrize("kind", [TOPIC, GROUP])
async def test_a_right_that_is_taken_away_while_reading_ends_the_app(
    rights: Rights, kind: ResourceType
) -> None:
    rights.give_all()
    async with refused(rights.name), rights.app(commit_interval=0.1) as app:
        await app.topic(rights.name).send_and_wait(value=b"v")
        async for _ in app.topic(rights.name):
            await rights.take(kind)


async def test_a_right_that_is_taken_away_while_writing_fails_those_messages(
    rights: Rights,
) -> None:
    rights.give_all()
    with trio.fail_after(2 * MOMENT):
        async with rights.app() as app:
            topic, other = app.topic(rights.name), app.topic("open")
            assert isinstance(await topic.send_and_wait(value=b"v"), RecordMetadata)
            await rights.take(TOPIC)
            for _ in range(3):
                async with refused(rights.name):
                    await topic.send_and_wait(value=b"v")
                assert isinstance(await other.send_and_wait(value=b"v"), RecordMetadata)
            await trio.to_thread.run_sync(rights.give_all)
            assert isinstance(await topic.send_and_wait(value=b"v"), RecordMetadata)


@pytest.mark.parametrize("what", ["output", "id", "group"])
async def test_a_right_that_is_taken_away_within_a_transaction_ends_the_app(
    rights: Rights, what: str
) -> None:
    rights.give_all()
    taken, match = {
        "output": ((TOPIC, rights.output), rights.output),
        "id": ((ID, "*"), "may not use the transactional id '"),
        "group": ((GROUP, rights.name), rights.name),
    }[what]
    async with rights.app() as app:
        await app.topic(rights.name).send_and_wait(value=b"v")
    async with refused(match), rights.app(transactions="member", commit_interval=0.1) as app:
        async for message in app.topic(rights.name):
            await rights.take(*taken)
            await app.topic(rights.output).send(value=message.value)


# Secrets


class Everything(logging.Handler):
    """Keeps the lines of all loggers."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines of all loggers, at DEBUG."""
    everything = Everything()
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(everything)
    yield everything.lines
    root.removeHandler(everything)
    root.setLevel(before)


def shown_of(app: App) -> str:
    parts = [app, app.settings, app.settings.client, app.settings.client.client_options]
    parts += [app.transport, app.transport.url, app.driver, app.tree(), app.consumer, app.producer]
    parts += [app.consumer.client, app.driver.producer(app.settings.client)]
    parts += [vars(part) for part in (app.transport, app.driver)]
    urls = "".join(f"{url} {url!s} {url!r}" for url in app.transport.url)
    return "".join(f"{part} {part!r}" for part in parts) + urls


LOGINS = {
    "PLAIN": ("guest:{}", "guest-pw", {}),
    "SCRAM": ("anna:{}", "anna-pw", SCRAM),
    "options": ("guest:nothing", "guest-pw", {"sasl_plain_password": "{}"}),
}


@pytest.mark.parametrize("how", LOGINS)
@pytest.mark.parametrize("is_right", [True, False])
async def test_no_password_is_shown(
    secured: SecuredBroker, logged: list[str], how: str, is_right: bool
) -> None:
    login, right, options = LOGINS[how]
    password = right if is_right else "wrong-pw"
    options = {name: value.format(password) for name, value in options.items()}
    url = secured.url("LOGIN", login.format(password))
    app = App(
        f"of-{login[:-3]}",
        url,
        ssl_context=secured.trust(),
        client_options=options,
        client_log_level=None,  # the level that the test has set
    )
    shown = shown_of(app)
    try:
        async with app:
            await app.producer.create_topic("open", 1)
            await app.topic("open").send_and_wait(value=b"v")
            shown += shown_of(app)
    except* AuthorizationFailed as group:
        shown += "".join(traceback.format_exception(group)) + repr(group)
    said = "\n".join(logged)
    assert "SaslAuthenticateRequest" in said  # the login was logged
    for secret in (password, base64.b64encode(password.encode()).decode()):
        assert secret not in said
        assert secret not in shown
