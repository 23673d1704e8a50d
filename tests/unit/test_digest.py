"""The digest of a set does not depend on how the set was built, and shows every difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.crypto.digest import BUCKETS, Digest, bucket_of

Members = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}\.example", fullmatch=True), st.integers(1, 5), max_size=20
)


def _digest(members: dict[str, int]) -> Digest:
    digest = Digest()
    for domain, revision in members.items():
        digest.put(domain, revision, "h")
    return digest


@given(Members)
def test_the_order_of_building_does_not_matter(members: dict[str, int]) -> None:
    assert _digest(members).root() == _digest(dict(reversed(members.items()))).root()


@given(Members, Members)
def test_two_sets_have_the_same_root_only_if_they_are_equal(
    one: dict[str, int], other: dict[str, int]
) -> None:
    assert (_digest(one).root() == _digest(other).root()) == (one == other)


@given(Members)
def test_what_is_dropped_leaves_no_trace(members: dict[str, int]) -> None:
    digest = _digest(members)
    for domain in members:
        digest.drop(domain)
    assert digest.root() == Digest().root()
    assert len(digest) == 0


def test_a_change_shows_in_its_own_bucket_only() -> None:
    digest = _digest({"a.example": 1, "b.example": 1})
    before = digest.buckets()
    digest.put("a.example", 2, "h")
    changed = [i for i, (x, y) in enumerate(zip(before, digest.buckets(), strict=True)) if x != y]
    assert changed == [bucket_of("a.example")]
    assert len(before) == BUCKETS


def test_asking_for_the_buckets_first_leaves_the_root_right() -> None:
    digest = _digest({"a.example": 1})
    digest.buckets()
    assert digest.root() == _digest({"a.example": 1}).root()
