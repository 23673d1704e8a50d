"""One path from the leaf to a trusted root, checked against RFC 5280, 6.

It checks flags, path lengths, periods, names and name constraints. Where
``cryptography.x509.verification`` can read the path, that library must accept it too.
"""

from __future__ import annotations

import re
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

from services.validator.x509.certificate_policies import lacks_policy
from services.validator.x509.certificates import (
    NOT_A_CA,
    ParsedCertificate,
)
from services.validator.x509.client_rules import find_signature_objections, is_go_domain
from services.validator.x509.clients import Client, Objection
from services.validator.x509.name_constraints import UncheckableName, find_violation
from services.validator.x509.signatures import key_identifiers_agree
from shared.contracts.findings import Code, Finding, finding

MAX_NAME_CHECKS = 200_000
MAX_SHOWN_NAME = 80
MAX_NAME_LENGTH = 253
_KINDS_OF_GO = (
    x509.DNSName,
    x509.IPAddress,
    x509.RFC822Name,
    x509.UniformResourceIdentifier,
)
_URI_WITH_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://(?:[^/?#@]*@)?[^/?#@:\[]")
DNS_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
MAX_DEPTH = 10
MAX_REMEMBERED_ISSUERS = 256
_HINT_OTHER_ISSUER = (
    "Ask the CA for another intermediate, or for a certificate below another: "
    "clients refuse this one."
)
_HINT_REISSUE = "Have it reissued: clients hold certificates to RFC 5280."
_HINT_OTHER_CA = (
    "Have the certificate issued by a CA that may issue these names, and without those it may not."
)

CertificatePath = tuple[ParsedCertificate, ...]
"""The leaf first, then each issuer, the trusted root last."""


def find_path_faults(path: CertificatePath, at: datetime, *, by_library: bool) -> Iterator[Finding]:
    """Yield the faults of a path.

    Without ``by_library`` the caller has verified its signatures; with it, the library verifies
    them here. Faults of the leaf itself are left to its own checks.
    """
    findings = list(_issuer_faults(path, at))
    if not findings:
        findings = list(_name_constraint_faults(path))
    if not findings and by_library:
        yield from _library_faults(path, at)
        return
    yield from findings
    yield from _form_faults(path)


def _issuer_faults(path: CertificatePath, at: datetime) -> Iterator[Finding]:
    for depth, issuer in enumerate(path[1:]):
        if not issuer.is_valid_at(at):
            yield finding(
                Code.CHAIN_EXPIRED,
                f"{_begin_sentence_with(issuer)} is valid from "
                f"{issuer.not_before:%Y-%m-%d} to {issuer.not_after:%Y-%m-%d} only.",
                field="certificate",
                block=_block_of(issuer),
            )
        issuers_below = path[1 : depth + 1]
        for reason in _why_not_issuer(issuer, issuers_below, is_root=issuer is path[-1]):
            yield _untrusted(issuer, reason, _HINT_OTHER_ISSUER)
    if lacks_policy(path):
        yield _untrusted(
            path[0],
            "does not have the certificate policy that its CAs demand, so Chrome and Go refuse it",
            _HINT_OTHER_ISSUER,
        )


def _why_not_issuer(
    issuer: ParsedCertificate, issuers_below: CertificatePath, *, is_root: bool
) -> Iterator[str]:
    for fault in issuer.issuer_faults:
        if not (is_root and issuer.is_old_root and fault == NOT_A_CA):
            yield fault
    basic_constraints = issuer.find_extension(x509.BasicConstraints)
    if basic_constraints is not None and basic_constraints.path_length is not None:
        # RFC 5280, 4.2.1.9 counts the issuers below without the self-issued ones.
        count = sum(not below.is_self_issued for below in issuers_below)
        if count > basic_constraints.path_length:
            yield f"allows {basic_constraints.path_length} intermediates below it, not {count}"
    if issuer.broken_hash and not is_root:
        yield f"is signed with {issuer.broken_hash}"


