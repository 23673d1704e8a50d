"""Certificate policies of a path (RFC 5280, 6.1, as RFC 9618 amends it), processed as sets.

No policy is asked for, so the outcome matters only where a CA demands an explicit one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from services.validator.x509 import der
from services.validator.x509.certificates import ParsedCertificate
from services.validator.x509.der import NotDer
from services.validator.x509.der_layout import read_raw_extensions

ANY_POLICY = "2.5.29.32.0"


@dataclass
class _PolicyState:
    """The state between two certificates.

    ``expected``: by valid policy the policies that the next certificate may name for it; None when
    no policy is valid. The three numbers count down to the certificate from which on an explicit
    policy is demanded, mappings are ignored, and anyPolicy counts for nothing.
    """

    explicit: int
    mapping: int
    any_policy: int
    expected: dict[str, set[str]] | None = field(default_factory=lambda: {ANY_POLICY: {ANY_POLICY}})


def lacks_policy(path: tuple[ParsedCertificate, ...]) -> bool:
    """Check whether a CA of a path demands a policy that the path does not have.

    ``path``: the leaf first, the trusted root last; the root's own extensions bind no client.
    """
    below_root = path[:-1]
    if not any(certificate.find_extension(x509.PolicyConstraints) for certificate in below_root):
        return False
    limit = len(below_root) + 1
    state = _PolicyState(limit, limit, limit)
    for certificate in reversed(below_root):
        is_leaf = certificate is path[0]
        _take_policies(state, certificate, is_leaf=is_leaf)
        if state.explicit == 0 and state.expected is None:
            return True
        if not is_leaf and not _prepare_for_next(state, certificate):
            return True
    leaf_limits = _read_limits(path[0])
    explicit = max(state.explicit - 1, 0)
    if leaf_limits.get(0x80) == 0:
        explicit = 0
    return explicit == 0 and state.expected is None


def _take_policies(state: _PolicyState, certificate: ParsedCertificate, *, is_leaf: bool) -> None:
    """RFC 5280, 6.1.3 (d) and (e)."""
    extension = certificate.find_extension(x509.CertificatePolicies)
    if state.expected is None or extension is None:
        state.expected = None
        return
    policies = {policy.policy_identifier.dotted_string for policy in extension}
    expected_before: set[str] = set()
    for expected in state.expected.values():
        expected_before |= expected
    valid = {}
    for policy in policies - {ANY_POLICY}:
        if policy in expected_before or ANY_POLICY in state.expected:
            valid[policy] = {policy}
    may_be_any = state.any_policy > 0 or (not is_leaf and certificate.is_self_issued)
    if ANY_POLICY in policies and may_be_any:
        for policy in expected_before:
            valid.setdefault(policy, {policy})
    state.expected = valid or None


def _prepare_for_next(state: _PolicyState, certificate: ParsedCertificate) -> bool:
    """RFC 5280, 6.1.4; False where a mapping from or to anyPolicy makes the path invalid."""
    mappings = _read_mappings(certificate)
    if ANY_POLICY in mappings or any(ANY_POLICY in mapped for mapped in mappings.values()):
        return False
    if state.expected is not None:
        for policy, mapped in mappings.items():
            if state.mapping == 0:
                state.expected.pop(policy, None)
            elif policy in state.expected or ANY_POLICY in state.expected:
                state.expected[policy] = mapped
        state.expected = state.expected or None
    if not certificate.is_self_issued:
        state.explicit = max(state.explicit - 1, 0)
        state.mapping = max(state.mapping - 1, 0)
        state.any_policy = max(state.any_policy - 1, 0)
    limits = _read_limits(certificate)
    state.explicit = min(state.explicit, limits.get(0x80, state.explicit))
    state.mapping = min(state.mapping, limits.get(0x81, state.mapping))
    state.any_policy = min(state.any_policy, limits.get(der.INTEGER, state.any_policy))
    return True


def _raw_extension(certificate: ParsedCertificate, oid: x509.ObjectIdentifier) -> bytes | None:
    return dict(read_raw_extensions(certificate.der)).get(oid.dotted_string)


def _read_limits(certificate: ParsedCertificate) -> dict[int, int]:
    """Return requireExplicitPolicy by 0x80, inhibitPolicyMapping by 0x81, inhibitAnyPolicy by 2."""
    limits = {}
    try:
        value = _raw_extension(certificate, ExtensionOID.POLICY_CONSTRAINTS)
        if value is not None:
            for part in der.read_sequence(value):
                number = der.read_integer(value, part._replace(tag=der.INTEGER))
                limits[part.tag] = number
        value = _raw_extension(certificate, ExtensionOID.INHIBIT_ANY_POLICY)
        if value is not None:
            limits[der.INTEGER] = der.read_integer(value, der.read_element(value))
    except NotDer:
        pass  # client_rules refuses the certificate
    return limits


def _read_mappings(certificate: ParsedCertificate) -> dict[str, set[str]]:
    mappings: dict[str, set[str]] = {}
    try:
        value = _raw_extension(certificate, ExtensionOID.POLICY_MAPPINGS)
        if value is not None:
            for mapping in der.read_sequence(value):
                issuer_policy, subject_policy = [
                    der.read_oid(value, part) for part in der.read_children(value, mapping)
                ]
                mappings.setdefault(issuer_policy, set()).add(subject_policy)
    except (NotDer, ValueError):
        pass  # client_rules refuses the certificate
    return mappings
