"""The chain from the leaf to a trusted root (rule D9): put in order and validated, or explained.

The graph of issuers is built here. Each signature is verified once, so a few simple paths are tried
at most, whatever was uploaded; ``paths`` judges each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.validator.x509.certificates import (
    ParsedCertificate,
)
from services.validator.x509.clients import Objection
from services.validator.x509.paths import (
    MAX_DEPTH,
    MAX_NAME_CHECKS,
    CertificatePath,
    count_name_checks,
    find_path_faults,
    find_path_objections,
    library_can_validate,
)
from services.validator.x509.signatures import is_signed_by, key_identifiers_agree
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Finding, finding

MAX_PATHS = 16
MAX_SIGNATURES = 200


@dataclass(frozen=True)
class CertificateChain:
    """The leaf and its intermediates in order, without roots.

    It is validated where no finding refuses it. ``is_public``: browsers trust its root. ``path``:
    from the leaf to the trusted root, empty when there is none.
    """

    certificates: tuple[ParsedCertificate, ...]
    findings: tuple[Finding, ...]
    is_public: bool = False
    path: CertificatePath = ()

    @property
    def first_to_end(self) -> ParsedCertificate:
        """The certificate of the path, root included, whose period ends first."""
        path = self.path or self.certificates
        return min(path, key=lambda certificate: certificate.not_after)

    def find_objections(self) -> list[tuple[ParsedCertificate, Objection]]:
        """Return what single clients object to on its path, or in the leaf alone (rule D13)."""
        path = self.path or self.certificates[:1]
        return find_path_objections(path, root_is_public=self.is_public)


def build_chain(
    leaf: ParsedCertificate,
    others: Sequence[ParsedCertificate],
    roots: TrustRoots,
    at: datetime,
) -> CertificateChain:
    """Build the chain of ``leaf``, judged at the moment ``at``.

    ``others``: the rest of the certificate field, in its order and without repetitions.
    """
    root = _find_root_of_ordered_chain(leaf, others, roots, at)
    if root is not None:
        return CertificateChain((leaf, *others), (), roots.is_public(root), (leaf, *others, root))
    return _untangle_chain(leaf, others, roots, at)


def _find_root_of_ordered_chain(
    leaf: ParsedCertificate,
    others: Sequence[ParsedCertificate],
    roots: TrustRoots,
    at: datetime,
) -> ParsedCertificate | None:
    """Return the root of a chain without any fault; None when the long way has to look at it."""
    # Nearly all uploads are a chain in order, with one possible path and no fault. For those the
    # library alone verifies the signatures; the graph below would verify each a second time.
    #
    # This shortcut must give the same result as _untangle_chain; a test compares the two. So it
    # gives up as soon as a second path or a finding is possible: two CAs of one name, an uploaded
    # certificate that is itself trusted, two roots of one name, or a root whose name an uploaded
    # CA has too.
    upload = (leaf, *others)
    ca_names = {certificate.canonical_subject for certificate in others}
    if leaf.block != 0 or len(ca_names) < len(others):
        return None
    for issuer, child in zip(others, upload, strict=False):
        if (
            issuer.canonical_subject != child.canonical_issuer
            or issuer in roots
            or roots.find_by_subject(child.canonical_issuer)
        ):
            return None
    top = upload[-1]
    candidates = roots.find_by_subject(top.canonical_issuer)
    if len(candidates) != 1 or top.canonical_issuer in ca_names:
        return None
    root = candidates[0]
    path = (*upload, root)
    if not library_can_validate(path, at) or any(find_path_faults(path, at, by_library=True)):
        return None
    return root


def _untangle_chain(
    leaf: ParsedCertificate,
    others: Sequence[ParsedCertificate],
    roots: TrustRoots,
    at: datetime,
) -> CertificateChain:
    graph = _IssuerGraph(leaf, others, roots)
    path, faults = _find_best_path(graph, at)
    above_root = graph.issuers_above(path[-1]) if path else []
    related = [ca for ca in others if ca in graph.depths or ca in graph.mismatches]
    kept = [ca for ca in related if not ca.is_self_signed]
    # By depth, and by fingerprint where depths are equal: the stored chain does not depend on the
    # order of the upload.
    ordered = sorted(kept, key=lambda ca: (graph.depths.get(ca, MAX_DEPTH), ca.fingerprint))
    related_depths = [graph.depths.get(ca, MAX_DEPTH) for ca in related]
    is_in_order = leaf.block == 0 and related_depths == sorted(related_depths)
    findings = []
    if not is_in_order:
        findings.append(_reordered_finding([leaf, *ordered]))
    findings += _dropped_root_findings(others, [*related, *above_root], graph, roots)
    findings += _above_root_findings([ca for ca in above_root if ca not in related], path)
    findings += _unrelated_findings(others, [*related, *above_root], graph)
    findings += faults
    if not faults:
        findings += _spare_expired_findings(kept, path, at)
    return CertificateChain(
        certificates=(leaf, *(kept if is_in_order else ordered)),
        findings=tuple(findings),
        is_public=bool(path) and roots.is_public(path[-1]),
        path=path,
    )


class _IssuerGraph:
    """The uploaded certificates and trusted roots, linked by verified signatures.

    ``depths``: the steps from the leaf to each certificate that it leads to. ``mismatches``: CAs
    whose name fits an issuer and whose key does not, with the certificate that they should have
    signed.
    """

    # The upload is hostile until proven otherwise: names may repeat, CAs may sign each other in
    # circles, and an account's own roots may all have one name. The work is bounded in three ways:
    # - names are compared first, and a signature is verified once for each pair, at most
    #   MAX_SIGNATURES in all (_signs);
    # - the walk visits each certificate once (_walk, _leads_to_root);
    # - paths() visits no subject and key twice on one path, queues at most MAX_PATHS * MAX_DEPTH
    #   partial paths and yields at most MAX_PATHS.
    # Ten blocks (rule D11) make all other loops short.

    def __init__(
        self,
        leaf: ParsedCertificate,
        others: Sequence[ParsedCertificate],
        roots: TrustRoots,
    ) -> None:
        self.leaf = leaf
        self._others = others
        self._roots = roots
        self._verified: dict[tuple[str, str], bool] = {}
        self.depths: dict[ParsedCertificate, int] = {leaf: 0}
        self.mismatches: dict[ParsedCertificate, ParsedCertificate] = {}
        self._walk()

    def issuers_of(self, child: ParsedCertificate) -> list[ParsedCertificate]:
        """Return the uploaded certificates that signed ``child``."""
        return [ca for ca in self._others if ca is not child and self._signs(ca, child)]

    def roots_above(self, child: ParsedCertificate) -> list[ParsedCertificate]:
        """Return the trusted roots that signed ``child``."""
        candidates = self._roots.find_by_subject(child.canonical_issuer)
        return [root for root in candidates if self._signs(root, child)]

    def mismatched_issuers_of(self, child: ParsedCertificate) -> list[ParsedCertificate]:
        """Return the issuers by name and key identifier whose key does not verify the signature."""
        candidates = [*self._others, *self._roots.find_by_subject(child.canonical_issuer)]
        found = []
        for ca in candidates:
            if ca is child or self._signs(ca, child):
                continue
            was_verified = (ca.fingerprint, child.fingerprint) in self._verified
            if was_verified and key_identifiers_agree(child, ca):
                found.append(ca)
        return found

    def disconnected_cas(self) -> list[ParsedCertificate]:
        """Return uploaded CAs that lead to a trusted root but not from the leaf.

        Empty when there is a path. Otherwise an intermediate is missing below them.
        """
        if self.has_path():
            return []
        found = []
        for ca in self._others:
            if ca.is_ca and ca not in self.depths and self._leads_to_root(ca):
                found.append(ca)
        return found

    def knows_organisation_above(self, top: ParsedCertificate) -> bool:
        """Check whether a trusted root belongs to the organisation of the issuer of ``top``.

        If so, the intermediate below that root is missing.
        """
        organisation = top.issuer_organisation
        return bool(organisation) and organisation in self._roots.organisations

    def issuers_above(self, root: ParsedCertificate) -> list[ParsedCertificate]:
        """Return the uploaded certificates that issued a trusted root, or issued its issuers."""
        above: list[ParsedCertificate] = []
        stack = [root]
        while stack:
            for issuer in self.issuers_of(stack.pop()):
                if issuer not in above and issuer.der != root.der:
                    above.append(issuer)
                    stack.append(issuer)
        return above

    def namesakes_of_issuer(self, child: ParsedCertificate) -> list[ParsedCertificate]:
        """Return uploaded certificates and roots that bear its issuer's name, with another key."""
        candidates = [*self._others, *self._roots.find_by_subject(child.canonical_issuer)]
        found = []
        for ca in candidates:
            has_name = ca.canonical_subject == child.canonical_issuer
            if has_name and ca is not child and not self._signs(ca, child):
                found.append(ca)
        return found

    def has_path(self) -> bool:
        return next(self.paths(), None) is not None

    def paths(self) -> Iterator[CertificatePath]:
        """Yield simple paths to a trusted root, the shortest first, at most MAX_PATHS."""
        queue: deque[CertificatePath] = deque([(self.leaf,)])
        found = 0
        while queue and found < MAX_PATHS:
            path = queue.popleft()
            top = path[-1]
            for root in self.roots_above(top):
                found += 1
                yield (*path, root)
            if len(path) > 1 and top in self._roots:
                # An uploaded intermediate that is itself trusted ends the path.
                found += 1
                yield path
            visited = {(certificate.canonical_subject, certificate.spki) for certificate in path}
            for issuer in self.issuers_of(top):
                is_new = (issuer.canonical_subject, issuer.spki) not in visited
                if is_new and len(queue) < MAX_PATHS * MAX_DEPTH:
                    queue.append((*path, issuer))

    def _walk(self) -> None:
        """Fill ``depths`` and ``mismatches`` breadth first, from the leaf up."""
        queue = deque([self.leaf])
        while queue:
            child = queue.popleft()
            issuers = self.issuers_of(child)
            if not issuers and not self.roots_above(child) and not child.is_self_signed:
                for ca in self.mismatched_issuers_of(child):
                    self.mismatches.setdefault(ca, child)
            for issuer in issuers:
                if issuer not in self.depths:
                    self.depths[issuer] = self.depths[child] + 1
                    queue.append(issuer)

    def _leads_to_root(self, start: ParsedCertificate) -> bool:
        seen = {start}
        stack = [start]
        while stack:
            ca = stack.pop()
            if ca in self._roots or self.roots_above(ca):
                return True
            for issuer in self.issuers_of(ca):
                if issuer not in seen:
                    seen.add(issuer)
                    stack.append(issuer)
        return False

    def _signs(self, issuer: ParsedCertificate, child: ParsedCertificate) -> bool:
        if child.canonical_issuer != issuer.canonical_subject:
            return False
        pair = (issuer.fingerprint, child.fingerprint)
        if pair not in self._verified and len(self._verified) < MAX_SIGNATURES:
            self._verified[pair] = is_signed_by(child, issuer)
        return self._verified.get(pair, False)


