"""A login by another mechanism than the URL's own, as docs/security.md tells."""

from __future__ import annotations

import pytest
import trio
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from tests.drivers.test_kafka import LOGINS
from tests.kafka import cluster
from tests.kafka.cluster import Broker
from transport import App, AuthorizationFailed

pytestmark = pytest.mark.kafka

SCRAM = """
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
allow.everyone.if.no.acl.found=true
"""


def add_user(bootstrap: str, name: str, password: str) -> None:
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="admin",
        sasl_plain_password="admin-pw",
    )
    try:
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, password)]
        )
    finally:
        admin.close()


async def test_a_login_by_scram(kafka_java: None, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = cluster.PROPERTIES.replace("listeners=PLAINTEXT", "listeners=SASL_PLAINTEXT")
    logins = LOGINS.replace("mechanisms=PLAIN", "mechanisms=PLAIN,SCRAM-SHA-512")
    monkeypatch.setattr(cluster, "PROPERTIES", properties + logins + SCRAM)
    with Broker() as broker:
        await trio.to_thread.run_sync(add_user, broker.bootstrap, "anna", "anna-pw")

        def app_of(login: str) -> App:
            url = f"kafka+sasl://{login}@{broker.bootstrap}"
            return App("scram", url, client_options={"sasl_mechanism": "SCRAM-SHA-512"})

        async with app_of("anna:anna-pw") as app:
            await app.producer.create_topic("t", 1)
            await app.producer.send_and_wait("t", None, b"v")
            assert (await anext(app.topic("t").noack())).value == b"v"
        with pytest.RaisesGroup(AuthorizationFailed, flatten_subgroups=True) as caught:
            await app_of("anna:wrong-pw").__aenter__()
        assert "wrong-pw" not in repr(caught.value)
