"""A Merkle tree over a list that only grows: one root commits to every entry and to their order.

Promises: whoever holds the root of a size can be shown, by a few hashes, that an entry stands at its index (`includes`)
and that a later root only adds entries to an earlier one (`extends`). The two verifiers take bytes and numbers from
anybody; they answer True or False and never raise.

A root does not hold its size: both come from one signed checkpoint, or a proof for 5 entries passes for 6.

Never: the tree holds hashes only, no entry, and hides nothing by itself. Who can guess an entry can check the guess
against its leaf hash, so an entry to be hidden brings its own salt. A leaf hash from outside must be hashed here first
(`leaf_hash`): the prefixes 0x00 and 0x01 are what keeps an interior node from passing as an entry.

Sources: RFC 9162 (Certificate Transparency 2.0) with SHA-256: tree head 2.1.1, inclusion proof 2.1.3, consistency proof
2.1.4. The RFC defines consistency for 0 < first <= second. Here the empty list is the start of every list: size 0 needs
the root of the empty tree and an empty proof, and says no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()  # 2.1.1: the head of no entries
HASH_BYTES = 32
_LARGEST_SIZE = 2**64 - 1  # a uint64 in the RFC's TreeHeadDataV2, 4.10


def leaf_hash(data: bytes) -> bytes:
    """The hash by which an entry enters the tree."""
    return sha256(b"\x00" + data).digest()


class Tree:
    """All leaf hashes of a list and the roots of its complete subtrees: two hashes an entry, in memory."""

    def __init__(self) -> None:
        # _levels[k][j]: the head of the 2^k leaves from j * 2^k; only complete subtrees, which no append changes
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Adds a leaf hash at the end."""
        if len(leaf) != HASH_BYTES:
            raise ValueError("a leaf is a hash of 32 bytes: see leaf_hash")
        level, added = 0, leaf
        self._levels[0].append(added)
        while len(self._levels[level]) % 2 == 0:  # a pair is complete: its parent is too
            added = _node(self._levels[level][-2], added)
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(added)

    def root(self, size: int | None = None) -> bytes:
        """The head of the first `size` leaves; of all where no size is given. 2.1.1"""
        if size is None:
            size = len(self)
        if not 0 <= size <= len(self):
            raise ValueError(f"a tree of {len(self)} leaves has no root of size {size}")
        return self._head(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that the leaf at `index` is one of the first `size`. PATH of 2.1.3.1, outside in."""
        if not 0 <= index < size <= len(self):
            raise ValueError(f"a tree of {len(self)} leaves has no leaf {index} among the first {size}")
        start, end = 0, size
        proof = []
        while end - start > 1:
            middle = start + _left_size(end - start)
            if index < middle:
                proof.append(self._head(middle, end))
                end = middle
            else:
                proof.append(self._head(start, middle))
                start = middle
        return proof[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the first `second` leaves begin with the first `first`. SUBPROOF of 2.1.4.1, outside in."""
        if not 0 <= first <= second <= len(self):
            raise ValueError(f"a tree of {len(self)} leaves has no sizes {first} and then {second}")
        if first == 0:
            return []
        start, end = 0, second
        proof = []
        while first < end:
            middle = start + _left_size(end - start)
            if first <= middle:
                proof.append(self._head(middle, end))
                end = middle
            else:
                proof.append(self._head(start, middle))
                start = middle
        if start > 0:  # b is false: the verifier does not know this subtree; at 0 it is the first root itself
            proof.append(self._head(start, end))
        return proof[::-1]

    def _head(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]) of 2.1.1, where start is a multiple of a power of two that is at least end - start."""
        peaks = []
        while start < end:  # the largest complete subtree, then the largest of the rest, and so on
            level = (end - start).bit_length() - 1
            peaks.append(self._levels[level][start >> level])
            start += 1 << level
        head = peaks.pop()
        while peaks:
            head = _node(peaks.pop(), head)
        return head


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that the leaf hash stands at `index` in the tree of that size and root. 2.1.3.2"""
    if not 0 <= index < size <= _LARGEST_SIZE or not _hashes([leaf, *proof]):
        return False
    sides = _sides(index, size - 1)
    if len(proof) != len(sides):  # steps 4a and 5: the proof is used up exactly at the root
        return False
    head = leaf
    for hash_, is_left in zip(proof, sides, strict=True):
        head = _node(hash_, head) if is_left else _node(head, hash_)
    return head == root


def extends(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of the second size and root begins with that of the first. 2.1.4.2

    Equal sizes need equal roots and an empty proof. So does every second root of 32 bytes where `first` is 0.
    """
    if not 0 <= first <= second <= _LARGEST_SIZE or not _hashes(proof):
        return False
    if first == 0 and first_root != EMPTY_ROOT:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and _hashes([second_root])
    index, last = first - 1, second - 1
    complete = (first & -first).bit_length() - 1  # step 4: the levels on which the first tree ends with a right node
    sides = _sides(index >> complete, last >> complete)
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)  # step 2
    if len(path) != 1 + len(sides):  # steps 1, 6a and 7
        return False
    first_head = second_head = path[0]
    for hash_, is_left in zip(path[1:], sides, strict=True):
        if is_left:
            first_head, second_head = _node(hash_, first_head), _node(hash_, second_head)
        else:
            second_head = _node(second_head, hash_)
    return first_head == first_root and second_head == second_root


def _sides(index: int, last: int) -> list[bool]:
    """Whether the sibling is the left one, for each sibling on the way from a node up to the root.

    index, last: the node, and the last one of its level, from 0. Where the last one is even it has no sibling and goes
    up alone: the inner loop of step 4b (2.1.3.2) and 6b (2.1.4.2).
    """
    sides = []
    while last > 0:
        if index % 2 == 1 or index < last:
            sides.append(index % 2 == 1)
        index, last = index // 2, last // 2
    return sides


def _left_size(size: int) -> int:
    """The largest power of two smaller than `size`: where 2.1.1 splits a list of more than one."""
    return 1 << (size - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