def _find_best_path(graph: _IssuerGraph, at: datetime) -> tuple[CertificatePath, list[Finding]]:
    """Return a path without a fault, or the one with the fewest faults, and its faults.

    Of the paths without a fault it is the first that lasts as long as the leaf, else the one that
    lasts longest.
    """
    best_path: CertificatePath = ()
    best_faults: list[Finding] | None = None
    sound_path: CertificatePath | None = None
    name_checks = 0
    for path in graph.paths():
        name_checks += count_name_checks(path)
        if name_checks > MAX_NAME_CHECKS and (sound_path or best_faults is not None):
            break
        by_library = library_can_validate(path, at)
        faults = list(find_path_faults(path, at, by_library=by_library))
        if not faults:
            end = _end_of(path)
            if sound_path is None or end > _end_of(sound_path):
                sound_path = path
            if end >= graph.leaf.not_after:
                return path, []
            continue
        if best_faults is None or len(faults) < len(best_faults):
            best_path = path
            best_faults = faults
    if sound_path is not None:
        return sound_path, []
    if best_faults is None:
        return (), list(_missing_path_findings(graph))
    return best_path, best_faults


def _end_of(path: CertificatePath) -> datetime:
    return min([certificate.not_after for certificate in path])


# Findings


def _reordered_finding(chain: Iterable[ParsedCertificate]) -> Finding:
    blocks = ", ".join(str(certificate.block) for certificate in chain)
    return finding(
        Code.CHAIN_WRONG_ORDER, f"The chain was put in order: blocks {blocks}.", field="certificate"
    )


