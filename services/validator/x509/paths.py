"""One path from the leaf to a trusted root, held against RFC 5280, 6: flags, lengths, periods,
names, name constraints.

Where it can read the path, ``cryptography.x509.verification`` has a say besides. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    VerificationError,
)

from services.validator.x509.certificates import Certificate, identifiers_agree
from services.validator.x509.name_constraints import Uncheckable, violation
from shared.contracts.findings import Code, Finding, finding

MAX_NAME_CHECKS = 200_000
MAX_DEPTH = 10
ANOTHER_ISSUER = (
    "Ask the CA for another intermediate, or for a certificate below another: "
    "clients refuse this one."
)
ISSUED_ANEW = "Have it reissued: clients hold certificates to RFC 5280."
ISSUED_ELSEWHERE = (
    "Have the certificate issued by a CA that may issue these names, and without those it may not."
)

Path = tuple[Certificate, ...]


def faults_of(path: Path, at: datetime, *, by_library: bool) -> Iterator[Finding]:
    """What is wrong with a path whose signatures verify, or that the library verifies
    (``by_library``). What the leaf itself lacks is told by its own checks."""
    found = [*_unfit_issuers(path, at), *_other_keys(path)]
    if not found:
        found = list(_names_not_allowed(path))
    if not found and by_library:
        yield from _refused_by_library(path, at)
        return
    yield from found
    yield from _unprofiled(path)


def _unfit_issuers(path: Path, at: datetime) -> Iterator[Finding]:
    for depth, issuer in enumerate(path[1:]):
        if not issuer.valid_at(at):
            yield finding(
                Code.CHAIN_EXPIRED,
                f"{_place(issuer)} is valid from "
                f"{issuer.not_before:%Y-%m-%d} to {issuer.not_after:%Y-%m-%d} only.",
                field="certificate",
                block=_block(issuer),
            )
        for reason in _not_an_issuer(issuer, depth, path):
            yield _untrusted(issuer, reason, ANOTHER_ISSUER)


def _other_keys(path: Path) -> Iterator[Finding]:
    for child, issuer in pairwise(path):
        if not identifiers_agree(child, issuer):
            yield _untrusted(
                child,
                f"names another key than that of its issuer, {issuer}, by its authority key "
                "identifier, so clients refuse it",
                ISSUED_ANEW,
            )


def _names_not_allowed(path: Path) -> Iterator[Finding]:
    """By the name constraints of the CAs above; those of self-issued CAs are no names of anybody
    (RFC 5280, 6.1.3)."""
    if not any(c.is_constrained for c in path[1:]):
        return
    if name_checks(path) > MAX_NAME_CHECKS:
        yield finding(
            Code.CHAIN_UNTRUSTED,
            "The CAs of the chain constrain so many names, and the certificates have "
            "so many, that clients give up checking them.",
            field="certificate",
            hint=ISSUED_ELSEWHERE,
        )
        return
    for depth, issuer in enumerate(path[1:], start=1):
        for child in path[:depth]:
            if (child is path[0] or not child.is_self_issued) and (
                reason := _breach(child, issuer)
            ):
                yield _untrusted(child, reason, ISSUED_ELSEWHERE)


def _breach(child: Certificate, issuer: Certificate) -> str | None:
    try:
        constraints = issuer.constraints
        broken = violation(constraints, child.names) if constraints is not None else None
    except Uncheckable as fault:
        return f"cannot be held against the name constraints of {_told(issuer)} because of {fault}"
    return (
        f"has a name that {_told(issuer)} may not issue by its name constraints: {broken}"
        if broken
        else None
    )


def _told(issuer: Certificate) -> str:
    """Within a sentence."""
    return f"block {issuer.block}, {issuer}," if issuer.block >= 0 else f"the root {issuer}"


def _unprofiled(path: Path) -> Iterator[Finding]:
    """A root's own form and signature prove nothing, and clients do not look at them."""
    for c, issuer in pairwise(path):
        for reason in c.unprofiled:
            yield _untrusted(c, reason, ISSUED_ANEW)
        if c.odd_signature and issuer.key_fits:
            yield _untrusted(
                c,
                f"is signed with an algorithm that is not accepted ({c.odd_signature})",
                ISSUED_ANEW,
            )


