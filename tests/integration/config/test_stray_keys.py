"""A private key in clear, put where something else belongs: once its command has come to its end it
is nowhere, not in a table, a stream, a dead letter, nor in the files of PostgreSQL and the
broker."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.config.domain.key_redaction import EMPTY_KEY
from shared import catalogue
from shared.contracts.base import SealedKey
from shared.contracts.certificates import StoreCertificate
from shared.contracts.commands import RegisterDomain, SubmitCertificate, SubmittedPair
from shared.contracts.domains import Origin
from shared.contracts.findings import Code
from shared.contracts.queries import ShowHistory
from shared.ids import new_id
from tests.integration.config.harness import SEALED_BOX, ConfigHarness, domain_name
from tests.support import key_search
from tests.support.factories import ACCOUNT

ORIGIN = Origin(scheme="http", host="origin.example.com", port=80)


@pytest.fixture(params=["RSA", "ECDSA"])
def key(request: pytest.FixtureRequest) -> key_search.PrivateKey:
    return (
        rsa.generate_private_key(65537, 2048)
        if request.param == "RSA"
        else ec.generate_private_key(ec.SECP256R1())
    )


def _nowhere(harness: ConfigHarness, key: key_search.PrivateKey) -> None:
    folder, wanted = harness.cluster.folder, key_search.key_patterns(key)
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found += [
            f"{path.relative_to(folder)}: {what}" for what in key_search.find_in_file(wanted, path)
        ]
        if "/base/" in str(path):
            found += [
                f"{path.relative_to(folder)}: {what}"
                for what in key_search.find_compressed_in_file(key, path)
            ]
    assert not found, found[:5]


async def test_in_the_clear_certificate_of_a_submission_it_is_refused_and_gone(
    harness: ConfigHarness, key: key_search.PrivateKey
) -> None:
    domain, identity, stored = domain_name(), new_id(), new_id()
    await harness.register(domain)
    pair = SubmittedPair(
        certificate=key_search.private_key_pem(key)["PKCS8"],
        sealed_key=SealedKey(epoch=0, box=SEALED_BOX),
    )
    order = SubmitCertificate(domain=domain, account=ACCOUNT, submission_id=identity, pairs=[pair])
    await harness.send(catalogue.CMD_CERTIFICATE_SUBMIT, order, id=identity)
    question = await harness.until_asked(identity)
    assert question.pairs[0].certificate == EMPTY_KEY, (
        "the validator still finds that there was one"
    )
    await harness.verdict(question, codes=(Code.CERTIFICATE_CONTAINS_KEY,))
    assert (await harness.settled(identity)).codes == ["certificate.contains_key"]

    library = StoreCertificate(name="stray", account=ACCOUNT, submission_id=stored, pairs=[pair])
    await harness.send(catalogue.CMD_CERTIFICATE_STORE, library, id=stored)
    await harness.verdict(await harness.until_asked(stored), codes=(Code.CERTIFICATE_CONTAINS_KEY,))
    await harness.settled(stored)
    _nowhere(harness, key)


async def test_in_any_other_command_it_is_gone_with_what_becomes_of_the_command(
    harness: ConfigHarness, key: key_search.PrivateKey
) -> None:
    pem, der = (
        key_search.private_key_pem(key)["traditional"],
        key_search.private_key_der(key)["PKCS8"],
    )
    register = RegisterDomain(
        domain=domain_name(), account=ACCOUNT, service_type="video", origin=ORIGIN
    )
    roots = {"account": ACCOUNT, "roots": "", "private_key": pem}
    malformed = [
        (catalogue.CMD_ROOTS_SET, json.dumps(roots)),
        (catalogue.CMD_ROOTS_SET, json.dumps(json.dumps(roots))),
        (catalogue.CMD_ROOTS_SET, json.dumps({"account": ACCOUNT, "roots": "", pem: 1})),
        (catalogue.CMD_DOMAIN_REGISTER, pem),
        (catalogue.CMD_HTTPS_DISABLE, der.hex()),
        (catalogue.CMD_CERTIFICATE_SUBMIT, json.dumps({"sealed_key": pem})),
        (catalogue.CMD_CERTIFICATE_SUBMIT, pem),
        (catalogue.CMD_SETTINGS_CHANGE, json.dumps(roots)[:-10]),
    ]
    for subject, body in malformed:
        identity = new_id()
        await harness.publish_raw(
            "platform",
            subject,
            body.encode(),
            {"ce-id": identity, "ce-source": pem.replace("\n", " ")[:3000]},
        )
        letter = await harness.until_dead_letter(identity)
        assert letter.body is None or "?" in letter.body, letter

    wrong = register.model_copy(update={"domain": pem[:1000]})
    settled = await harness.settled(await harness.send(catalogue.CMD_DOMAIN_REGISTER, wrong))
    assert settled.codes and settled.domain == "?"
    identity = new_id()
    await harness.publish_raw(
        "platform",
        catalogue.CMD_DOMAIN_REGISTER,
        register.encode(),
        {"ce-id": identity, "ce-source": pem.replace("\n", "")},
    )
    await harness.settled(identity)
    history = await harness.ask(
        catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=register.domain, account=ACCOUNT)
    )
    assert [entry.source for entry in history.entries] == [""]
    _nowhere(harness, key)
