"""Which bundle wins, and what a signed root proves."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from clients.edge_node.bundles.verify import Order
from clients.edge_node.bundles.versions import Desired, Version, proves_bucket, proves_root
from shared.contracts.edge import BundlePage
from shared.crypto.digest import Digest, bucket_of


def version(revision: int, epoch: int = 1, content: str = "a") -> Version:
    return Version(Order(revision, epoch), (content * 64)[:64])


Offers = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4)


@given(Offers)
def test_whatever_the_order_of_arrival_the_highest_is_held(offers: list[tuple[int, int]]) -> None:
    for arrival in permutations(offers):
        desired = Desired()
        for revision, epoch in arrival:
            desired.offer("a.test", version(revision, epoch, f"{revision}{epoch}"))
        held = desired.get("a.test")
        assert held is not None
        assert held.order == Order(*max(offers))


def test_the_same_version_again_changes_nothing() -> None:
    desired = Desired()
    assert desired.offer("a.test", version(1))
    assert not desired.offer("a.test", version(1))


def test_other_content_of_the_same_order_is_taken_by_a_repair_only() -> None:
    desired = Desired()
    desired.offer("a.test", version(1, content="a"))
    assert not desired.offer("a.test", version(1, content="b"))
    assert desired.offer("a.test", version(1, content="b"), repair=True)
    assert not desired.offer("a.test", version(0, content="c"), repair=True)


def test_its_root_is_that_of_the_checkpoint_over_the_same_set() -> None:
    desired, digest = Desired(), Digest()
    for name, held in (("a.test", version(1)), ("b.test", version(2, content="b"))):
        desired.offer(name, held)
        digest.put(name, held.order.revision, held.hash)
    assert desired.root() == digest.root()
    desired.drop("b.test")
    digest.drop("b.test")
    assert desired.root() == digest.root()


def _page(name: str, held: Version) -> BundlePage:
    return BundlePage(domain=name, revision=held.order.revision, hash=held.hash)


def test_unsigned_digests_and_members_are_believed_only_as_far_as_they_hash_to_the_root() -> None:
    digest, page = Digest(), _page("a.test", version(3))
    digest.put(page.domain, page.revision, page.hash)
    digests, bucket = digest.buckets(), bucket_of("a.test")
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
    desired = Desired()
    desired.offer("a.test", version(1))
    bucket, mark = bucket_of("a.test"), desired.mark()
    assert desired.compare(bucket, [_page("a.test", version(1))], mark) == ([], [])
    assert desired.compare(bucket, [_page("a.test", version(2, content="b"))], mark) == (
        ["a.test"],
        [],
    )
    assert desired.compare(bucket, [], mark) == ([], ["a.test"])
    desired.offer("a.test", version(2, content="b"))
    assert desired.compare(bucket, [], mark) == ([], [])
