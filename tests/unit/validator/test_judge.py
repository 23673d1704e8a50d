"""Several pairs and several domains in one judgement."""

from __future__ import annotations

import hashlib

from services.validator.checks.judge import PairTexts, judge_pairs
from shared.contracts.findings import Code, Severity
from tests.support.pki import NOW, Leaf, ec_key, pkcs8, rsa_key
from tests.unit.validator.sound_pair import DOMAIN, ISSUING, LEAF, ROOTS

RSA_LEAF = ISSUING.issue([DOMAIN], key=rsa_key())
RSA_FOR_TWO = ISSUING.issue([DOMAIN, "other.example.com"], key=rsa_key())


def texts(leaf: Leaf) -> PairTexts:
    return PairTexts(leaf.chain_pem, leaf.key_pem)


def test_an_rsa_and_an_ecdsa_pair_are_accepted_together_with_their_facts() -> None:
    judged = judge_pairs([texts(RSA_LEAF), texts(LEAF)], [DOMAIN], at=NOW, roots=ROOTS)
    assert (judged.accepted, judged.findings) == ({DOMAIN: True}, ())
    assert [(p.index, p.key_type, p.key_bits) for p in judged.pairs] == [
        (0, "rsa", 2048),
        (1, "ecdsa", 256),
    ]
    first = judged.pairs[0]
    assert first.subject == "CN=www.example.com"
    assert first.issuer == "CN=Test Issuing CA"
    assert first.sans == (DOMAIN,)
    assert first.leaf_fingerprint == RSA_LEAF.fingerprint
    assert first.not_after == RSA_LEAF.certificate.not_valid_after_utc
    assert first.chain_hash == hashlib.sha256(RSA_LEAF.chain_pem.encode()).hexdigest()


def test_a_fault_of_the_second_pair_names_that_pair_and_refuses_both() -> None:
    judged = judge_pairs(
        [texts(RSA_LEAF), PairTexts(LEAF.chain_pem, pkcs8(ec_key()))], [DOMAIN], at=NOW, roots=ROOTS
    )
    assert [(f.code, f.pair) for f in judged.findings] == [(Code.KEY_MISMATCH, 1)]
    assert (judged.accepted, judged.pairs) == ({DOMAIN: False}, ())


def test_without_domains_every_name_that_all_pairs_cover_is_accepted() -> None:
    wild = ISSUING.issue(["*.example.com", "example.com"], key=rsa_key())
    judged = judge_pairs([texts(wild)], [], at=NOW, roots=ROOTS)
    assert judged.accepted == {"*.example.com": True, "example.com": True}
    assert judged.pairs[0].chain_until <= judged.pairs[0].not_after
    both = judge_pairs([texts(wild), texts(LEAF)], [], at=NOW, roots=ROOTS)
    assert both.accepted == {DOMAIN: True} and len(both.pairs) == 2
    bad = judge_pairs([PairTexts(wild.chain_pem, pkcs8(ec_key()))], [], at=NOW, roots=ROOTS)
    assert not any(bad.accepted.values()) and bad.pairs == ()


def test_a_domain_needs_every_pair() -> None:
    domains = [DOMAIN, "other.example.com"]
    judged = judge_pairs([texts(RSA_FOR_TWO), texts(LEAF)], domains, at=NOW, roots=ROOTS)
    assert judged.accepted == {DOMAIN: True, "other.example.com": False}
    assert [(f.code, f.pair, f.domain) for f in judged.findings] == [
        (Code.DOMAIN_MISMATCH, 1, "other.example.com"),
        (Code.PAIR_NAMES_DIFFER, 1, None),
    ]
    assert len(judged.pairs) == 2


def test_fifty_domains_get_a_result_each() -> None:
    wildcard = ISSUING.issue(["*.example.com", "example.org"])
    fit = [f"h{n}.example.com" for n in range(48)]
    judged = judge_pairs(
        [texts(wildcard)], [*fit, "example.org", "a.b.example.com"], at=NOW, roots=ROOTS
    )
    assert judged.accepted == {
        **dict.fromkeys([*fit, "example.org"], True),
        "a.b.example.com": False,
    }
    assert [(f.code, f.domain) for f in judged.findings] == [
        (Code.DOMAIN_MISMATCH, "a.b.example.com")
    ]
    assert len(judged.pairs) == 1


def test_a_fault_of_the_pair_itself_refuses_every_domain() -> None:
    judged = judge_pairs(
        [PairTexts(LEAF.chain_pem, pkcs8(ec_key()))],
        [DOMAIN, "other.example.com"],
        at=NOW,
        roots=ROOTS,
    )
    assert judged.accepted == {DOMAIN: False, "other.example.com": False}
    assert {f.code for f in judged.findings} == {Code.KEY_MISMATCH, Code.DOMAIN_MISMATCH}


def test_two_certificates_with_different_names_are_a_warning_that_names_them() -> None:
    ecdsa = ISSUING.issue([DOMAIN, "only.example.net"])
    judged = judge_pairs([texts(RSA_FOR_TWO), texts(ecdsa)], [DOMAIN], at=NOW, roots=ROOTS)
    assert [(f.code, f.severity, f.pair) for f in judged.findings] == [
        (Code.PAIR_NAMES_DIFFER, Severity.WARNING, 1)
    ]
    assert (
        "only pair 0 covers other.example.com; only pair 1 covers only.example.net"
        in judged.findings[0].message
    )
    assert len(judged.pairs) == 2


def test_the_order_of_names_does_not_make_them_differ() -> None:
    ecdsa = ISSUING.issue(["other.example.com", DOMAIN])
    assert (
        judge_pairs([texts(RSA_FOR_TWO), texts(ecdsa)], [DOMAIN], at=NOW, roots=ROOTS).findings
        == ()
    )


def test_two_pairs_of_one_kind_are_refused() -> None:
    judged = judge_pairs(
        [texts(LEAF), texts(ISSUING.issue([DOMAIN]))], [DOMAIN], at=NOW, roots=ROOTS
    )
    assert [(f.code, f.pair) for f in judged.findings] == [(Code.PAIR_SAME_KIND, 1)]


def test_a_key_that_could_not_be_opened_silences_the_checks_of_the_key_only() -> None:
    judged = judge_pairs(
        [PairTexts(LEAF.chain_pem, None)], ["other.example.com"], at=NOW, roots=ROOTS
    )
    assert [f.code for f in judged.findings] == [Code.DOMAIN_MISMATCH]
    assert judged.pairs == ()


def test_silence_is_not_acceptance() -> None:
    judged = judge_pairs([PairTexts(LEAF.chain_pem, None)], [DOMAIN], at=NOW, roots=ROOTS)
    assert [f.code for f in judged.findings] == [Code.CERTIFICATE_UNJUDGEABLE]
    assert (judged.accepted, judged.pairs) == ({DOMAIN: False}, ())


def test_no_repr_shows_a_key() -> None:
    secret = LEAF.key_pem.split("\n")[1]
    judged = judge_pairs([texts(LEAF)], [DOMAIN], at=NOW, roots=ROOTS)
    assert secret not in repr(judged)
    assert secret not in repr(texts(LEAF))