def _untrusted(c: Certificate, reason: str, hint: str) -> Finding:
    return finding(
        Code.CHAIN_UNTRUSTED,
        f"{_place(c)} {reason}.",
        field="certificate",
        block=_block(c),
        hint=hint,
    )


def _block(c: Certificate) -> int | None:
    return c.block if c.block >= 0 else None


def name_checks(path: Path) -> int:
    """How often path validation compares a name with a constraint; 0.3 µs each, and the library
    stops at a million."""
    names, checks = 0, 0
    for c in path:
        constraints = c.extension(x509.NameConstraints)
        if constraints is not None:
            checks += names * (
                len(constraints.permitted_subtrees or ()) + len(constraints.excluded_subtrees or ())
            )
        names += c.san_count
    return checks


def _place(c: Certificate) -> str:
    """At the beginning of one."""
    return f"Block {c.block} of the chain, {c}," if c.block >= 0 else f"The root {c}"


def _not_an_issuer(issuer: Certificate, depth: int, path: Path) -> Iterator[str]:
    """``depth``: issuers below it, which RFC 5280, 4.2.1.9 counts without self-issued ones."""
    yield from issuer.unfit_as_issuer
    basic = issuer.extension(x509.BasicConstraints)
    if basic is not None and basic.path_length is not None:
        below = sum(not c.is_self_issued for c in path[1 : depth + 1])
        if below > basic.path_length:
            yield f"allows {basic.path_length} intermediates below it, not {below}"
    if issuer is not path[-1] and issuer.weak_signature:
        yield f"is signed with {issuer.weak_signature}"


def _require_ca(
    policy: Policy, certificate: x509.Certificate, basic: x509.BasicConstraints
) -> None:
    if not basic.ca:
        raise ValueError("not a CA")


# Private CAs often leave out what the web's profile demands of issuers (key identifiers, key
# usage); what they do state is checked above. The leaf has its own checks (D8, D10). Critical
# policies bind no client that asks for none (RFC 5280, 6.1); told to permit all, the library
# refuses them.
LEAF_POLICY = ExtensionPolicy.permit_all().may_be_present(
    x509.CertificatePolicies, Criticality.AGNOSTIC, None
)
CA_POLICY = LEAF_POLICY.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_ca)


def library_reads(path: Path, at: datetime) -> bool:
    """It is stricter than RFC 5280 about name constraints and self-issued CAs, compares names byte
    by byte, and is not to be asked about a leaf that is refused for itself."""
    leaf, root = path[0], path[-1]
    for child, issuer in pairwise(path):
        if issuer.is_constrained or child.issuer_name != issuer.subject_name:
            return False
        if issuer.is_self_issued and issuer is not root:
            return False
    return (
        leaf.key_fits
        and leaf.version == 3
        and leaf.valid_at(at)
        and not leaf.weak_signature
        and not leaf.unknown_critical
        and not leaf.is_constrained
        and not root.unprofiled
        and not root.odd_signature
    )


def _refused_by_library(path: Path, at: datetime) -> Iterator[Finding]:
    """What RFC 5280 path validation says against exactly this path, told by the first element that
    it refuses."""
    if _holds(path, at):
        return
    told = list(_unprofiled(path))
    yield from told
    if not told:
        lengths = range(2, len(path) + 1)
        first = next(
            (path[-length] for length in lengths if not _holds(path[-length:], at)), path[0]
        )
        yield _untrusted(first, "is refused by path validation (RFC 5280, 6)", ISSUED_ANEW)


def _holds(path: Path, at: datetime) -> bool:
    leaf, *issuers = path
    verifier = (
        PolicyBuilder()
        .store(issuers[-1].store)
        .time(at)
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=CA_POLICY, ee_policy=LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        verified = verifier.verify(leaf.parsed, [c.parsed for c in issuers[:-1]])
    except (VerificationError, ValueError):
        return False
    return len(verified.chain) == len(path)
