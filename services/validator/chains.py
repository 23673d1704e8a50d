"""The path from the leaf to a trusted root (rule D9): put in order, proved, or told what is wrong with it.

The graph of who signed whom is ours, each signature verified once, so at most a few simple paths are tried however
a chain is built. Each path is held against RFC 5280, 6: flags, lengths, periods, names and name constraints here, and
where it can read the path, ``cryptography.x509.verification`` has a say besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

from services.validator.certificates import Certificate, identifiers_agree, signed_by
from services.validator.constraints import Uncheckable, violation
from services.validator.roots import TrustRoots
from shared.contracts.findings import Code, Finding, finding

MAX_PATHS = 16
MAX_SIGNATURES = 200
MAX_NAME_CHECKS = 200_000
_DEPTH = 10
ANOTHER_ISSUER = "Ask the CA for another intermediate, or for a certificate below another: clients refuse this one."
ISSUED_ANEW = "Have it issued again: clients hold certificates to RFC 5280."
ISSUED_ELSEWHERE = "Have the certificate issued by a CA that may issue these names, and without those it may not."

Path = tuple[Certificate, ...]


@dataclass(frozen=True)
class Chain:
    """``certificates``: the leaf and its intermediates in order, without roots; proved where no finding refuses.
    ``is_public``: the root that it leads to is one that browsers trust."""

    certificates: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
    is_public: bool = False


def examine(leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime) -> Chain:
    """``others``: the rest of the certificate field, in its order, without repetitions."""
    root = _ordinary(leaf, others, roots, at)
    if root is not None:
        return Chain((leaf, *others), (), roots.is_public(root))
    return _disentangled(leaf, others, roots, at)


def _ordinary(
    leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime
) -> Certificate | None:
    """The root of a chain that stands in its order, has one path only, and no fault: what nearly all uploads are, and
    all that is to be said of them. It spares the graph, which would verify every signature a second time."""
    upload = (leaf, *others)
    names = {c.subject_key for c in others}
    if leaf.block != 0 or len(names) < len(others):
        return None
    for issuer, child in zip(others, upload, strict=False):
        if issuer.subject_key != child.issuer_key or issuer in roots or roots.named(child.issuer_key):
            return None
    anchors = roots.named(upload[-1].issuer_key)
    if len(anchors) != 1 or upload[-1].issuer_key in names:
        return None
    path = (*upload, anchors[0])
    # The library alone has verified the signatures of such a path.
    return anchors[0] if _library_reads(path, at) and not any(_faults(path, at)) else None


def _disentangled(leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime) -> Chain:
    graph = _Graph(leaf, others, roots)
    related = [c for c in others if c in graph.depth or c in graph.doubtful]
    kept = [c for c in related if not c.is_self_signed]
    ordered = sorted(kept, key=lambda c: (graph.depth.get(c, _DEPTH), c.fingerprint))
    in_order = leaf.block == 0 and _is_sorted([graph.depth.get(c, _DEPTH) for c in related])
    findings = [] if in_order else [_put_in_order([leaf, *ordered])]
    findings += _roots_dropped(others, related, graph, roots)
    findings += _unrelated(others, related, graph)
    path, faults = _best_path(graph, at)
    findings += faults
    if not faults:
        findings += _expired_extras(kept, path, at)
    is_public = bool(path) and roots.is_public(path[-1])
    return Chain((leaf, *(kept if in_order else ordered)), tuple(findings), is_public)


class _Graph:
    """Who signed whom. ``depth``: steps from the leaf by verified signatures; ``doubtful``: whose name fits and whose
    key does not, with the certificate that it should have signed."""

    def __init__(self, leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots) -> None:
        self.leaf, self._others, self._roots = leaf, others, roots
        self._signed: dict[tuple[str, str], bool] = {}  # as far as it was worth verifying
        self.depth: dict[Certificate, int] = {leaf: 0}
        self.doubtful: dict[Certificate, Certificate] = {}
        self._walk()

    def issuers(self, child: Certificate) -> list[Certificate]:
        """Of the upload, by verified signature."""
        return [c for c in self._others if c is not child and self._signs(c, child)]

    def anchors(self, child: Certificate) -> list[Certificate]:
        """Trusted roots that signed ``child``; a certificate that is itself trusted needs none."""
        return [root for root in self._roots.named(child.issuer_key) if self._signs(root, child)]

    def suspects(self, child: Certificate) -> list[Certificate]:
        """Of upload and roots: the issuer by name and key identifier, though the signature does not verify."""
        named = [*self._others, *self._roots.named(child.issuer_key)]
        return [
            c for c in named
            if c is not child and not self._signs(c, child) and (c.fingerprint, child.fingerprint) in self._signed
            and identifiers_agree(child, c)
        ]

    def stranded(self) -> list[Certificate]:
        """CAs of the upload that lead to a trusted root but not from the leaf, while there is no path: what is missing
        is between."""
        if _is_complete(self):
            return []
        return [c for c in self._others if c.is_ca and c not in self.depth and self._leads_to_a_root(c)]

    def _leads_to_a_root(self, start: Certificate) -> bool:
        seen, queue = {start}, [start]
        while queue:
            c = queue.pop()
            if c in self._roots or self.anchors(c):
                return True
            further = [issuer for issuer in self.issuers(c) if issuer not in seen]
            seen.update(further)
            queue += further
        return False

    def knows_organisation(self, top: Certificate) -> bool:
        """Does a trusted root belong to the issuer's organisation? Then it is the step to that root that is missing."""
        return bool(top.issuer_organisation) and top.issuer_organisation in self._roots.organisations

    def paths(self) -> Iterator[Path]:
        """Simple paths to a trusted root, shortest first, no more than MAX_PATHS."""
        queue: list[Path] = [(self.leaf,)]
        found = 0
        while queue and found < MAX_PATHS:
            path = queue.pop(0)
            for root in self.anchors(path[-1]):
                found += 1
                yield (*path, root)
            if len(path) > 1 and path[-1] in self._roots:
                found += 1
                yield path
            seen = {(c.subject_key, c.spki) for c in path}
            steps = [c for c in self.issuers(path[-1]) if (c.subject_key, c.spki) not in seen]
            queue += [(*path, c) for c in steps if len(queue) < MAX_PATHS * _DEPTH]

    def _walk(self) -> None:
        queue = [self.leaf]
        while queue:
            child = queue.pop(0)
            issuers = self.issuers(child)
            if not issuers and not self.anchors(child) and not child.is_self_signed:
                for suspect in self.suspects(child):
                    self.doubtful.setdefault(suspect, child)
            for issuer in issuers:
                if issuer not in self.depth:
                    self.depth[issuer] = self.depth[child] + 1
                    queue.append(issuer)

    def _signs(self, issuer: Certificate, child: Certificate) -> bool:
        if child.issuer_key != issuer.subject_key:
            return False
        key = (issuer.fingerprint, child.fingerprint)
        # Roots of an account may all have one name: the work is bounded whatever stands in them.
        if key not in self._signed and len(self._signed) < MAX_SIGNATURES:
            self._signed[key] = signed_by(child, issuer)
        return self._signed.get(key, False)


