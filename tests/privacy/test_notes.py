"""Signed checkpoints against the notes that others published, and against whoever changes, moves or invents one."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from hashlib import sha256
from itertools import permutations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import CheckpointInvalid, IdentityRefused
from privacy.merkle import EMPTY_ROOT
from privacy.notes import (
    LONGEST_NOTE_BYTES,
    Checkpoint,
    opened,
    opened_text,
    signed,
    signed_text,
    verifier_key,
)
from privacy.sealing import context
from tests.privacy.vault_builders import mutated

# The keys and the note of golang.org/x/mod/sumdb/note (note_test.go and its package documentation).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
GO_NOTE = GO_TEXT + "\n" + PETER_LINE

# Checkpoints that Go's checksum database signed; the first is the example of tlog-checkpoint under its true origin.
GO_SUM = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
GO_SUM_ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
GO_SUM_SIGNATURE = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8="
GO_SUM_NOTE = f"go.sum database tree\n20852163\n{GO_SUM_ROOT}\n\n\u2014 sum.golang.org {GO_SUM_SIGNATURE}\n"
GO_SUM_LATER = (
    "go.sum database tree\n63096908\n8lHrQPRYe4KT4WQ9/Qk8/taKnD6IRHbFgfN7vQE2Y54=\n\n"
    "\u2014 sum.golang.org "
    "Az3gri/oVBN1jAhNZ/iS+W31psFAWRT20/GyrhpU6taFwulQGetBkH5S7wpGXdS935jiIGiUUAXBVHzT/P6fYhqAmAk=\n"
)

# The example of the signed-note specification; its key is not published.
ITALIAN = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "\u2014 quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_PUBLIC = OTHER.public_key().public_bytes_raw()
NAME = "hospital-a/ledger"
CHECKPOINT = Checkpoint(origin=NAME, size=17, root=bytes(range(100, 132)))
TEXT = f"{NAME}\n17\nZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=\n"
NOTE = signed(CHECKPOINT, NAME, KEY.sign, PUBLIC)
LINE = NOTE.removeprefix(TEXT + "\n")
ROOT = TEXT.split("\n")[2]
UNSEEN = ["\t", "\r", "\x00", "\x1f", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\ud800"]


def parts(key: str) -> tuple[str, bytes]:
    """Name and public key of a verifier key."""
    name, _, encoded = key.split("+", 2)
    return name, b64decode(encoded)[1:]


def line(name: str, key_id: bytes, signature: bytes) -> str:
    return f"\u2014 {name} {b64encode(key_id + signature).decode()}\n"


def line_by(key: Ed25519PrivateKey, name: str, text: str = TEXT) -> str:
    """The signature line of an honest signer."""
    return signed_text(text, name, key.sign, key.public_key().public_bytes_raw()).removeprefix(text + "\n")


def resigned(text: str) -> str:
    """A text that is no checkpoint, signed by the right key."""
    return signed_text(text, NAME, KEY.sign, PUBLIC)


KEY_ID = sha256(NAME.encode() + b"\n\x01" + PUBLIC).digest()[:4]
BROKEN = line(NAME, KEY_ID, bytes(64))


# Published


@pytest.mark.parametrize("key", [PETER, ENOCH, GO_SUM])
def test_published_keys_have_their_published_text(key: str) -> None:
    assert verifier_key(*parts(key)) == key


def test_the_note_of_the_go_library_is_written_byte_for_byte() -> None:
    name, public = parts(PETER)
    private = Ed25519PrivateKey.from_private_bytes(b64decode(PETER_SEED)[1:])
    assert signed_text(GO_TEXT, name, private.sign, public) == GO_NOTE


@pytest.mark.parametrize("lines", [(PETER_LINE, ENOCH_LINE), (ENOCH_LINE, PETER_LINE)], ids=["peter", "enoch"])
def test_the_note_of_the_go_library_opens_for_each_of_its_signers(lines: tuple[str, str]) -> None:
    note = GO_TEXT + "\n" + "".join(lines)
    assert [opened_text(note, *parts(key)) for key in (PETER, ENOCH)] == [GO_TEXT, GO_TEXT]
    with pytest.raises(IdentityRefused):
        opened_text(note, *parts(GO_SUM))


def test_checkpoints_of_the_go_checksum_database_open() -> None:
    earlier, later = (opened(note, *parts(GO_SUM)) for note in (GO_SUM_NOTE, GO_SUM_LATER))
    assert earlier == Checkpoint(origin="go.sum database tree", size=20852163, root=b64decode(GO_SUM_ROOT))
    assert (later.origin, later.size) == ("go.sum database tree", 63096908)
    assert [each.text() for each in (earlier, later)] == [
        note.partition("\n\n")[0] + "\n" for note in (GO_SUM_NOTE, GO_SUM_LATER)
    ]


def test_a_signature_of_one_checkpoint_is_refused_on_another() -> None:
    swapped = GO_SUM_LATER.partition("\n\n")[0] + "\n\n" + GO_SUM_NOTE.partition("\n\n")[2]
    renamed = GO_SUM_NOTE.replace("go.sum database tree", "example.com/behind-the-sofa", 1)
    for note in (swapped, renamed):
        with pytest.raises(IdentityRefused):
            opened(note, *parts(GO_SUM))


def test_the_example_of_the_specification_is_read_and_its_verse_kept_whole() -> None:
    with pytest.raises(IdentityRefused):
        opened_text(ITALIAN, "quasimodo.example/salvatore", PUBLIC)
    verse = ITALIAN[: ITALIAN.rindex("\n\n") + 1]
    assert "\n\n" in verse
    assert opened_text(ITALIAN + line_by(KEY, NAME, verse), NAME, PUBLIC) == verse


NO_NOTES = [
    "",
    "\n",
    "\n\n",
    GO_TEXT,
    GO_TEXT + "\n",
    GO_TEXT + PETER_LINE,
    "\n" + PETER_LINE,
    GO_NOTE[:-1],
    GO_NOTE + "\n",
    GO_NOTE + "\n\n",
    GO_NOTE + "Unexpected line.\n",
    GO_NOTE + "Unexpected end",
    "\x01" + GO_NOTE,
    GO_NOTE.replace("\n", "\r\n"),
    GO_NOTE.replace(" cryptography", "\tcryptography"),
    GO_NOTE.replace("\u2014", "-"),
    GO_NOTE.replace("\u2014 ", "\u2014"),
    GO_NOTE.replace("\u2014 ", "\u2014  "),
    GO_NOTE.replace("\u2014 ", "\u2014 \u2014 "),
    GO_NOTE.replace("PeterNeumann ", "PeterNeumann  "),
    GO_NOTE.replace("PeterNeumann ", "PeterNeumann"),
    GO_NOTE.replace("PeterNeumann ", ""),
    GO_NOTE.replace("PeterNeumann", ""),
    GO_NOTE.replace("PeterNeumann", "Peter Neumann"),
    GO_NOTE.replace("PeterNeumann", "Peter\u00a0Neumann"),
    GO_NOTE.replace("PeterNeumann", "Peter\u3000Neumann"),
    GO_NOTE.replace("PeterNeumann", "Peter+Neumann"),
    GO_NOTE.replace("x08go", "!08go"),
    GO_NOTE.replace("x08go", "\u06f108go"),
    GO_NOTE.replace("nAM=", "nAM"),
    GO_NOTE.replace("nAM=", "nAM=="),
    GO_NOTE.replace("nAM=", "nAN="),  # the two loose bits of the last digit
    GO_NOTE.replace("nAM=", "nAM= "),
    GO_NOTE.replace("SffcvIAQ", "SffcvIAQ "),
    GO_NOTE.replace("/", "_"),
    GO_TEXT + "\n\u2014 PeterNeumann \n",
    GO_TEXT + "\n\u2014 PeterNeumann\n",
    GO_TEXT + "\n\u2014 PeterNeumann x08g\n",
    GO_TEXT + "\n\u2014 PeterNeumann x08gow==\n",  # an id and no signature
    GO_TEXT + "\n" + PETER_LINE + "\u2014 bad name x08goxyz\n",
    GO_NOTE + "\ud800",
    "\udcff" + GO_NOTE,
    "x" * LONGEST_NOTE_BYTES + GO_NOTE,
]


@pytest.mark.parametrize("note", NO_NOTES, ids=range(len(NO_NOTES)))
def test_what_is_no_note_is_refused(note: str) -> None:
    assert note != GO_NOTE
    with pytest.raises(CheckpointInvalid):
        opened_text(note, *parts(PETER))


# Ours


def test_a_note_by_hand() -> None:
    assert CHECKPOINT.text() == TEXT
    signature = b64encode(KEY_ID + KEY.sign(TEXT.encode())).decode()
    assert f"{TEXT}\n\u2014 {NAME} {signature}\n" == NOTE
    assert verifier_key(NAME, PUBLIC) == f"{NAME}+{KEY_ID.hex()}+" + b64encode(b"\x01" + PUBLIC).decode()
    assert opened(NOTE, NAME, PUBLIC) == CHECKPOINT


seen = st.characters(exclude_categories=["C", "Zl", "Zp"])
checkpoints = st.builds(
    Checkpoint,
    origin=st.text(seen, min_size=1, max_size=200),
    size=st.integers(0, 2**53 - 1),
    root=st.binary(min_size=32, max_size=32),
)
names = st.text(seen, min_size=1, max_size=200).map(lambda text: "".join(text.split()).replace("+", "")).filter(len)


@given(checkpoints, names, st.binary(min_size=32, max_size=32))
def test_what_was_signed_opens_as_it_was(checkpoint: Checkpoint, name: str, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes_raw()
    note = signed(checkpoint, name, key.sign, public)
    assert opened(note, name, public) == checkpoint == Checkpoint.parse(checkpoint.text())
    assert note.startswith(checkpoint.text() + "\n\u2014 " + name + " ")


@given(st.lists(st.text(seen)), names)
def test_any_lines_can_be_signed(lines: list[str], name: str) -> None:
    text = "\n".join(lines) + "\n"
    assert opened_text(signed_text(text, name, KEY.sign, PUBLIC), name, PUBLIC) == text


def test_a_text_that_looks_like_a_signed_note_opens_as_the_text_that_it_is() -> None:
    assert opened_text(resigned(GO_NOTE), NAME, PUBLIC) == GO_NOTE
    with pytest.raises(IdentityRefused):
        opened_text(resigned(GO_NOTE), *parts(PETER))  # Peter signed the inner text, not this one


# Whoever changes a note


def test_a_note_with_any_bit_turned_is_refused() -> None:
    whole = NOTE.encode()
    for place in range(len(whole)):
        for bit in range(8):
            turned = bytearray(whole)
            turned[place] ^= 1 << bit
            with pytest.raises((IdentityRefused, CheckpointInvalid)):
                opened(turned.decode(errors="surrogateescape"), NAME, PUBLIC)


def test_a_note_with_any_character_dropped_or_doubled_is_refused() -> None:
    for place, character in enumerate(NOTE):
        for changed in (NOTE[:place] + NOTE[place + 1 :], NOTE[:place] + character + NOTE[place:]):
            with pytest.raises((IdentityRefused, CheckpointInvalid)):
                opened(changed, NAME, PUBLIC)


def test_a_note_cut_anywhere_is_refused() -> None:
    for length in range(len(NOTE)):
        with pytest.raises((IdentityRefused, CheckpointInvalid)):
            opened(NOTE[:length], NAME, PUBLIC)


def test_ten_thousand_wounded_notes_are_refused_or_say_what_was_signed() -> None:
    rng = random.Random(9162)
    whole = (NOTE + line_by(OTHER, "server")).encode()
    answers = {"opened": 0, "IdentityRefused": 0, "CheckpointInvalid": 0}
    for _ in range(10_000):
        note = mutated(whole, rng).decode(errors="surrogateescape")
        try:
            assert opened(note, NAME, PUBLIC) == CHECKPOINT
            assert note.startswith(TEXT + "\n")
            answers["opened"] += 1
        except (IdentityRefused, CheckpointInvalid) as error:
            answers[type(error).__name__] += 1
    assert min(answers.values()) > 10, answers  # a wound in the other signer's line may leave ours whole


def test_ten_thousand_wounded_texts_are_refused_or_have_one_spelling() -> None:
    rng = random.Random(6962)
    refused = 0
    for _ in range(10_000):
        text = mutated(TEXT.encode(), rng).decode(errors="surrogateescape")
        try:
            assert Checkpoint.parse(text).text() == text
        except CheckpointInvalid:
            refused += 1
    assert 5_000 < refused < 10_000


# Whoever signs, or says so


def test_a_note_opens_for_no_other_name_and_no_other_key() -> None:
    for name, public in [
        ("hospital-b/ledger", PUBLIC),
        (NAME, OTHER_PUBLIC),
        (NAME.upper(), PUBLIC),
        (NAME, bytes(32)),
    ]:
        with pytest.raises(IdentityRefused):
            opened(NOTE, name, public)


def test_another_key_under_our_name_and_our_key_id_under_another_name_are_refused() -> None:
    forged = OTHER.sign(TEXT.encode())
    for false in (
        line(NAME, KEY_ID, forged),
        line_by(OTHER, NAME),
        line("hospital-b/ledger", KEY_ID, KEY.sign(TEXT.encode())),
        line_by(KEY, "hospital-b/ledger"),
        BROKEN,
        line(NAME, KEY_ID, KEY.sign(TEXT.encode())[:63]),
        line(NAME, KEY_ID, KEY.sign(TEXT.encode()) + b"\x00"),
        line(NAME, KEY_ID, b"\x00"),
        line(NAME, KEY_ID, KEY.sign(TEXT.encode() + b"\n")),
        line(NAME, KEY_ID, KEY.sign(TEXT.encode()[:-1])),
    ):
        with pytest.raises(IdentityRefused):
            opened(f"{TEXT}\n{false}", NAME, PUBLIC)


def test_signatures_of_unknown_keys_are_ignored_wherever_they_stand() -> None:
    unknown = [
        line_by(OTHER, "server"),
        line_by(OTHER, NAME),  # our name, another id
        line("witness", KEY_ID, bytes(64)),  # our id, another name
        line("witness.example/ml-dsa-44", b"\x01\x02\x03\x04", bytes(2420)),
        line("short", bytes(4), b"\x00"),
    ]
    for place in range(len(unknown) + 1):
        assert opened(TEXT + "\n" + "".join([*unknown[:place], LINE, *unknown[place:]]), NAME, PUBLIC) == CHECKPOINT
    with pytest.raises(IdentityRefused):
        opened(TEXT + "\n" + "".join(unknown), NAME, PUBLIC)


def test_one_false_signature_of_our_key_spoils_the_note_whatever_stands_beside_it() -> None:
    for lines in permutations([LINE, BROKEN, line_by(OTHER, "server")]):
        with pytest.raises(IdentityRefused):
            opened(TEXT + "\n" + "".join(lines), NAME, PUBLIC)
    assert opened(TEXT + "\n" + LINE + LINE, NAME, PUBLIC) == CHECKPOINT


def test_sixteen_signers_with_the_longest_names_are_accepted_and_a_flood_is_not() -> None:
    checkpoint = Checkpoint(origin="\U0001f512" * 200, size=2**53 - 1, root=EMPTY_ROOT)
    names = [chr(0x1F600 + number) * 200 for number in range(16)]
    note = checkpoint.text() + "\n" + "".join(line_by(KEY, name, checkpoint.text()) for name in names)
    assert [opened(note, name, PUBLIC) for name in names] == [checkpoint] * 16
    spare = LONGEST_NOTE_BYTES - len(NOTE.encode()) - len(line("x", bytes(4), bytes(65)).encode())
    full = NOTE + line("x" * (spare + 1), bytes(4), bytes(65))
    assert len(full.encode()) == LONGEST_NOTE_BYTES
    assert opened(full, NAME, PUBLIC) == CHECKPOINT
    with pytest.raises(CheckpointInvalid, match="longer"):
        opened(full.replace("xxx", "xxxx", 1), NAME, PUBLIC)


def test_what_an_identity_signs_is_never_the_text_of_a_note() -> None:
    message = context("signed ledger", NAME.encode(), b"\n\n").decode("latin-1") + "\n"
    with pytest.raises(ValueError, match="control"):
        resigned(message)
    with pytest.raises(CheckpointInvalid, match="control"):
        opened_text(message + "\n" + line(NAME, KEY_ID, KEY.sign(message.encode())), NAME, PUBLIC)


# Signed by the right key, and yet no checkpoint


@pytest.mark.parametrize("origin", ["", "x" * 201, *(f"a{character}b" for character in UNSEEN)], ids=ascii)
def test_origins_that_can_not_be_read_aloud_are_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        Checkpoint(origin=origin, size=1, root=EMPTY_ROOT)
    with pytest.raises(CheckpointInvalid):
        Checkpoint.parse(f"{origin}\n17\n{ROOT}\n")


def test_an_origin_of_two_lines_can_not_smuggle_a_size() -> None:
    with pytest.raises(ValueError, match="origin"):
        Checkpoint(origin=f"{NAME}\n99\n{ROOT}\n", size=1, root=EMPTY_ROOT)


@pytest.mark.parametrize("size", [0, 1, 10, 2**53 - 1])
def test_every_size_that_json_can_hold_is_read(size: int) -> None:
    assert Checkpoint.parse(f"{NAME}\n{size}\n{ROOT}\n").size == size


@pytest.mark.parametrize(
    "size",
    [
        *[
            "",
            "-1",
            "-0",
            "+1",
            "01",
            "00",
            " 1",
            "1 ",
            "1_0",
            "1.0",
            "1e3",
            "0x1",
            "\u0661",
            "\uff11",
            "\u00b2",
            "one",
        ],
        *[str(2**53), str(2**64), "9" * 5000],
    ],
    ids=lambda size: ascii(size)[:20],
)
def test_sizes_have_one_spelling_below_two_to_the_53(size: str) -> None:
    with pytest.raises(CheckpointInvalid):
        opened(resigned(f"{NAME}\n{size}\n{ROOT}\n"), NAME, PUBLIC)


@pytest.mark.parametrize(
    "root",
    [
        "",
        ROOT[:-1],
        ROOT + "=",
        ROOT + " ",
        " " + ROOT,
        ROOT.replace("M=", "N="),  # a loose bit
        ROOT.replace("+", "-"),
        ROOT.replace("Z", "!", 1),
        ROOT[:20] + "\u00e9" + ROOT[20:],
        ROOT[:20] + " " + ROOT[20:],
        ROOT[:20] + "====" + ROOT[20:],
        b64encode(bytes(31)).decode(),
        b64encode(bytes(33)).decode(),
        EMPTY_ROOT.hex(),
    ],
)
def test_roots_have_32_bytes_and_one_spelling(root: str) -> None:
    assert root != ROOT
    with pytest.raises(CheckpointInvalid):
        opened(resigned(f"{NAME}\n17\n{root}\n"), NAME, PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "\n\n\n",
        f"{NAME}\n17\n",
        f"{NAME}\n17\n{ROOT}\nextension\n",
        f"{TEXT}\n",
        f"\n{TEXT}",
        f"17\n{NAME}\n{ROOT}\n",
    ],
)
def test_a_checkpoint_has_three_lines_and_no_more(text: str) -> None:
    assert opened_text(resigned(text), NAME, PUBLIC) == text
    with pytest.raises(CheckpointInvalid):
        opened(resigned(text), NAME, PUBLIC)


@pytest.mark.parametrize("text", ["", TEXT[:-1], TEXT.replace("\n", "\r\n"), NOTE])
def test_a_text_alone_is_parsed_as_strictly(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        Checkpoint.parse(text)


# The programmer's mistakes


@pytest.mark.parametrize(("size", "root"), [(-1, bytes(32)), (2**53, bytes(32)), (0, bytes(31)), (0, b"")])
def test_a_checkpoint_that_can_not_be_is_not_made(size: int, root: bytes) -> None:
    with pytest.raises(ValueError, match=r"has|from 0"):
        Checkpoint(origin=NAME, size=size, root=root)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "a\u00a0b", "a+b", "+", "a\x00b", "x" * 201], ids=ascii)
def test_names_that_no_key_can_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        signed(CHECKPOINT, name, KEY.sign, PUBLIC)
    with pytest.raises(ValueError, match="name"):
        opened(NOTE, name, PUBLIC)
    with pytest.raises(ValueError, match="name"):
        verifier_key(name, PUBLIC)


@pytest.mark.parametrize("public", [b"", PUBLIC[:31], PUBLIC + b"\x00"])
def test_public_keys_have_32_bytes(public: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        verifier_key(NAME, public)
    with pytest.raises(ValueError, match="32 bytes"):
        opened(NOTE, NAME, public)


def test_a_note_that_was_signed_with_another_key_is_opened_by_nobody() -> None:
    for sign in (OTHER.sign, lambda message: KEY.sign(b"signed ledger" + message), lambda message: message[:64]):
        note = signed(CHECKPOINT, NAME, sign, PUBLIC)
        for public in (PUBLIC, OTHER.public_key().public_bytes_raw()):
            with pytest.raises(IdentityRefused):
                opened(note, NAME, public)


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "x" * LONGEST_NOTE_BYTES + "\n"])
def test_a_text_that_would_not_open_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match="note"):
        resigned(text)


def test_refusals_hold_nothing_of_what_a_stranger_wrote() -> None:
    for note in (
        TEXT + "\n" + BROKEN,
        "poison",
        f"poison\n\n{LINE}",
        resigned("poison\n"),
        resigned(f"poison\nx\n{ROOT}\n"),
    ):
        with pytest.raises((IdentityRefused, CheckpointInvalid)) as caught:
            opened(note, NAME, PUBLIC)
        assert "poison" not in str(caught.value)
        assert caught.value.__cause__ is None