def find_path_objections(
    path: CertificatePath, *, root_is_public: bool
) -> list[tuple[ParsedCertificate, Objection]]:
    """Return what single clients object to on a path without faults (rule D13), in its order.

    A root that browsers trust is not looked at.
    """
    found = []
    for certificate in path:
        is_root = certificate is path[-1] and len(path) > 1
        if is_root and root_is_public:
            continue
        if certificate is path[0]:
            objections = certificate.objections_as_leaf
        else:
            objections = certificate.objections_as_ca
        found += [(certificate, objection) for objection in objections]
        if not is_root:
            signature_objections = find_signature_objections(certificate.der)
            found += [(certificate, objection) for objection in signature_objections]
    for child, issuer in pairwise(path):
        found += [(child, objection) for objection in _link_objections(child, issuer)]
    found += [(path[0], objection) for objection in _constrained_name_objections(path)]
    return found


def _link_objections(child: ParsedCertificate, issuer: ParsedCertificate) -> Iterator[Objection]:
    if child.issuer_der != issuer.subject_der:
        yield Objection(
            (Client.FIREFOX, Client.GO),
            f"writes the name of its issuer, {_mention(issuer)}, in another way than that does "
            "itself (the kind of string, case or white space)",
        )
    if not key_identifiers_agree(child, issuer):
        yield Objection(
            (Client.OPENSSL,),
            f"names another key than that of its issuer, {_mention(issuer)}, by its authority "
            "key identifier",
        )


def _constrained_name_objections(path: CertificatePath) -> Iterator[Objection]:
    """Names that a client cannot compare with the constraints of a CA above them."""
    constrained_kinds: set[type] = set()
    for issuer in path[1:]:
        constraints = issuer.find_extension(x509.NameConstraints)
        if constraints is not None:
            names = (constraints.permitted_subtrees or [], constraints.excluded_subtrees or [])
            constrained_kinds |= {type(name) for side in names for name in side}
    if x509.DNSName in constrained_kinds:
        yield from _odd_dns_names(path[0].sans)
    san = path[0].find_extension(x509.SubjectAlternativeName)
    if san is None or constrained_kinds.isdisjoint(_KINDS_OF_GO):
        return
    emails = san.get_values_for_type(x509.RFC822Name)
    for issuer in path[1:]:
        constraints = issuer.find_extension(x509.NameConstraints)
        excluded = (constraints.excluded_subtrees or []) if constraints is not None else []
        hosts = [name.value for name in excluded if isinstance(name, x509.RFC822Name)]
        if _is_below_excluded_host(emails, hosts):
            yield Objection(
                (Client.GO,),
                f"has an e-mail address below a host that {_mention(issuer)} excludes by its "
                "name constraints",
            )
            return
    for uri in san.get_values_for_type(x509.UniformResourceIdentifier):
        if not _URI_WITH_HOST.match(uri):
            yield Objection(
                (Client.GO,), "has a URI without a host name, below a CA with name constraints"
            )
            return


def _is_below_excluded_host(emails: list[str], hosts: list[str]) -> bool:
    """Check for a host that RFC 5280 takes for itself alone and Go for all hosts below it too."""
    excluded = {host.lower() for host in hosts if "@" not in host and not host.startswith(".")}
    for email in emails:
        parent = email.rpartition("@")[2].lower().partition(".")[2]
        while parent:
            if parent in excluded:
                return True
            parent = parent.partition(".")[2]
    return False


def _odd_dns_names(names: tuple[str, ...]) -> Iterator[Objection]:
    for name in names:
        clients = []
        if not _is_host_name(name):
            clients.append(Client.FIREFOX)
        if not is_go_domain(name):
            clients.append(Client.GO)
        if clients:
            yield Objection(
                tuple(clients),
                f"has a name that is no host name, {name[:MAX_SHOWN_NAME]!r}, below a CA that "
                "constrains host names",
            )
            return