def _put_in_order(chain: Iterable[Certificate]) -> Finding:
    blocks = ", ".join(str(c.block) for c in chain)
    return finding(Code.CHAIN_WRONG_ORDER, f"The chain was put in order: blocks {blocks}.", field="certificate")


def _is_sorted(numbers: Sequence[int]) -> bool:
    return all(a <= b for a, b in pairwise(numbers))


def _roots_dropped(
    others: Iterable[Certificate], related: Sequence[Certificate], graph: _Graph, roots: TrustRoots
) -> Iterator[Finding]:
    for c in others:
        if c.is_self_signed and (c in related or (c in roots and not _is_complete(graph))):
            yield finding(Code.CHAIN_ROOT_INCLUDED, f"Block {c.block}, {c}, is a root and was dropped.",
                          field="certificate", block=c.block)


def _unrelated(
    others: Iterable[Certificate], related: Sequence[Certificate], graph: _Graph
) -> Iterator[Finding]:
    strangers = [c for c in others if c not in related]
    stranded = graph.stranded() if strangers else []
    for c in strangers:
        if c not in stranded:
            yield finding(Code.CHAIN_UNRELATED, f"Block {c.block}, {c}, did not issue the leaf or its issuers.",
                          field="certificate", block=c.block)


def _is_complete(graph: _Graph) -> bool:
    return next(graph.paths(), None) is not None


