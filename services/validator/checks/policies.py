"""The rules for a pair (product rules D1-D12), as a list that one can read aloud; see CHECKS at the
end.

Pure. A check says everything it finds; it is silent when what it needs could not be read, because
the check that could not read it has spoken. Messages name blocks, subjects and fingerprints, never
what was submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from services.validator.checks import field_checks, names
from services.validator.checks.submission import Submission
from services.validator.x509.certificates import Certificate
from shared.contracts.findings import Code, Finding, finding

Check = Callable[[Submission], Iterable[Finding]]

EXPIRES_SOON = timedelta(days=14)
SHOWN_NAMES = 30
_CERTIFICATE: Final = "certificate"
# CA/Browser Forum Baseline Requirements 6.3.2, by date of issue, newest first.
_LIFETIMES: Final = tuple(
    (datetime(*since, tzinfo=UTC), timedelta(days=days))
    for since, days in (
        ((2029, 3, 15), 47),
        ((2027, 3, 15), 100),
        ((2026, 3, 15), 200),
        ((2020, 9, 1), 398),
        ((2018, 3, 1), 825),
        ((2015, 4, 1), 1187),
        ((2012, 7, 1), 1826),
    )
)


# The leaf


def leaf_is_in_its_period(submission: Submission) -> Iterator[Finding]:
    """D7: refused outside of it, warned of in its last 14 days."""
    leaf, at = submission.leaf, submission.at
    if leaf is None:
        return
    if at.replace(microsecond=0) > leaf.not_after:
        yield finding(
            Code.CERTIFICATE_EXPIRED,
            f"{_named(leaf)} expired on {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE,
            block=leaf.block,
        )
    elif at < leaf.not_before:
        yield finding(
            Code.CERTIFICATE_NOT_YET_VALID,
            f"{_named(leaf)} is valid from {leaf.not_before:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE,
            block=leaf.block,
        )
    elif leaf.not_after - at < EXPIRES_SOON:
        yield finding(
            Code.CERTIFICATE_EXPIRES_SOON,
            f"{_named(leaf)} expires on {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def leaf_is_not_valid_for_too_long(submission: Submission) -> Iterator[Finding]:
    """D7: the CA/Browser Forum's limit of the day of issue, measured as browsers do."""
    leaf = submission.leaf
    limit = next((days for since, days in _LIFETIMES if leaf and leaf.not_before >= since), None)
    if leaf and limit and leaf.not_after - leaf.not_before > limit:
        length = leaf.not_after - leaf.not_before
        rest = f" and {length.seconds} seconds" if length.days == limit.days else ""
        yield finding(
            Code.CERTIFICATE_LIFETIME_LONG,
            f"{_named(leaf)} is valid for {length.days} days{rest}; the "
            f"limit of its day of issue is {limit.days}.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def leaf_was_logged(submission: Submission) -> Iterator[Finding]:
    """Of a publicly trusted leaf browsers demand SCTs, and neither of the other two ways to send
    them is left."""
    leaf, chain = submission.leaf, submission.chain
    if leaf and chain and chain.is_public and not leaf.has_scts:
        yield finding(
            Code.CERTIFICATE_NO_SCTS,
            f"{_named(leaf)} carries no signed certificate timestamps.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def leaf_serves_tls(submission: Submission) -> Iterator[Finding]:
    """D10: version 3, no CA, usable by a TLS server, nothing critical that clients do not know, no
    broken hash."""
    leaf = submission.leaf
    if leaf is None:
        return
    for reason in _unfit_for_servers(leaf):
        yield finding(
            Code.CERTIFICATE_NOT_A_SERVER,
            f"{_named(leaf)} {reason}.",
            field=_CERTIFICATE,
            block=leaf.block,
        )
    features = leaf.extension(x509.TLSFeature)
    if features and x509.TLSFeatureType.status_request in features:
        yield finding(
            Code.CERTIFICATE_MUST_STAPLE,
            f"{_named(leaf)} demands OCSP stapling (must-staple), which the nodes do not send.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def _unfit_for_servers(leaf: Certificate) -> Iterator[str]:
    if leaf.version != 3:
        yield f"is X.509 version {leaf.version}, not 3"
    if leaf.is_ca:
        yield "is a CA's"
    if not leaf.serves_tls:
        yield "is not for TLS servers (extended key usage without serverAuth)"
    if leaf.is_of_another_netscape_type:
        yield "is not for TLS servers (Netscape certificate type)"
    if leaf.is_proxy:
        yield "is a proxy certificate"
    usage = leaf.extension(x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        # Every cipher suite with ECDHE, and all of TLS 1.3, signs with the leaf's key.
        yield "may not sign handshakes (key usage without digitalSignature)"
    if leaf.unknown_critical:
        yield leaf.told_unknown_critical
    if leaf.weak_signature:
        yield f"is signed with {leaf.weak_signature}"


def leaf_covers_every_domain(submission: Submission) -> Iterator[Finding]:
    """D8: by DNS SANs alone."""
    leaf = submission.leaf
    for domain in submission.domains if leaf else ():
        if leaf and not names.covered(leaf.san_set, domain):
            yield finding(
                Code.DOMAIN_MISMATCH,
                f"{domain} is not covered; the certificate is for {shown(leaf.sans)}.",
                field="domain",
                block=leaf.block,
                domain=domain,
            )


def leaf_keeps_the_live_names(submission: Submission) -> Iterator[Finding]:
    """D12: names that the certificate in use covers and this one does not. The domain's own loss is
    D8's refusal."""
    leaf = submission.leaf
    lost = names.lost(submission.live_names, leaf.san_set) if leaf else []
    if leaf and lost:
        yield finding(
            Code.CERTIFICATE_NAMES_LOST,
            f"The live certificate covers, and this one does not: {shown(lost)}.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def _named(leaf: Certificate) -> str:
    return f"The certificate in block {leaf.block}, {leaf},"


def shown(found: Iterable[str], most: int = SHOWN_NAMES) -> str:
    """For a message, which holds 4,000 characters at most."""
    listed = [name if name.isprintable() else "?" for name in found]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(name[:80] for name in listed[:most]) or "no DNS name") + more


# The chain


def chain_leads_to_a_trusted_root(submission: Submission) -> Iterable[Finding]:
    """D9, D2: see chains.examine."""
    return submission.chain.findings if submission.chain else ()


CHECKS: Final[tuple[Check, ...]] = (
    field_checks.certificate_is_within_limits,
    field_checks.certificate_is_pem,
    field_checks.fields_are_not_mixed,
    field_checks.certificate_field_holds_certificates_only,
    field_checks.certificates_are_readable,
    field_checks.certificate_text_is_canonical,
    field_checks.key_is_within_limits,
    field_checks.key_is_pem,
    field_checks.key_is_readable,
    field_checks.key_has_no_password,
    field_checks.key_text_is_canonical,
    field_checks.key_is_of_a_supported_kind,
    field_checks.leaf_key_is_of_a_supported_kind,
    field_checks.key_is_not_weak,
    field_checks.key_belongs_to_the_leaf,
    leaf_is_in_its_period,
    leaf_is_not_valid_for_too_long,
    leaf_was_logged,
    leaf_serves_tls,
    leaf_covers_every_domain,
    chain_leads_to_a_trusted_root,
    leaf_keeps_the_live_names,
)