def _is_host_name(name: str) -> bool:
    """Check a DNS name as Firefox reads one: labels of letters, digits, ``-`` and ``_``."""
    labels = name.removeprefix("*.").split(".")
    for label in labels:
        if not DNS_LABEL.fullmatch(label):
            return False
    return len(name) <= MAX_NAME_LENGTH and not labels[-1].isdigit()


def _name_constraint_faults(path: CertificatePath) -> Iterator[Finding]:
    """Check every certificate against the name constraints of every CA above it.

    The names of self-issued CAs are not checked (RFC 5280, 6.1.3).
    """
    if not any(issuer.has_name_constraints for issuer in path[1:]):
        return
    if count_name_checks(path) > MAX_NAME_CHECKS:
        yield finding(
            Code.CHAIN_UNTRUSTED,
            "The CAs of the chain constrain so many names, and the certificates have "
            "so many, that clients give up checking them.",
            field="certificate",
            hint=_HINT_OTHER_CA,
        )
        return
    leaf = path[0]
    for depth, issuer in enumerate(path[1:], start=1):
        for child in path[:depth]:
            if child.is_self_issued and child is not leaf:
                continue
            reason = _why_not_allowed(child, issuer)
            if reason:
                yield _untrusted(child, reason, _HINT_OTHER_CA)


def _why_not_allowed(child: ParsedCertificate, issuer: ParsedCertificate) -> str | None:
    try:
        constraints = issuer.name_constraints
        if constraints is None:
            return None
        violation = find_violation(constraints, child.constrained_names)
    except UncheckableName as fault:
        return (
            f"cannot be held against the name constraints of {_mention(issuer)} because of {fault}"
        )
    if violation is None:
        return None
    return f"has a name that {_mention(issuer)} may not issue by its name constraints: {violation}"


def count_name_checks(path: CertificatePath) -> int:
    """Count how often path validation compares a name with a constraint.

    A comparison takes 0.3 µs, and the library stops at a million of them.
    """
    names_below = 0
    checks = 0
    for certificate in path:
        constraints = certificate.find_extension(x509.NameConstraints)
        if constraints is not None:
            permitted = constraints.permitted_subtrees or ()
            excluded = constraints.excluded_subtrees or ()
            checks += names_below * (len(permitted) + len(excluded))
        names_below += certificate.san_count
    return checks


def _form_faults(path: CertificatePath) -> Iterator[Finding]:
    """Check the form and the signature algorithm of all but the root.

    A root's own form and signature prove nothing, and clients do not look at them.
    """
    for certificate, issuer in pairwise(path):
        for reason in certificate.profile_faults:
            yield _untrusted(certificate, reason, _HINT_REISSUE)
        if certificate.unaccepted_algorithm and issuer.key_is_supported:
            yield _untrusted(
                certificate,
                "is signed with an algorithm that is not accepted "
                f"({certificate.unaccepted_algorithm})",
                _HINT_REISSUE,
            )


# The path library


def _require_ca(
    policy: Policy, certificate: x509.Certificate, basic_constraints: x509.BasicConstraints
) -> None:
    if not basic_constraints.ca:
        raise ValueError("not a CA")


# Private CAs often leave out what the web's profile demands of issuers (key identifiers, key
# usage), so the library is set to permit all extensions. What issuers do state is checked above,
# and the leaf has its own checks (D8, D10). Critical policies must be allowed by name, because
# ``permit_all`` refuses them; they bind no client that asks for no policy (RFC 5280, 6.1).
LEAF_POLICY = ExtensionPolicy.permit_all().may_be_present(
    x509.CertificatePolicies, Criticality.AGNOSTIC, None
)
CA_POLICY = LEAF_POLICY.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_ca)


