"""The tree against the published proofs, against the RFC's own recursion, and against whoever bends a proof."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.merkle import EMPTY_ROOT, Tree, extends, includes, leaf_hash

PROBES = Path(__file__).parents[3] / "shared/data/rfc9162"
LARGEST = 70  # past 64, where every shape of the right edge has been seen
LEAVES = [leaf_hash(bytes([number])) for number in range(LARGEST)]
SMALL = range(1, 10)

# The leaves and roots of the Certificate Transparency tests (transparency-dev/merkle, testonly/constants.go).
CT_ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def probes(kind: str) -> list[Any]:
    if not PROBES.exists():
        reason = f"{PROBES} (transparency-dev/merkle, testdata) is not on this machine"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(json.loads(file.read_text()), id=file.stem) for file in sorted((PROBES / kind).iterdir())]


def decoded(probe: Any, *names: str) -> list[bytes]:
    return [b64decode(probe[name] or "") for name in names]


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


TREE = tree_of(LEAVES)


# RFC 9162, 2.1.1, 2.1.3.1 and 2.1.4.1 as they are written there: slow, recursive, without a memory.


def split(n: int) -> int:
    """ "let k be the largest power of two smaller than n (i.e., k < n <= 2k)" """
    k = 1
    while not k < n <= 2 * k:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    match len(leaves):
        case 0:
            return sha256().digest()
        case 1:
            return leaves[0]
        case n:
            k = split(n)
            return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    n = len(leaves)
    if n == 1:
        return []
    k = split(n)
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], known: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if known else [mth(leaves)]
    k = split(n)
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def bent(proof: list[bytes]) -> Iterator[list[bytes]]:
    """The proof with one hash dropped, doubled, added, cut, lengthened or turned by one bit, or with two swapped."""
    for place in range(len(proof) + 1):
        yield [*proof[:place], LEAVES[0], *proof[place:]]
        yield [*proof[:place], b"", *proof[place:]]
    for place, value in enumerate(proof):
        before, after = proof[:place], proof[place + 1 :]
        for wrong in (value[:-1], value + b"\x00", bytes([value[0] ^ 0x80]) + value[1:], value[:-1] + b"?"):
            yield [*before, wrong, *after]
        yield [*before, *after]
        yield [*before, value, value, *after]
    for first, second in combinations(range(len(proof)), 2):
        swapped = list(proof)
        swapped[first], swapped[second] = proof[second], proof[first]
        yield swapped


def turned(proof: list[bytes]) -> Iterator[list[bytes]]:
    """The proof with each of its bits turned."""
    for place, value in enumerate(proof):
        for bit in range(256):
            wrong = (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(32, "big")
            yield [*proof[:place], wrong, *proof[place + 1 :]]


# Published


@pytest.mark.parametrize("probe", probes("inclusion"))
def test_inclusion_answers_the_published_probes(probe: Any) -> None:
    leaf, root = decoded(probe, "leafHash", "root")
    proof = [b64decode(value) for value in probe["proof"] or []]
    assert includes(leaf, probe["leafIdx"], probe["treeSize"], proof, root) is not probe["wantErr"]


@pytest.mark.parametrize("probe", probes("consistency"))
def test_consistency_answers_the_published_probes(probe: Any) -> None:
    first_root, second_root = decoded(probe, "root1", "root2")
    proof = [b64decode(value) for value in probe["proof"] or []]
    assert extends(probe["size1"], probe["size2"], first_root, second_root, proof) is not probe["wantErr"]


@pytest.mark.skipif(not PROBES.exists(), reason=f"{PROBES} is not on this machine")
def test_the_published_probes_are_all_here() -> None:
    assert (len(probes("inclusion")), len(probes("consistency"))) == (98, 98)


def test_the_tree_of_certificate_transparency_has_its_published_roots() -> None:
    tree = Tree()
    assert tree.root().hex() == CT_ROOTS[0]
    for size, entry in enumerate(CT_ENTRIES, start=1):
        tree.append(leaf_hash(bytes.fromhex(entry)))
        assert (len(tree), tree.root().hex()) == (size, CT_ROOTS[size])
    assert [tree.root(size).hex() for size in range(9)] == CT_ROOTS


def test_three_leaves_by_hand() -> None:
    a, b, c = LEAVES[:3]
    ab = sha256(b"\x01" + a + b).digest()
    tree = tree_of([a, b, c])
    assert a == sha256(b"\x00\x00").digest()
    assert tree.root() == sha256(b"\x01" + ab + c).digest()
    assert [tree.inclusion(index, 3) for index in range(3)] == [[b, c], [a, c], [ab]]
    assert [tree.consistency(first, 3) for first in range(4)] == [[], [b, c], [c], []]
    assert tree.consistency(1, 2) == [b]


# Against the RFC's recursion


def test_every_tree_up_to_seventy_has_the_root_of_the_definition() -> None:
    growing = Tree()
    for size in range(LARGEST + 1):
        assert growing.root() == TREE.root(size) == mth(LEAVES[:size])
        growing.append(leaf_hash(bytes([size])))


def test_every_inclusion_proof_up_to_seventy_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = TREE.inclusion(index, size)
            assert proof == path(index, LEAVES[:size])
            assert includes(LEAVES[index], index, size, proof, TREE.root(size))


def test_every_consistency_proof_up_to_seventy_is_that_of_the_definition_and_holds() -> None:
    for second in range(1, LARGEST + 1):
        for first in range(1, second + 1):
            proof = TREE.consistency(first, second)
            assert proof == subproof(first, LEAVES[:second], True)
            assert extends(first, second, TREE.root(first), TREE.root(second), proof)


def test_every_bent_inclusion_proof_up_to_seventy_is_refused() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            for wrong in bent(TREE.inclusion(index, size)):
                assert not includes(LEAVES[index], index, size, wrong, TREE.root(size)), (index, size)


def test_every_bent_consistency_proof_up_to_seventy_is_refused() -> None:
    for second in range(1, LARGEST + 1):
        for first in range(second + 1):
            for wrong in bent(TREE.consistency(first, second)):
                assert not extends(first, second, TREE.root(first), TREE.root(second), wrong), (first, second)


def test_every_turned_bit_of_a_small_proof_is_refused() -> None:
    for size in SMALL:
        for index in range(size):
            for wrong in turned(TREE.inclusion(index, size)):
                assert not includes(LEAVES[index], index, size, wrong, TREE.root(size))
            for wrong in turned(TREE.consistency(index, size)):
                assert not extends(index, size, TREE.root(index), TREE.root(size), wrong)


# Attacks


def test_a_leaf_at_another_index_is_refused() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = TREE.inclusion(index, size)
            claimed = [
                place for place in range(-1, size + 2) if includes(LEAVES[index], place, size, proof, TREE.root(size))
            ]
            assert claimed == [index]


def test_another_leaf_at_the_index_is_refused() -> None:
    for size in SMALL:
        for index in range(size):
            proof = TREE.inclusion(index, size)
            for bit in range(256):
                other = (int.from_bytes(LEAVES[index], "big") ^ 1 << bit).to_bytes(32, "big")
                assert not includes(other, index, size, proof, TREE.root(size))


def test_an_interior_node_does_not_pass_as_an_entry() -> None:
    a, b, c, d = LEAVES[:4]
    ab, cd = sha256(b"\x01" + a + b).digest(), sha256(b"\x01" + c + d).digest()
    root = TREE.root(4)
    assert includes(
        ab, 0, 2, [cd], root
    )  # the hash of a node climbs as a leaf's does, under a size that nobody signed ...
    assert leaf_hash(a + b) != ab  # ... but no entry has that hash
    assert not includes(leaf_hash(a + b), 0, 2, [cd], root)


def test_a_size_is_only_as_true_as_who_gives_it_with_the_root() -> None:
    five = TREE.inclusion(0, 5), TREE.root(5)
    assert includes(LEAVES[0], 0, 5, *five)
    assert includes(LEAVES[0], 0, 6, *five)  # the RFC's algorithm can't tell: a checkpoint signs size and root together
    assert not includes(LEAVES[0], 0, 9, *five)


def test_a_rewritten_entry_breaks_consistency_with_every_root_after_it() -> None:
    for changed in range(8):
        forged = tree_of([leaf_hash(b"forged") if index == changed else LEAVES[index] for index in range(12)])
        for first in range(1, 13):
            proof = forged.consistency(first, 12)
            assert extends(first, 12, TREE.root(first), forged.root(), proof) is (first <= changed)


def test_a_dropped_a_swapped_and_an_inserted_entry_break_consistency() -> None:
    a, b, c, d = LEAVES[:4]
    for forged in ([a, c, d], [a, c, b, d], [a, leaf_hash(b"new"), b, c, d], [b, c, d, a]):
        tree = tree_of(forged)
        assert not extends(3, len(forged), TREE.root(3), tree.root(), tree.consistency(3, len(forged)))


def test_a_shorter_tree_does_not_extend_a_longer_one() -> None:
    for second in SMALL:
        for first in range(second):
            proof = TREE.consistency(first, second)
            assert not extends(second, first, TREE.root(second), TREE.root(first), proof)
            assert not extends(second, first, TREE.root(first), TREE.root(second), proof)


def test_other_sizes_of_the_first_tree_are_refused() -> None:
    for second in SMALL:
        for first in range(1, second):
            proof, roots = TREE.consistency(first, second), (TREE.root(first), TREE.root(second))
            assert [size for size in range(-1, second + 2) if extends(size, second, *roots, proof)] == [first]


def test_other_roots_are_refused() -> None:
    for second in SMALL:
        for first in range(1, second):
            proof = TREE.consistency(first, second)
            for wrong in (b"", EMPTY_ROOT, TREE.root(second + 1), TREE.root(second)[:31], TREE.root(second) + b"\x00"):
                assert not extends(first, second, TREE.root(first), wrong, proof)
                assert not extends(first, second, wrong, TREE.root(second), proof)
                assert not includes(LEAVES[0], 0, second, TREE.inclusion(0, second), wrong)


def test_every_list_begins_with_the_empty_list_and_only_with_its_root() -> None:
    for size in (0, 1, 2, 7):
        assert TREE.consistency(0, size) == []
        assert extends(0, size, EMPTY_ROOT, TREE.root(size), [])
        assert not extends(0, size, EMPTY_ROOT, TREE.root(size), [EMPTY_ROOT])
        assert not extends(0, size, TREE.root(1), TREE.root(size), [])
        assert not extends(0, size, TREE.root(1), TREE.root(1), [])
        assert not extends(0, size, EMPTY_ROOT, b"root", [])
    assert not extends(0, 0, EMPTY_ROOT, TREE.root(1), [])


def test_two_trees_of_one_size_need_one_root() -> None:
    assert extends(3, 3, TREE.root(3), TREE.root(3), [])
    assert not extends(3, 3, TREE.root(3), TREE.root(4), [])
    assert not extends(3, 3, TREE.root(3), TREE.root(3), [LEAVES[2]])


def test_the_empty_tree_includes_nothing() -> None:
    assert not includes(EMPTY_ROOT, 0, 0, [], EMPTY_ROOT)


@pytest.mark.parametrize("huge", [2**64, 2**64 + 1, 2**200, 2**1_000_000 - 1], ids=int.bit_length)
def test_absurd_numbers_are_refused_at_once(huge: int) -> None:
    started = time.process_time()
    for number in (huge, -huge):
        assert not includes(LEAVES[0], 0, number, [LEAVES[1]], TREE.root(2))
        assert not includes(LEAVES[0], number, huge + 1, [LEAVES[1]], TREE.root(2))
        assert not extends(1, number, LEAVES[0], TREE.root(2), [LEAVES[1]])
        assert not extends(number, huge + 1, LEAVES[0], TREE.root(2), [LEAVES[1]])
    assert time.process_time() - started < 0.1


def test_the_largest_sizes_of_the_rfc_are_verified() -> None:
    last = 2**64 - 2  # the leaf of size 2^64 - 1 that has all other leaves to its left: 63 peaks
    head, proof = LEAVES[0], [LEAVES[level] for level in range(1, 64)]
    for peak in proof:
        head = sha256(b"\x01" + peak + head).digest()
    assert includes(LEAVES[0], last, 2**64 - 1, proof, head)
    assert not includes(LEAVES[0], last - 1, 2**64 - 1, proof, head)
    assert not includes(LEAVES[0], last + 1, 2**64, [*proof, LEAVES[64]], sha256(b"\x01" + LEAVES[64] + head).digest())


sizes = st.integers(-2, 40) | st.integers(-(2**70), 2**70)
values = (
    st.sampled_from(LEAVES[:10]) | st.binary(max_size=40) | st.sampled_from([TREE.root(size) for size in range(20)])
)
proofs = st.lists(values, max_size=70)


@given(values, sizes, sizes, proofs, values)
def test_no_input_makes_inclusion_raise(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    if includes(leaf, index, size, proof, root) and root == mth(LEAVES[:size]):
        assert (leaf, proof) == (LEAVES[index], path(index, LEAVES[:size]))


@given(sizes, sizes, values, values, proofs)
def test_no_input_makes_consistency_raise(first: int, second: int, one: bytes, two: bytes, proof: list[bytes]) -> None:
    if extends(first, second, one, two, proof) and 0 < first < second <= LARGEST and two == mth(LEAVES[:second]):
        assert (one, proof) == (mth(LEAVES[:first]), subproof(first, LEAVES[:second], True))


@st.composite
def nearly_honest(draw: st.DrawFn, honest: list[bytes]) -> list[bytes]:
    """The proof, or the proof with any slice of it replaced by hashes that stand in the tree."""
    start = draw(st.integers(0, len(honest)))
    end = draw(st.integers(start, len(honest)))
    return [*honest[:start], *draw(st.lists(st.sampled_from([*honest, *LEAVES[:4]]), max_size=3)), *honest[end:]]


@given(st.data())
def test_an_inclusion_proof_holds_exactly_where_it_is_the_definitions(data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in data.draw(st.lists(st.binary(max_size=3), min_size=1, max_size=40))]
    tree, size = tree_of(leaves), data.draw(st.integers(1, len(leaves)))
    index, leaf = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(leaves))
    proof = data.draw(nearly_honest(tree.inclusion(index, size)))
    honest = leaf == leaves[index] and proof == path(index, leaves[:size])
    assert includes(leaf, index, size, proof, mth(leaves[:size])) is honest


@given(st.data())
def test_a_consistency_proof_holds_exactly_where_it_is_the_definitions(data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in data.draw(st.lists(st.binary(max_size=3), min_size=1, max_size=40))]
    tree, second = tree_of(leaves), data.draw(st.integers(1, len(leaves)))
    first = data.draw(st.integers(1, second))
    proof = data.draw(nearly_honest(tree.consistency(first, second)))
    honest = proof == subproof(first, leaves[:second], True)
    assert extends(first, second, mth(leaves[:first]), mth(leaves[:second]), proof) is honest


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=50), st.lists(st.binary(min_size=32, max_size=32)))
def test_growth_changes_no_earlier_root(before: list[bytes], after: list[bytes]) -> None:
    tree = tree_of(before)
    roots = [tree.root(size) for size in range(len(tree) + 1)]
    for leaf in after:
        tree.append(leaf)
    assert len(tree) == len(before) + len(after)
    assert (
        [tree.root(size) for size in range(len(before) + 1)]
        == roots
        == [mth(before[:size]) for size in range(len(before) + 1)]
    )


# The programmer's mistakes, and speed


@pytest.mark.parametrize("leaf", [b"", b"entry", bytes(31), bytes(33)])
def test_only_hashes_are_appended(leaf: bytes) -> None:
    tree = Tree()
    with pytest.raises(ValueError, match="32 bytes"):
        tree.append(leaf)
    assert (len(tree), tree.root()) == (0, EMPTY_ROOT)


def test_a_tree_proves_nothing_about_leaves_that_it_does_not_have() -> None:
    tree = tree_of(LEAVES[:5])
    for size in (-1, 6):
        with pytest.raises(ValueError, match="root of size"):
            tree.root(size)
    for index, size in [(-1, 5), (5, 5), (3, 3), (0, 0), (0, 6), (0, -1)]:
        with pytest.raises(ValueError, match="has no leaf"):
            tree.inclusion(index, size)
    for first, second in [(-1, 5), (3, 2), (5, 6), (-2, -1)]:
        with pytest.raises(ValueError, match="has no sizes"):
            tree.consistency(first, second)


def test_twenty_thousand_leaves_are_appended_in_a_tenth_of_a_second() -> None:
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(20_000)]
    seconds = []
    for _ in range(3):
        started = time.process_time()
        tree = tree_of(leaves)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.1
    assert includes(leaves[12_345], 12_345, 20_000, tree.inclusion(12_345, 20_000), tree.root())
    assert extends(12_345, 20_000, tree.root(12_345), tree.root(), tree.consistency(12_345, 20_000))
