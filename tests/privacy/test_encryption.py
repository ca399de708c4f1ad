"""Encrypted sums: exact up to the last site, refused beyond, fresh for every call, and only for who has the key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal
from numpy.typing import NDArray

from privacy.ciphertext_sum import CiphertextSum, _RingSum
from privacy.encryption import decrypt_numbers, decrypt_vector, encrypt_numbers, encrypt_vector
from privacy.encryption_parameters import COEFFICIENT_MODULUS, RING_DEGREE, Encryption
from privacy.errors import DuplicateReport, MalformedCiphertext, TooManySites, ValueTooLarge
from privacy.frames import MOST_CIPHERTEXTS, Wire
from privacy.noise import RandomStream
from privacy.packing import Quantiser
from privacy.secret import Secret
from tests.privacy.encryption_builders import (
    ABOUT,
    KEY,
    OTHER_KEY,
    encryption,
    mean_of,
    numbered,
    scale,
    summed,
    uploads,
)

BITS = [12, 14, 16, 24]


def vectors(sites: int, length: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (sites, length)).astype(np.float32)


def test_the_modulus_is_seals_own() -> None:
    (modulus,) = seal.CoeffModulus.Create(RING_DEGREE, [60])
    assert modulus.value() == COEFFICIENT_MODULUS


@pytest.mark.parametrize(
    ("bits", "scheme", "most"), [(12, "bfv", 65), (14, "bfv", 4161), (16, "sizes", 65), (16, "ckks", 4161)]
)
def test_how_many_sites_a_sum_takes_follows_from_the_noise(bits: int, scheme: str, most: int) -> None:
    used = encryption(bits, scheme)
    assert used.most_sites == most
    assert most * 31.5 < COEFFICIENT_MODULUS / (2 * used.number_modulus) < (most + 1) * 31.5


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_cohort_at_its_worst_sums_bit_for_bit(bits: int) -> None:
    """All sites at the ends of their range, whatever the noise of their ciphertexts: the integer sums themselves."""
    used, sites = encryption(bits), min(encryption(bits).most_sites, 66)
    rng = np.random.default_rng(bits)
    rows = rng.choice(np.array([-1, 1], np.float32), (sites, 50))
    rows[:, 0], rows[:, 1] = 1, -1
    weights = rng.dirichlet(np.ones(sites)).tolist()
    exact = sum(
        Quantiser(packing=used.packing, scale=scale(50, sites, w)).encode(row, 0)
        for row, w in zip(rows, weights, strict=True)
    )
    decoded = Quantiser(packing=used.packing, scale=scale(50, sites)).decode(np.asarray(exact), 0)
    frames = summed(used, uploads(used, rows, weights), 50)
    assert decrypt_vector(used, frames, 50, scale(50, sites), KEY, ABOUT).tolist() == decoded.tolist()


@pytest.mark.parametrize(("bits", "sites"), [(16, 65), (14, 4161)])
def test_noise_that_never_cancels_stays_below_the_bound(bits: int, sites: int) -> None:
    """One ciphertext as often as there may be sites: its errors add up, where those of many would cancel."""
    used, numbers = encryption(bits), np.arange(-2048, 2048)
    wire = Wire(encryption=used, length=4096, whole=True)
    (frame,) = encrypt_numbers(used, numbers, KEY, numbered(0))
    total = _RingSum(used.numbers.modulus_bits)
    for _ in range(sites):
        total.add(*wire.read_upload(frame))
    frames = (wire.sum(ABOUT, 0, *total.polynomials()),)
    assert decrypt_numbers(used, frames, 4096, KEY, ABOUT).tolist() == (numbers * sites).tolist()


def test_whole_numbers_of_the_largest_cohort_sum_bit_for_bit_at_their_ends() -> None:
    used = encryption()
    end = used.largest_number // used.most_sites
    rows = np.array([[end, -end, 0, 1, -1]] * used.most_sites, np.int64)
    parts = [encrypt_numbers(used, row, KEY, numbered(place)) for place, row in enumerate(rows)]
    found = decrypt_numbers(used, summed(used, parts, 5, whole=True), 5, KEY, ABOUT)
    assert found.tolist() == rows.sum(axis=0).tolist()


def test_one_site_more_than_the_noise_allows_is_a_hard_error_and_changes_nothing() -> None:
    used = encryption()
    total = CiphertextSum(used, ABOUT, 3, whole=True)
    parts = [encrypt_numbers(used, np.array([1, 2, 3]), KEY, numbered(place)) for place in range(66)]
    for place in range(65):
        total.add(f"site-{place}", parts[place])
    before = total.frames()
    with pytest.raises(TooManySites, match="holds 65 parts"):
        total.add("site-65", parts[65])
    assert total.frames() == before
    assert decrypt_numbers(used, before, 3, KEY, ABOUT).tolist() == [65, 130, 195]


def test_a_sites_second_part_is_refused() -> None:
    used = encryption()
    total = CiphertextSum(used, ABOUT, 1, whole=True)
    total.add("site-0", encrypt_numbers(used, np.array([1]), KEY, numbered(0)))
    with pytest.raises(DuplicateReport):
        total.add("site-0", encrypt_numbers(used, np.array([1]), KEY, numbered(0)))


def test_a_part_of_which_one_frame_is_bad_leaves_the_sum_as_it_was() -> None:
    used, length = encryption(12), RING_DEGREE * 4 * MOST_CIPHERTEXTS + 1
    total = CiphertextSum(used, ABOUT, length, whole=False)
    first, second = uploads(used, np.zeros((2, length), np.float32), [0.5, 0.5])
    total.add("site-0", first)
    before = total.frames()
    assert len(second) == 2
    with pytest.raises(MalformedCiphertext):
        total.add("site-1", (second[0], second[1][:-1]))
    assert total.frames() == before


@pytest.mark.parametrize("bits", BITS)
def test_the_decrypted_mean_is_numpys_within_the_stated_step(bits: int) -> None:
    rows = vectors(10, 20_000)
    step = 1.0 / encryption(bits).packing.largest(10, stochastic=False)
    assert np.abs(mean_of(encryption(bits), rows) - rows.astype(np.float64).mean(axis=0)).max() <= 5 * step


def test_ckks_is_near_the_mean_without_a_range() -> None:
    rows = vectors(5, 9000) * np.float32(1000)
    assert np.abs(mean_of(encryption(scheme="ckks"), rows) - rows.astype(np.float64).mean(axis=0)).max() < 1e-6


def test_ckks_refuses_what_it_can_not_carry() -> None:
    huge = np.array([1.0, 3e5], np.float32)
    with pytest.raises(ValueTooLarge, match="beyond what its encryption carries"):
        encrypt_vector(encryption(scheme="ckks"), huge, scale(2, 3), KEY, numbered(0))


def test_ckks_sums_values_at_their_largest_and_none_beyond() -> None:
    used, edge = encryption(scheme="ckks"), np.float32(2**17)
    rows = np.full((5, 6), edge, np.float32)
    assert np.abs(mean_of(used, rows) - float(edge)).max() < 1e-4
    with pytest.raises(ValueTooLarge):  # each part would fit, their sum would wrap around the modulus
        uploads(used, rows * np.float32(5), [0.2] * 5)


@pytest.mark.parametrize("scheme", ["bfv", "ckks", "sizes"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_encrypted(scheme: str, bad: float) -> None:
    with pytest.raises(ValueTooLarge, match="holds NaN, or a value beyond"):
        encrypt_vector(encryption(scheme=scheme), np.array([0.5, bad], np.float32), scale(2, 3), KEY, numbered(0))


def test_sizes_are_those_of_ciphertexts_and_results_those_of_the_arithmetic() -> None:
    rows, earnest, rehearsed = vectors(4, 30_000), encryption(), encryption(scheme="sizes")
    assert mean_of(earnest, rows).tobytes() == mean_of(rehearsed, rows).tobytes()
    sizes = [[len(frame) for frame in uploads(used, rows[:1], [1.0])[0]] for used in (earnest, rehearsed)]
    assert sizes[0] == sizes[1]


def test_an_upload_is_smaller_than_the_float32_values() -> None:
    rows = vectors(1, 1_000_000)
    sent = sum(map(len, uploads(encryption(), rows, [1.0])[0]))
    assert sent <= 0.60 * 4_000_000


def test_equal_plaintexts_never_make_equal_ciphertexts() -> None:
    made = [encrypt_numbers(encryption(), np.array([7]), KEY, numbered(0))[0] for _ in range(50)]
    bodies = {frame[128:-64] for frame in made}
    seeds = {frame[-64:] for frame in made}
    assert len(bodies) == len(seeds) == 50


def test_forked_children_draw_randomness_of_their_own() -> None:
    used = encryption()
    encrypt_numbers(used, np.array([7]), KEY, numbered(0))  # SEAL's objects are there before the fork
    pipes = [os.pipe() for _ in range(4)]
    for reading, writing in pipes:
        if os.fork() == 0:
            frame = encrypt_numbers(used, np.array([7]), KEY, numbered(0))[0]
            os.close(reading)
            with os.fdopen(writing, "wb") as stream:
                stream.write(frame)
            os._exit(0)
        os.close(writing)
    frames = []
    for reading, _ in pipes:
        with os.fdopen(reading, "rb") as stream:
            frames.append(stream.read())
    for _ in pipes:
        os.wait()
    assert len({frame[128:-64] for frame in frames}) == 4
    for frame in frames:
        assert decrypt_numbers(used, summed(used, [(frame,)], 1, whole=True), 1, KEY, ABOUT).tolist() == [7]


def test_the_same_secret_makes_the_same_key_in_another_process() -> None:
    program = (
        "import sys, numpy as np\n"
        "from privacy.encryption import encrypt_numbers\n"
        "from tests.privacy.encryption_builders import KEY, encryption, numbered\n"
        "sys.stdout.buffer.write(encrypt_numbers(encryption(), np.array([41, 1]), KEY, numbered(0))[0])\n"
    )
    frame = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=Path.cwd()).stdout
    found = decrypt_numbers(encryption(), summed(encryption(), [(frame,)], 2, whole=True), 2, KEY, ABOUT)
    assert found.tolist() == [41, 1]


def test_another_key_reads_nothing() -> None:
    used = encryption()
    frames = summed(used, [encrypt_numbers(used, np.arange(100), KEY, numbered(0))], 100, whole=True)
    found = decrypt_numbers(used, frames, 100, OTHER_KEY, ABOUT)
    assert np.count_nonzero(found == np.arange(100)) < 5
    assert np.abs(found).max() > 2**40


def test_what_rounding_left_out_is_handed_back() -> None:
    values = np.array([0.1, -0.20001, 5.0], np.float32)
    made = encrypt_vector(encryption(12), values, scale(3, 3, 0.25), KEY, numbered(0), residual=True)
    step = 1.0 / encryption(12).packing.largest(3, stochastic=False)
    assert made.clipped == 1
    assert made.residual is not None
    assert np.abs(made.residual[:2]).max() <= step / 2 / 0.25 * 1.001
    assert made.residual[2] == pytest.approx(4.0, abs=step / 0.25)


def test_rounding_by_chance_draws_from_the_stream_it_is_given() -> None:
    values = np.full(1000, 0.37, np.float32)
    stream = RandomStream.from_seed(3, "rounding")
    made = encrypt_vector(
        encryption(12), values, scale(1000, 3, 0.25, stochastic=True), KEY, numbered(0), stream=stream
    )
    frames = summed(encryption(12), [made.frames], 1000)
    found = decrypt_vector(encryption(12), frames, 1000, scale(1000, 3, stochastic=True), KEY, ABOUT)
    assert len(set(found.tolist())) == 2
    assert found.mean() == pytest.approx(0.37 * 0.25, abs=1e-4)


def test_several_processes_make_what_one_makes_and_write_nothing_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "a file"  # whoever makes a temporary file below it fails
    nowhere.touch()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(nowhere))
    used, length = encryption(12), 3 * RING_DEGREE * 4 * MOST_CIPHERTEXTS + 5
    values = vectors(1, length)[0]
    made = encrypt_vector(used, values, scale(length, 1), KEY, numbered(0), processes=2)
    frames = summed(used, [made.frames], length)
    found = decrypt_vector(used, frames, length, scale(length, 1), KEY, ABOUT, processes=2)
    assert len(made.frames) == 4
    assert np.abs(found - values).max() <= 1.0 / used.packing.largest(1, stochastic=False)


def test_a_vector_of_two_frames_is_cut_where_its_wire_says() -> None:
    used, length = encryption(16), RING_DEGREE * 3 * MOST_CIPHERTEXTS + 7
    rows = vectors(3, length)
    assert Wire(encryption=used, length=length, whole=False).blocks == [MOST_CIPHERTEXTS, 1]
    assert np.abs(mean_of(used, rows) - rows.astype(np.float64).mean(axis=0)).max() < 1e-4


def test_a_key_shows_itself_nowhere() -> None:
    assert "0x" not in repr(Secret(KEY.reveal()))
    assert KEY.reveal().hex() not in repr(Encryption.of("bfv", 16))
