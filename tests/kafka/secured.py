"""A secured broker: TLS, certificates of clients, logins, and rights for each user.

Its certificates, good and bad, are made for each run. Each bad one has its own listener.
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from cryptography.hazmat.primitives import serialization
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.kafka.cluster import Broker

# The protocol and the certificate of each listener.
LISTENERS = {
    "TLS": ("SSL", "good"),
    "MUTUAL": ("SSL", "good"),
    "LOGIN": ("SASL_SSL", "good"),
    "EXPIRED": ("SSL", "expired"),
    "ELSEWHERE": ("SSL", "elsewhere"),
    "STRANGER": ("SSL", "stranger"),
}

PROPERTIES = """\
listener.security.protocol.map=CONTROLLER:SSL,PLAINTEXT:SASL_PLAINTEXT,{protocols}
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false
ssl.keystore.type=PEM
ssl.keystore.location={folder}/good.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.controller.ssl.client.auth=required
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.plaintext.plain.sasl.jaas.config={plain}
listener.name.plaintext.scram-sha-512.sasl.jaas.config={scram}
listener.name.login.plain.sasl.jaas.config={plain}
listener.name.login.scram-sha-512.sasl.jaas.config={scram}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:broker
ssl.principal.mapping.rules=RULE:^CN=([^,]+),.*$/$1/
"""
PLAIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required"
    ' username="admin" password="admin-pw" user_admin="admin-pw" user_guest="guest-pw";'
)
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def write_certificates(folder: Path) -> None:
    """Write the broker's certificates (good, expired, elsewhere, stranger), and those of clients.

    `locked` is `member` with a key that has a password.
    """
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    certificates = {
        "good": ours.issue_cert("127.0.0.1", common_name="broker"),
        "expired": ours.issue_cert(
            "127.0.0.1", not_before=past, not_after=past + datetime.timedelta(days=1)
        ),
        "elsewhere": ours.issue_cert("kafka.example.org"),
        "stranger": theirs.issue_cert("127.0.0.1"),
        "member": ours.issue_cert("member", common_name="member"),
        "nobody": theirs.issue_cert("member", common_name="member"),
    }
    for name, certificate in certificates.items():
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        key = certificate.private_key_pem.bytes()
        (folder / f"{name}.pem").write_bytes(_pkcs8(key) + chain)
        if name == "member":
            (folder / "locked.pem").write_bytes(_pkcs8(key, b"ssl-pw") + chain)


def _pkcs8(key: bytes, password: bytes | None = None) -> bytes:
    """Return a private key in the only form that Kafka reads."""
    lock = serialization.BestAvailableEncryption(password) if password else None
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        lock or serialization.NoEncryption(),
    )


class SecuredBroker:
    """A broker with a listener for each name in LISTENERS; a sync context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        write_certificates(self.folder)
        protocols = ",".join(f"{name}:{protocol}" for name, (protocol, _) in LISTENERS.items())
        properties = PROPERTIES.format(
            folder=self.folder, protocols=protocols, plain=PLAIN, scram=SCRAM
        )
        for name, (_, certificate) in LISTENERS.items():
            location = f"listener.name.{name.lower()}.ssl.keystore.location"
            properties += f"{location}={self.folder}/{certificate}.pem\n"
        with contextlib.ExitStack() as stack:
            self.broker = stack.enter_context(Broker(list(LISTENERS), properties))
            self.admin = KafkaAdminClient(
                bootstrap_servers=self.broker.bootstrap,
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                sasl_plain_username="admin",
                sasl_plain_password="admin-pw",
            )
            stack.callback(self.admin.close)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def url(self, listener: str, login: str = "") -> str:
        scheme = "kafka+sasl+ssl" if LISTENERS[listener][0] == "SASL_SSL" else "kafka+ssl"
        return f"{scheme}://{login}{'@' if login else ''}{self.broker.addresses[listener]}"

    def trust(self, certificate: str | None = None) -> ssl.SSLContext:
        """Return a context that trusts the broker's CA, and has the named client certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate is not None:
            context.load_cert_chain(str(self.folder / f"{certificate}.pem"))
        return context

    # Calls of an administrator. Each blocks.

    def create_topic(self, name: str, partitions: int = 1) -> None:
        self.admin.create_topics({name: {"num_partitions": partitions}}, wait_for_metadata=True)

    def set_password(self, user: str, password: str) -> None:
        """Set the password of a user for SCRAM-SHA-512."""
        self.admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password)]
        )

    def allow(self, user: str, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        pattern, yes = ResourcePattern(kind, name), ACLPermissionType.ALLOW
        self.admin.create_acls(
            [ACL(f"User:{user}", "*", each, yes, pattern) for each in operations]
        )

    def forbid(self, user: str, kind: ResourceType, name: str) -> None:
        """Remove all rights of a user to a resource."""
        pattern = ResourcePatternFilter(kind, name, ACLResourcePatternType.LITERAL)
        any_right = ACLOperation.ANY, ACLPermissionType.ANY
        self.admin.delete_acls([ACLFilter(f"User:{user}", "*", *any_right, pattern)])
