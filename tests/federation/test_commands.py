"""What `fedseal plan check` and a simulation say a plan promises: who can read what, without a flattering word."""

from __future__ import annotations

import pytest

from federation.commands import promise_lines
from federation.plan import Scalar
from tests.client_builders import plan

ENCRYPTED: dict[str, Scalar] = {"encryption.scheme": "bfv", "rounds": 1, "privacy.noise_multiplier": 1.0}
CKKS: dict[str, Scalar] = {**ENCRYPTED, "encryption.scheme": "ckks"}
WITHOUT_PRIVACY: dict[str, Scalar] = {"privacy.unit": "none"}
NOT_ENCRYPTED = "[yellow]encryption.scheme = none: the server reads every update, and the model[/]"


@pytest.mark.parametrize("privacy", [{}, WITHOUT_PRIVACY], ids=["private", "without privacy"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ENCRYPTED, "updates leave sites encrypted (BFV, 16 bits a value); the server reads none, nor the model"),
        (
            {**ENCRYPTED, "encryption.bits": 14},
            "updates leave sites encrypted (BFV, 14 bits a value); the server reads none, nor the model",
        ),
        (
            {**ENCRYPTED, "release": "server"},
            "updates leave sites encrypted (BFV, 16 bits a value); the server reads none, but gets the last model",
        ),
        (
            CKKS,
            "[yellow]decrypted CKKS sums can give the key away (Li and Micciancio 2021): sites must keep them[/]",
        ),
        ({**ENCRYPTED, "encryption.scheme": "none"}, NOT_ENCRYPTED),
        ({**ENCRYPTED, "encryption.scheme": "none", "release": "sites"}, NOT_ENCRYPTED),
        ({**ENCRYPTED, "encryption.scheme": "none", "release": "server"}, NOT_ENCRYPTED),
    ],
)
def test_a_plans_last_line_says_who_can_read_what(
    settings: dict[str, Scalar], privacy: dict[str, Scalar], says: str
) -> None:
    assert promise_lines(plan({**settings, **privacy}))[-1] == says


def test_ckks_keeps_updates_and_model_from_the_server_and_says_so() -> None:
    assert "updates leave sites encrypted (CKKS, no range); the server reads none, nor the model" in promise_lines(
        plan(CKKS)
    )


def test_a_rehearsal_in_sizes_is_never_called_encrypted() -> None:
    said = promise_lines(plan({**ENCRYPTED, "encryption.simulate": "sizes"}))
    assert "NOTHING is encrypted, the server could read every update" in said[-1]
    assert not [line for line in said if "leave sites encrypted" in line]