def _dropped_root_findings(
    others: Iterable[ParsedCertificate],
    related: Sequence[ParsedCertificate],
    graph: _IssuerGraph,
    roots: TrustRoots,
) -> Iterator[Finding]:
    for certificate in others:
        if not certificate.is_self_signed:
            continue
        if certificate in related or (certificate in roots and not graph.has_path()):
            yield finding(
                Code.CHAIN_ROOT_INCLUDED,
                f"Block {certificate.block}, {certificate}, is a root and was dropped.",
                field="certificate",
                block=certificate.block,
            )


def _above_root_findings(
    above_root: Iterable[ParsedCertificate], path: CertificatePath
) -> Iterator[Finding]:
    for certificate in above_root:
        if not certificate.is_self_signed:
            yield finding(
                Code.CHAIN_ROOT_INCLUDED,
                f"Block {certificate.block}, {certificate}, stands above the trusted root "
                f"{path[-1]} and was dropped.",
                field="certificate",
                block=certificate.block,
            )


def _unrelated_findings(
    others: Iterable[ParsedCertificate],
    related: Sequence[ParsedCertificate],
    graph: _IssuerGraph,
) -> Iterator[Finding]:
    unrelated = [certificate for certificate in others if certificate not in related]
    disconnected = graph.disconnected_cas() if unrelated else []
    namesakes: list[ParsedCertificate] = []
    if unrelated and not graph.has_path():
        namesakes = graph.namesakes_of_issuer(_find_top(graph))
    for certificate in unrelated:
        if certificate not in disconnected and certificate not in namesakes:
            yield finding(
                Code.CHAIN_UNRELATED,
                f"Block {certificate.block}, {certificate}, did not issue the leaf or its issuers.",
                field="certificate",
                block=certificate.block,
            )


