"""Newer bundles are accepted, older ones refused; a signed root proves a set."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from clients.edge_node.bundles.verify import BundleOrder
from clients.edge_node.bundles.versions import (
    BundleVersion,
    BundleVersions,
    proves_bucket,
    proves_root,
)
from shared.contracts.edge import BundlePage
from shared.crypto.digest import Digest, bucket_of


def make_version(revision: int, epoch: int = 1, content: str = "a") -> BundleVersion:
    return BundleVersion(BundleOrder(revision, epoch), (content * 64)[:64])


OFFERED_ORDERS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4)


@given(OFFERED_ORDERS)
def test_whatever_the_order_of_arrival_the_highest_is_held(offers: list[tuple[int, int]]) -> None:
    for arrival in permutations(offers):
        versions = BundleVersions()
        for revision, epoch in arrival:
            versions.accept_newer("a.test", make_version(revision, epoch, f"{revision}{epoch}"))
        held = versions.get("a.test")
        assert held is not None
        assert held.order == BundleOrder(*max(offers))


def test_the_same_version_again_changes_nothing() -> None:
    versions = BundleVersions()
    assert versions.accept_newer("a.test", make_version(1))
    assert not versions.accept_newer("a.test", make_version(1))


def test_other_content_of_the_same_order_is_taken_by_a_repair_only() -> None:
    versions = BundleVersions()
    versions.accept_newer("a.test", make_version(1, content="a"))
    assert not versions.accept_newer("a.test", make_version(1, content="b"))
    assert versions.accept_newer("a.test", make_version(1, content="b"), repair=True)
    assert not versions.accept_newer("a.test", make_version(0, content="c"), repair=True)


def test_its_root_is_that_of_the_checkpoint_over_the_same_set() -> None:
    versions = BundleVersions()
    digest = Digest()
    for name, held in (("a.test", make_version(1)), ("b.test", make_version(2, content="b"))):
        versions.accept_newer(name, held)
        digest.put(name, held.order.revision, held.hash)
    assert versions.root_digest() == digest.root()
    versions.remove_domain("b.test")
    digest.drop("b.test")
    assert versions.root_digest() == digest.root()


def make_page(name: str, held: BundleVersion) -> BundlePage:
    return BundlePage(domain=name, revision=held.order.revision, hash=held.hash)


def test_unsigned_digests_and_members_are_believed_only_as_far_as_they_hash_to_the_root() -> None:
    digest = Digest()
    page = make_page("a.test", make_version(3))
    digest.put(page.domain, page.revision, page.hash)
    digests = digest.buckets()
    bucket = bucket_of("a.test")
    assert proves_root(digests, digest.root())
    assert not proves_root(digests, "0" * 64)
    assert not proves_root(digests[:-1], digest.root())
    assert not proves_root(["zz" * 32] * 1024, digest.root())
    assert proves_bucket(bucket, [page], digests[bucket])
    assert not proves_bucket(bucket, [], digests[bucket])
    assert not proves_bucket(bucket, [page, page], digests[bucket])
    assert not proves_bucket(bucket, [page.model_copy(update={"revision": 4})], digests[bucket])
    assert not proves_bucket(bucket ^ 1, [page], digests[bucket])


def test_what_differs_is_fetched_and_what_is_not_there_dropped_unless_it_came_later() -> None:
    versions = BundleVersions()
    versions.accept_newer("a.test", make_version(1))
    bucket = bucket_of("a.test")
    moment = versions.accepted_count()
    assert versions.compare_bucket(bucket, [make_page("a.test", make_version(1))], moment) == (
        [],
        [],
    )
    assert versions.compare_bucket(
        bucket, [make_page("a.test", make_version(2, content="b"))], moment
    ) == (
        ["a.test"],
        [],
    )
    assert versions.compare_bucket(bucket, [], moment) == ([], ["a.test"])
    versions.accept_newer("a.test", make_version(2, content="b"))
    assert versions.compare_bucket(bucket, [], moment) == ([], [])