def _best_path(graph: _Graph, at: datetime) -> tuple[Path, list[Finding]]:
    """The first path without a fault, or the one with the fewest and what they are."""
    best: tuple[Path, list[Finding]] | None = None
    checks = 0
    for path in graph.paths():
        checks += _name_checks(path)
        if best is not None and checks > MAX_NAME_CHECKS:
            break
        faults = list(_faults(path, at))
        if not faults:
            return path, []
        if best is None or len(faults) < len(best[1]):
            best = path, faults
    return best or ((), list(_why_no_path(graph)))


def _why_no_path(graph: _Graph) -> Iterator[Finding]:
    if graph.doubtful:
        for child in dict.fromkeys(graph.doubtful.values()):
            yield finding(Code.CHAIN_BAD_SIGNATURE, f"The signature of block {child.block}, {child}, does not verify "
                          f"with the key of its issuer, {child.issuer}.", field="certificate", block=child.block)
        return
    top = max((c for c in graph.depth if not graph.issuers(c) or c.is_self_signed), key=lambda c: graph.depth[c],
              default=graph.leaf)
    key = f" (key identifier {top.authority_key})" if top.authority_key else ""
    if top.is_self_signed:
        yield finding(Code.CHAIN_UNTRUSTED, f"The chain ends at block {top.block}, {top}, which signed itself and is "
                      "not a trusted root.", field="certificate", block=top.block)
    elif top is graph.leaf or graph.stranded() or graph.knows_organisation(top):
        yield finding(Code.CHAIN_INCOMPLETE, f"The issuer of block {top.block}, {top.issuer}{key}, is neither in the "
                      "upload nor a trusted root.", field="certificate", block=top.block)
    else:
        yield finding(Code.CHAIN_UNTRUSTED, f"The chain ends at block {top.block}, {top}; its issuer, "
                      f"{top.issuer}{key}, is not a trusted root.", field="certificate", block=top.block,
                      hint="Use a certificate of a public CA, or upload your private root; where an intermediate is "
                           "missing between, append it.")


def _faults(path: Path, at: datetime) -> Iterator[Finding]:
    """What is wrong with a path whose signatures verify. What the leaf itself lacks is told by its own checks."""
    found = [*_unfit_issuers(path, at), *_other_keys(path)]
    if not found:
        found = list(_names_not_allowed(path))
    if not found and _library_reads(path, at):
        yield from _refused_by_library(path, at)
        return
    yield from found
    yield from _unprofiled(path)


def _unfit_issuers(path: Path, at: datetime) -> Iterator[Finding]:
    for depth, issuer in enumerate(path[1:]):
        if not issuer.valid_at(at):
            yield finding(Code.CHAIN_EXPIRED, f"{_place(issuer)} is valid from "
                          f"{issuer.not_before:%Y-%m-%d} to {issuer.not_after:%Y-%m-%d} only.", field="certificate",
                          block=_block(issuer))
        for reason in _not_an_issuer(issuer, depth, path):
            yield _untrusted(issuer, reason, ANOTHER_ISSUER)


def _other_keys(path: Path) -> Iterator[Finding]:
    for child, issuer in pairwise(path):
        if not identifiers_agree(child, issuer):
            yield _untrusted(child, f"names another key than that of its issuer, {issuer}, by its authority key "
                             "identifier, so clients refuse it", ISSUED_ANEW)


def _names_not_allowed(path: Path) -> Iterator[Finding]:
    """By the name constraints of the CAs above; those of self-issued CAs are no names of anybody (RFC 5280, 6.1.3)."""
    if all(c.extension(x509.NameConstraints) is None for c in path[1:]):
        return
    if _name_checks(path) > MAX_NAME_CHECKS:
        yield finding(Code.CHAIN_UNTRUSTED, "The CAs of the chain constrain so many names, and the certificates have "
                      "so many, that clients give up checking them.", field="certificate", hint=ISSUED_ELSEWHERE)
        return
    for depth, issuer in enumerate(path[1:], start=1):
        for child in path[:depth]:
            if (child is path[0] or not child.is_self_issued) and (reason := _breach(child, issuer)):
                yield _untrusted(child, reason, ISSUED_ELSEWHERE)


def _breach(child: Certificate, issuer: Certificate) -> str | None:
    try:
        constraints = issuer.constraints
        broken = violation(constraints, child.names) if constraints is not None else None
    except Uncheckable as fault:
        return f"cannot be held against the name constraints of {_told(issuer)} because of {fault}"
    return f"has a name that {_told(issuer)} may not issue by its name constraints: {broken}" if broken else None