def _missing_path_findings(graph: _IssuerGraph) -> Iterator[Finding]:
    """Explain why there is no path: a bad signature, a missing intermediate or an unknown root."""
    if graph.mismatches:
        for child in dict.fromkeys(graph.mismatches.values()):
            namesakes = [ca for ca, signed in graph.mismatches.items() if signed is child]
            yield finding(
                Code.CHAIN_BAD_SIGNATURE,
                f"The signature of block {child.block}, {child}, does not verify "
                f"with the key of its issuer, {child.issuer} ({_list_places(namesakes)}).",
                field="certificate",
                block=child.block,
            )
        return
    top = _find_top(graph)
    key = ""
    if top.authority_key_identifier:
        key = f" (key identifier {top.authority_key_identifier})"
    if top.is_self_signed:
        yield finding(
            Code.CHAIN_UNTRUSTED,
            f"The chain ends at block {top.block}, {top}, which signed itself and is "
            "not a trusted root.",
            field="certificate",
            block=top.block,
        )
    elif namesakes := graph.namesakes_of_issuer(top):
        yield _namesake_finding(top, namesakes[0])
    elif top is graph.leaf or graph.disconnected_cas() or graph.knows_organisation_above(top):
        yield finding(
            Code.CHAIN_INCOMPLETE,
            f"The issuer of block {top.block}, {top.issuer}{key}, is neither in the "
            "upload nor a trusted root.",
            field="certificate",
            block=top.block,
        )
    else:
        yield finding(
            Code.CHAIN_UNTRUSTED,
            f"The chain ends at block {top.block}, {top}; its issuer, "
            f"{top.issuer}{key}, is not a trusted root.",
            field="certificate",
            block=top.block,
            hint="Use a certificate of a public CA, or upload your private root; where an "
            "intermediate is missing between, append it.",
        )


def _list_places(certificates: Iterable[ParsedCertificate]) -> str:
    places = []
    for certificate in certificates:
        places.append(f"block {certificate.block}" if certificate.block >= 0 else "a trusted root")
    return ", ".join(dict.fromkeys(places))


def _namesake_finding(top: ParsedCertificate, namesake: ParsedCertificate) -> Finding:
    """Explain a certificate that has the issuer's name, and another key: mostly an older one."""
    place = f"block {namesake.block}" if namesake.block >= 0 else "the trusted root"
    own = namesake.subject_key_identifier
    own_key = f" (key identifier {own})" if own else ""
    wanted = top.authority_key_identifier
    if wanted and own and wanted != own:
        compared = f"block {top.block} was signed with the key {wanted}"
    else:
        compared = f"the signature of block {top.block} does not verify with it"
    return finding(
        Code.CHAIN_INCOMPLETE,
        f"The issuer of block {top.block}, {top.issuer}, is missing: {place}, {namesake}, has "
        f"that name, but another key{own_key}; {compared}.",
        field="certificate",
        block=top.block,
        hint="Fetch the CA's intermediate with that key, mostly its newer one, and append it in "
        f"place of {place}."
        if namesake.block >= 0
        else "Append the CA's intermediate with that key, or trust the root with that key.",
    )


def _find_top(graph: _IssuerGraph) -> ParsedCertificate:
    """Return the first certificate at the greatest depth whose issuer was not uploaded."""
    top = graph.leaf
    top_depth = -1
    for certificate, depth in graph.depths.items():
        is_end = certificate.is_self_signed or not graph.issuers_of(certificate)
        if is_end and depth > top_depth:
            top = certificate
            top_depth = depth
    return top


def _spare_expired_findings(
    kept: Iterable[ParsedCertificate], path: CertificatePath, at: datetime
) -> Iterator[Finding]:
    for certificate in kept:
        if certificate not in path and not certificate.is_valid_at(at):
            yield finding(
                Code.CHAIN_SPARE_EXPIRED,
                f"Block {certificate.block}, {certificate}, is outside its validity; "
                "the chain holds without it.",
                field="certificate",
                block=certificate.block,
            )