def library_can_validate(path: CertificatePath, at: datetime) -> bool:
    """Check that the library judges this path by no rule that RFC 5280 does not have.

    It is stricter about name constraints and self-issued CAs, and it compares names byte by byte.
    A leaf that is refused for itself is not validated, so that its path is not blamed.
    """
    leaf = path[0]
    root = path[-1]
    for child, issuer in pairwise(path):
        if issuer.has_name_constraints or child.issuer_der != issuer.subject_der:
            return False
        if issuer.is_self_issued and issuer is not root:
            return False
    if any(certificate.is_beyond_library for certificate in path) or root.version != 3:
        return False
    return (
        leaf.key_is_supported
        and leaf.version == 3
        and leaf.is_valid_at(at)
        and not leaf.broken_hash
        and not leaf.unknown_critical_oids
        and not leaf.has_name_constraints
        and not root.profile_faults
        and not root.unaccepted_algorithm
    )


def _library_faults(path: CertificatePath, at: datetime) -> Iterator[Finding]:
    """Yield why the library refuses exactly this path; nothing when it accepts it."""
    if _library_accepts(path, at):
        return
    form_faults = list(_form_faults(path))
    if form_faults:
        yield from form_faults
        return
    # The library names no certificate. The path is validated from the root down, one certificate
    # longer each time: the first that is refused is the faulty one.
    faulty = path[0]
    for length in range(2, len(path) + 1):
        if not _library_validates(path[-length:], at):
            faulty = path[-length]
            break
    yield _untrusted(faulty, "is refused by path validation (RFC 5280, 6)", _HINT_REISSUE)


def _library_accepts(path: CertificatePath, at: datetime) -> bool:
    """Ask the library about a path whose issuers have passed ``_issuer_faults`` at ``at``."""
    # The same few hundred intermediates are in nearly every upload, and each signature takes 60 µs
    # to verify: an eighth of a P-256 verdict. So the issuers are validated once, and after that
    # only the leaf below the first of them.
    #
    # The two halves add up to the whole. The leaf's half checks the leaf, its signature, and its
    # issuer as a CA. The issuers' half checks the signatures above, which depend on nothing but the
    # DER of the issuers, by which it is remembered. What depends on the moment or on the length of
    # the whole path (periods, path lengths) is checked by _issuer_faults each time.
    leaf_and_issuer = path[:2]
    issuers = path[1:]
    if len(issuers) > 1 and _issuers_are_accepted(issuers, at):
        return _library_validates(leaf_and_issuer, at)
    return _library_validates(path, at)


_accepted_issuers: set[tuple[bytes, ...]] = set()


def _issuers_are_accepted(issuers: CertificatePath, at: datetime) -> bool:
    key = tuple([issuer.der for issuer in issuers])
    if key in _accepted_issuers:
        return True
    if not _library_validates(issuers, at):
        return False
    if len(_accepted_issuers) >= MAX_REMEMBERED_ISSUERS:
        _accepted_issuers.clear()
    _accepted_issuers.add(key)
    return True


def _library_validates(path: CertificatePath, at: datetime) -> bool:
    """Validate exactly this path with its last certificate as the only trusted one."""
    verifier = (
        PolicyBuilder()
        .store(path[-1].root_store)
        .time(at)
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=CA_POLICY, ee_policy=LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        verified = verifier.verify(path[0].parsed, [issuer.parsed for issuer in path[1:-1]])
    except (VerificationError, ValueError):
        return False
    return len(verified.chain) == len(path)


# Findings


def _untrusted(certificate: ParsedCertificate, reason: str, hint: str) -> Finding:
    return finding(
        Code.CHAIN_UNTRUSTED,
        f"{_begin_sentence_with(certificate)} {reason}.",
        field="certificate",
        block=_block_of(certificate),
        hint=hint,
    )


def _block_of(certificate: ParsedCertificate) -> int | None:
    return certificate.block if certificate.block >= 0 else None


def _begin_sentence_with(certificate: ParsedCertificate) -> str:
    if certificate.block >= 0:
        return f"Block {certificate.block} of the chain, {certificate},"
    return f"The root {certificate}"


def _mention(issuer: ParsedCertificate) -> str:
    """Name an issuer within a sentence."""
    if issuer.block >= 0:
        return f"block {issuer.block}, {issuer},"
    return f"the root {issuer}"
