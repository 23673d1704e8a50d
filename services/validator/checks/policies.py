"""The rules for a pair (product rules D1-D12), as a list that one can read aloud: see CHECKS.

A check yields everything that it finds. It is silent when what it needs could not be read, because
the check that could not read it has reported that. Messages name blocks, subjects and fingerprints,
and never repeat what was submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from services.validator.checks import field_checks, names
from services.validator.checks.submission import PairSubmission
from services.validator.x509.certificates import ParsedCertificate
from services.validator.x509.clients import is_refused
from shared.contracts.findings import Code, Finding, finding

Check = Callable[[PairSubmission], Iterable[Finding]]

EXPIRES_SOON = timedelta(days=14)
MAX_SHOWN_NAMES = 30
MAX_SHOWN_NAME_LENGTH = 80
_CERTIFICATE_FIELD: Final = "certificate"
# CA/Browser Forum Baseline Requirements 6.3.2: the longest period by the day of issue, the newest
# rule first.
_MAX_LIFETIMES: Final = (
    (datetime(2029, 3, 15, tzinfo=UTC), timedelta(days=47)),
    (datetime(2027, 3, 15, tzinfo=UTC), timedelta(days=100)),
    (datetime(2026, 3, 15, tzinfo=UTC), timedelta(days=200)),
    (datetime(2020, 9, 1, tzinfo=UTC), timedelta(days=398)),
    (datetime(2018, 3, 1, tzinfo=UTC), timedelta(days=825)),
    (datetime(2015, 4, 1, tzinfo=UTC), timedelta(days=1187)),
    (datetime(2012, 7, 1, tzinfo=UTC), timedelta(days=1826)),
)


# The leaf


def leaf_is_in_its_period(submission: PairSubmission) -> Iterator[Finding]:
    """D7: refused outside of its period, and a warning in the last 14 days."""
    leaf = submission.leaf
    at = submission.at
    if leaf is None:
        return
    if at.replace(microsecond=0) > leaf.not_after:
        yield finding(
            Code.CERTIFICATE_EXPIRED,
            f"{_begin_sentence_with(leaf)} expired on {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )
    elif at < leaf.not_before:
        yield finding(
            Code.CERTIFICATE_NOT_YET_VALID,
            f"{_begin_sentence_with(leaf)} is valid from {leaf.not_before:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )
    elif leaf.not_after - at < EXPIRES_SOON:
        yield finding(
            Code.CERTIFICATE_EXPIRES_SOON,
            f"{_begin_sentence_with(leaf)} expires on {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )


def leaf_is_not_valid_for_too_long(submission: PairSubmission) -> Iterator[Finding]:
    """D7: the CA/Browser Forum's limit of the day of issue, measured as browsers do."""
    leaf = submission.leaf
    if leaf is None:
        return
    limit = _max_lifetime(leaf.not_before)
    lifetime = leaf.not_after - leaf.not_before
    if limit is not None and lifetime > limit:
        seconds = f" and {lifetime.seconds} seconds" if lifetime.days == limit.days else ""
        yield finding(
            Code.CERTIFICATE_LIFETIME_LONG,
            f"{_begin_sentence_with(leaf)} is valid for {lifetime.days} days{seconds}; the "
            f"limit of its day of issue is {limit.days}.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )


def _max_lifetime(issued: datetime) -> timedelta | None:
    """Return the limit on the day of issue; None before there was a limit."""
    for since, limit in _MAX_LIFETIMES:
        if issued >= since:
            return limit
    return None


def leaf_was_logged(submission: PairSubmission) -> Iterator[Finding]:
    """A publicly trusted leaf contains signed certificate timestamps.

    Browsers demand them, and the nodes send none in the handshake or with OCSP.
    """
    leaf = submission.leaf
    chain = submission.chain
    if leaf and chain and chain.is_public and not leaf.has_scts:
        yield finding(
            Code.CERTIFICATE_NO_SCTS,
            f"{_begin_sentence_with(leaf)} carries no signed certificate timestamps.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )


def leaf_serves_tls(submission: PairSubmission) -> Iterator[Finding]:
    """D10: a TLS server can use the leaf.

    It is of version 3, no CA, allows server authentication, has no critical extension that clients
    do not know and no broken hash.
    """
    leaf = submission.leaf
    if leaf is None:
        return
    for reason in _why_no_server_certificate(leaf):
        yield finding(
            Code.CERTIFICATE_NOT_A_SERVER,
            f"{_begin_sentence_with(leaf)} {reason}.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )
    features = leaf.find_extension(x509.TLSFeature)
    if features and x509.TLSFeatureType.status_request in features:
        yield finding(
            Code.CERTIFICATE_MUST_STAPLE,
            f"{_begin_sentence_with(leaf)} demands OCSP stapling (must-staple), which the nodes "
            "do not send.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )


def _why_no_server_certificate(leaf: ParsedCertificate) -> Iterator[str]:
    if leaf.version != 3:
        yield f"is X.509 version {leaf.version}, not 3"
    if leaf.is_ca:
        yield "is a CA's"
    if not leaf.allows_server_auth:
        yield "is not for TLS servers (extended key usage without serverAuth)"
    if leaf.netscape_type_excludes_servers:
        yield "is not for TLS servers (Netscape certificate type)"
    if leaf.is_proxy:
        yield "is a proxy certificate"
    usage = leaf.find_extension(x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        # Every cipher suite with ECDHE, and all of TLS 1.3, signs with the leaf's key.
        yield "may not sign handshakes (key usage without digitalSignature)"
    if leaf.unknown_critical_oids:
        yield leaf.unknown_critical_clause
    if leaf.broken_hash:
        yield f"is signed with {leaf.broken_hash}"


def leaf_covers_every_domain(submission: PairSubmission) -> Iterator[Finding]:
    """D8: by the DNS names of the SAN extension alone."""
    leaf = submission.leaf
    if leaf is None:
        return
    for domain in submission.domains:
        if not names.covered(leaf.san_set, domain):
            yield finding(
                Code.DOMAIN_MISMATCH,
                f"{domain} is not covered; the certificate is for {list_names(leaf.sans)}.",
                field="domain",
                block=leaf.block,
                domain=domain,
            )


def leaf_keeps_the_live_names(submission: PairSubmission) -> Iterator[Finding]:
    """D12: every name that the certificate in use covers is still covered.

    The domain itself is D8's.
    """
    leaf = submission.leaf
    if leaf is None:
        return
    lost = names.find_lost_names(submission.live_names, leaf.san_set)
    if lost:
        yield finding(
            Code.CERTIFICATE_NAMES_LOST,
            f"The live certificate covers, and this one does not: {list_names(lost)}.",
            field=_CERTIFICATE_FIELD,
            block=leaf.block,
        )


def _begin_sentence_with(leaf: ParsedCertificate) -> str:
    return f"The certificate in block {leaf.block}, {leaf},"


def list_names(found: Sequence[str], limit: int = MAX_SHOWN_NAMES) -> str:
    """List names for a message, which holds 4,000 characters at most."""
    shown = []
    for name in found[:limit]:
        shown.append(name[:MAX_SHOWN_NAME_LENGTH] if name.isprintable() else "?")
    text = ", ".join(shown) or "no DNS name"
    if len(found) > limit:
        text += f" and {len(found) - limit} more"
    return text


# The chain


def chain_leads_to_a_trusted_root(submission: PairSubmission) -> Iterable[Finding]:
    """D9 and D2: see ``x509.chains.build_chain``."""
    return submission.chain.findings if submission.chain else ()


def chain_lasts_as_long_as_the_leaf(submission: PairSubmission) -> Iterator[Finding]:
    """D7: a chain ends with the first of its certificates, the root included."""
    leaf = submission.leaf
    chain = submission.chain
    if leaf is None or chain is None or not chain.path:
        return
    first = chain.first_to_end
    if first.not_after >= leaf.not_after or submission.at.replace(microsecond=0) > first.not_after:
        return
    place = f"block {first.block}" if first.block >= 0 else "the root"
    yield finding(
        Code.CHAIN_ENDS_FIRST,
        f"The chain ends on {first.not_after:%Y-%m-%d %H:%M:%S} UTC with {place}, {first}; the "
        f"certificate in block {leaf.block} ends on {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC.",
        field=_CERTIFICATE_FIELD,
        block=first.block if first.block >= 0 else leaf.block,
    )


def nodes_load_the_certificates(submission: PairSubmission) -> Iterator[Finding]:
    """D13: OpenSSL, and so the nginx of a node, loads every certificate that is served."""
    if submission.chain is None:
        return
    for certificate in submission.chain.certificates:
        if certificate.load_fault and not certificate.is_proxy:  # leaf_serves_tls reports that
            yield finding(
                Code.CERTIFICATE_UNLOADABLE,
                f"Block {certificate.block}, {certificate}, cannot be loaded by OpenSSL, which "
                f"the nodes serve with ({certificate.load_fault}).",
                field=_CERTIFICATE_FIELD,
                block=certificate.block,
            )


def clients_accept_the_path(submission: PairSubmission) -> Iterator[Finding]:
    """D13: refused where two of four clients refuse, a warning where one does."""
    if submission.chain is None:
        return
    found = submission.chain.find_objections()
    objections = [objection for _, objection in found if objection.clients]
    code = Code.CERTIFICATE_CLIENT_REFUSES
    if is_refused(objections):
        code = Code.CERTIFICATE_CLIENTS_REFUSE
    for certificate, objection in found:
        if not objection.clients:
            continue
        place = "The root"
        if certificate.block >= 0:
            place = f"Block {certificate.block},"
        yield finding(
            code,
            f"{place} {certificate}, {objection.reason}: {_join(objection.clients)} "
            f"{'refuses' if len(objection.clients) == 1 else 'refuse'} it.",
            field=_CERTIFICATE_FIELD,
            block=certificate.block if certificate.block >= 0 else None,
        )


def _join(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + " and " + words[-1]


CHECKS: Final[tuple[Check, ...]] = (
    field_checks.certificate_is_within_limits,
    field_checks.certificate_is_pem,
    field_checks.no_key_in_certificate_field,
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
    chain_lasts_as_long_as_the_leaf,
    nodes_load_the_certificates,
    clients_accept_the_path,
    leaf_keeps_the_live_names,
)
