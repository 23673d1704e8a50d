"""The path from the leaf to a trusted root (rule D9): put in order, proved, or told what is wrong
with it.

The graph of who signed whom is ours, each signature verified once, so at most a few simple paths
are tried however a chain is built; ``paths`` judges each. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from services.validator.x509.certificates import Certificate, identifiers_agree, signed_by
from services.validator.x509.paths import (
    MAX_DEPTH,
    MAX_NAME_CHECKS,
    Path,
    faults_of,
    library_reads,
    name_checks,
)
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Finding, finding

MAX_PATHS = 16
MAX_SIGNATURES = 200


@dataclass(frozen=True)
class Chain:
    """``certificates``: the leaf and its intermediates in order, without roots; proved where no
    finding refuses.
    ``is_public``: the root that it leads to is one that browsers trust."""

    certificates: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
    is_public: bool = False


def examine(
    leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime
) -> Chain:
    """``others``: the rest of the certificate field, in its order, without repetitions."""
    root = _ordinary(leaf, others, roots, at)
    if root is not None:
        return Chain((leaf, *others), (), roots.is_public(root))
    return _disentangled(leaf, others, roots, at)


def _ordinary(
    leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime
) -> Certificate | None:
    """The root of a chain that stands in its order, has one path only, and no fault: what nearly
    all uploads are, and all that is to be said of them. It spares the graph, which would verify
    every signature a second time."""
    upload = (leaf, *others)
    names = {c.subject_key for c in others}
    if leaf.block != 0 or len(names) < len(others):
        return None
    for issuer, child in zip(others, upload, strict=False):
        if (
            issuer.subject_key != child.issuer_key
            or issuer in roots
            or roots.named(child.issuer_key)
        ):
            return None
    anchors = roots.named(upload[-1].issuer_key)
    if len(anchors) != 1 or upload[-1].issuer_key in names:
        return None
    path = (*upload, anchors[0])
    # The library alone has verified the signatures of such a path.
    return (
        anchors[0]
        if library_reads(path, at) and not any(faults_of(path, at, by_library=True))
        else None
    )


def _disentangled(
    leaf: Certificate, others: Sequence[Certificate], roots: TrustRoots, at: datetime
) -> Chain:
    graph = _Graph(leaf, others, roots)
    related = [c for c in others if c in graph.depth or c in graph.doubtful]
    kept = [c for c in related if not c.is_self_signed]
    ordered = sorted(kept, key=lambda c: (graph.depth.get(c, MAX_DEPTH), c.fingerprint))
    in_order = leaf.block == 0 and _is_sorted([graph.depth.get(c, MAX_DEPTH) for c in related])
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
    """Who signed whom. ``depth``: steps from the leaf by verified signatures; ``doubtful``: whose
    name fits and whose key does not, with the certificate that it should have signed."""

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
        """Of upload and roots: the issuer by name and key identifier, though the signature does not
        verify."""
        named = [*self._others, *self._roots.named(child.issuer_key)]
        return [
            c
            for c in named
            if c is not child
            and not self._signs(c, child)
            and (c.fingerprint, child.fingerprint) in self._signed
            and identifiers_agree(child, c)
        ]

    def stranded(self) -> list[Certificate]:
        """CAs of the upload that lead to a trusted root but not from the leaf, while there is no
        path: what is missing is between."""
        if _is_complete(self):
            return []
        return [
            c for c in self._others if c.is_ca and c not in self.depth and self._leads_to_a_root(c)
        ]

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
        """Does a trusted root belong to the issuer's organisation? Then it is the step to that root
        that is missing."""
        return (
            bool(top.issuer_organisation) and top.issuer_organisation in self._roots.organisations
        )

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
            queue += [(*path, c) for c in steps if len(queue) < MAX_PATHS * MAX_DEPTH]

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
    return finding(
        Code.CHAIN_WRONG_ORDER, f"The chain was put in order: blocks {blocks}.", field="certificate"
    )


def _is_sorted(numbers: Sequence[int]) -> bool:
    return all(a <= b for a, b in pairwise(numbers))


def _roots_dropped(
    others: Iterable[Certificate], related: Sequence[Certificate], graph: _Graph, roots: TrustRoots
) -> Iterator[Finding]:
    for c in others:
        if c.is_self_signed and (c in related or (c in roots and not _is_complete(graph))):
            yield finding(
                Code.CHAIN_ROOT_INCLUDED,
                f"Block {c.block}, {c}, is a root and was dropped.",
                field="certificate",
                block=c.block,
            )


def _unrelated(
    others: Iterable[Certificate], related: Sequence[Certificate], graph: _Graph
) -> Iterator[Finding]:
    strangers = [c for c in others if c not in related]
    stranded = graph.stranded() if strangers else []
    for c in strangers:
        if c not in stranded:
            yield finding(
                Code.CHAIN_UNRELATED,
                f"Block {c.block}, {c}, did not issue the leaf or its issuers.",
                field="certificate",
                block=c.block,
            )


def _is_complete(graph: _Graph) -> bool:
    return next(graph.paths(), None) is not None


def _best_path(graph: _Graph, at: datetime) -> tuple[Path, list[Finding]]:
    """The first path without a fault, or the one with the fewest and what they are."""
    best: tuple[Path, list[Finding]] | None = None
    checks = 0
    for path in graph.paths():
        checks += name_checks(path)
        if best is not None and checks > MAX_NAME_CHECKS:
            break
        faults = list(faults_of(path, at, by_library=library_reads(path, at)))
        if not faults:
            return path, []
        if best is None or len(faults) < len(best[1]):
            best = path, faults
    return best or ((), list(_why_no_path(graph)))


def _why_no_path(graph: _Graph) -> Iterator[Finding]:
    if graph.doubtful:
        for child in dict.fromkeys(graph.doubtful.values()):
            yield finding(
                Code.CHAIN_BAD_SIGNATURE,
                f"The signature of block {child.block}, {child}, does not verify "
                f"with the key of its issuer, {child.issuer}.",
                field="certificate",
                block=child.block,
            )
        return
    top = max(
        (c for c in graph.depth if not graph.issuers(c) or c.is_self_signed),
        key=lambda c: graph.depth[c],
        default=graph.leaf,
    )
    key = f" (key identifier {top.authority_key})" if top.authority_key else ""
    if top.is_self_signed:
        yield finding(
            Code.CHAIN_UNTRUSTED,
            f"The chain ends at block {top.block}, {top}, which signed itself and is "
            "not a trusted root.",
            field="certificate",
            block=top.block,
        )
    elif top is graph.leaf or graph.stranded() or graph.knows_organisation(top):
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
            "intermediate is "
            "missing between, append it.",
        )


def _expired_extras(kept: Iterable[Certificate], path: Path, at: datetime) -> Iterator[Finding]:
    for c in kept:
        if c not in path and not c.valid_at(at):
            yield finding(
                Code.CHAIN_SPARE_EXPIRED,
                f"Block {c.block}, {c}, is outside its validity; the chain holds without it.",
                field="certificate",
                block=c.block,
            )