def _told(issuer: Certificate) -> str:
    """Within a sentence."""
    return f"block {issuer.block}, {issuer}," if issuer.block >= 0 else f"the root {issuer}"


def _unprofiled(path: Path) -> Iterator[Finding]:
    """A root's own form and signature prove nothing, and clients do not look at them."""
    for c, issuer in pairwise(path):
        for reason in c.unprofiled:
            yield _untrusted(c, reason, ISSUED_ANEW)
        if c.odd_signature and issuer.key_fits:
            yield _untrusted(c, f"is signed with an algorithm that is not accepted ({c.odd_signature})", ISSUED_ANEW)


def _untrusted(c: Certificate, reason: str, hint: str) -> Finding:
    return finding(Code.CHAIN_UNTRUSTED, f"{_place(c)} {reason}.", field="certificate", block=_block(c),
                   hint=hint)


def _block(c: Certificate) -> int | None:
    return c.block if c.block >= 0 else None


def _name_checks(path: Path) -> int:
    """How often path validation compares a name with a constraint; 0.3 µs each, and the library stops at a million."""
    names, checks = 0, 0
    for c in path:
        constraints = c.extension(x509.NameConstraints)
        if constraints is not None:
            checks += names * (len(constraints.permitted_subtrees or ()) + len(constraints.excluded_subtrees or ()))
        names += c.san_count
    return checks


def _place(issuer: Certificate) -> str:
    return f"Block {issuer.block} of the chain, {issuer}," if issuer.block >= 0 else f"The root {issuer}"


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


def _require_ca(policy: Policy, certificate: x509.Certificate, basic: x509.BasicConstraints) -> None:
    if not basic.ca:
        raise ValueError("not a CA")


# Private CAs often leave out what the web's profile demands of issuers (key identifiers, key usage); what they do
# state is checked above. The leaf has its own checks (D8, D10).
# Critical policies bind no client that asks for none (RFC 5280, 6.1); told to permit all, the library refuses them.
LEAF_POLICY = ExtensionPolicy.permit_all().may_be_present(x509.CertificatePolicies, Criticality.AGNOSTIC, None)
CA_POLICY = LEAF_POLICY.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_ca)


def _library_reads(path: Path, at: datetime) -> bool:
    """It is stricter than RFC 5280 about name constraints and self-issued CAs, compares names byte by byte, and is not
    to be asked about a leaf that is refused for itself."""
    leaf, root = path[0], path[-1]
    return (
        leaf.key_fits and leaf.version == 3 and leaf.valid_at(at) and not leaf.weak_signature
        and not leaf.unknown_critical and not root.unprofiled and not root.odd_signature
        and all(c.extension(x509.NameConstraints) is None for c in path)
        and all(child.issuer_name == issuer.subject_name for child, issuer in pairwise(path))
        and not any(c.is_self_issued for c in path[1:-1])
    )


def _refused_by_library(path: Path, at: datetime) -> Iterator[Finding]:
    """What RFC 5280 path validation says against exactly this path, told by the first element that it refuses."""
    if _holds(path, at):
        return
    told = list(_unprofiled(path))
    yield from told
    if not told:
        lengths = range(2, len(path) + 1)
        first = next((path[-length] for length in lengths if not _holds(path[-length:], at)), path[0])
        yield _untrusted(first, "is refused by path validation (RFC 5280, 6)", ISSUED_ANEW)


def _holds(path: Path, at: datetime) -> bool:
    leaf, *issuers = path
    verifier = (
        PolicyBuilder().store(issuers[-1].store).time(at).max_chain_depth(_DEPTH)
        .extension_policies(ca_policy=CA_POLICY, ee_policy=LEAF_POLICY).build_client_verifier()
    )
    try:
        verified = verifier.verify(leaf.parsed, [c.parsed for c in issuers[:-1]])
    except (VerificationError, ValueError):
        return False
    return len(verified.chain) == len(path)


def _expired_extras(kept: Iterable[Certificate], path: Path, at: datetime) -> Iterator[Finding]:
    for c in kept:
        if c not in path and not c.valid_at(at):
            yield finding(Code.CHAIN_SPARE_EXPIRED, f"Block {c.block}, {c}, is outside its validity; the chain holds "
                          "without it.", field="certificate", block=c.block)
