"""Orders carry checkpoints of ledgers to sites, reports carry receipts back, and what a ledger settles is all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.layout import Layout
from federation.messages import read_order, read_report, write_order, write_report
from federation.orders import Address, Expectation, Order, TrainReport, digest_of_report, digest_of_sums
from federation.wire import shown_with
from privacy.errors import (
    OrderRefused,
)
from privacy.identity import Signer
from privacy.notes import Checkpoint, signed
from privacy.receipts import judged
from privacy.shown import Shown, checked, origin_of
from privacy.witness import MOST_SHOWN
from tests.client_builders import ledger_of

LAYOUT = Layout(names=("weight", "bias"), shapes=((2,), (1,)))
HERE = Address(run="77", round=3, plan="a" * 64, layout=LAYOUT.digest)
VECTOR = np.array([1.0, -2.5, 3e-8], dtype=np.float32)


def shown_by(sites: int) -> tuple[Shown, ...]:
    """Signed checkpoints of that many ledgers."""
    ledgers = [(Signer.create(f"site-{number}"), number) for number in range(sites)]
    return tuple(
        Shown(verifying=signer.verifying, note=checkpoint_of(signer, number + 1)) for signer, number in ledgers
    )


def checkpoint_of(signer: Signer, size: int) -> str:
    origin = origin_of(signer.name, signer.verifying)
    return signed(Checkpoint(origin=origin, size=size, root=bytes(32)), origin, signer.sign_note, signer.verifying)


@pytest.mark.parametrize("sites", [0, 1, 7, MOST_SHOWN])
def test_an_order_shows_the_checkpoints_of_ledgers_that_were_put_in(sites: int) -> None:
    shown = shown_by(sites)
    content = write_order(Order(address=HERE, cohort=5, vector=VECTOR, shown=shown))
    arrived = read_order(content, LAYOUT)
    assert arrived.shown == shown
    assert [checked(each).size for each in arrived.shown] == list(range(1, sites + 1))


def test_orders_of_one_round_share_the_models_vector_and_differ_in_what_they_show() -> None:
    plain, shown = write_order(Order(address=HERE, cohort=5, vector=VECTOR)), shown_by(2)
    orders = [shown_with(plain, part) for part in (shown, shown[:1])]
    assert [read_order(each, LAYOUT).shown for each in orders] == [shown, shown[:1]]
    assert read_order(plain, LAYOUT).shown == ()
    assert all(each["vector"] is plain["vector"] for each in orders)


BROKEN_SHOWN = {
    "no JSON": "{",
    "empty": "",
    "no list": "{}",
    "numbers": "[1]",
    "lone keys": json.dumps([["00" * 32]]),
    "three things": json.dumps([["00" * 32, "note", "more"]]),
    "a key that is no hex": json.dumps([["zz", "note"]]),
    "a key that is a number": json.dumps([[1, "note"]]),
    "nested deeply": "[" * 100_000,
    "too many": json.dumps([["00" * 32, "note"]] * (MOST_SHOWN + 1)),
    "too long": json.dumps([["00" * 32, "x" * (1 << 20)]]),
}


@pytest.mark.parametrize("text", BROKEN_SHOWN.values(), ids=BROKEN_SHOWN)
def test_a_site_refuses_an_order_whose_checkpoints_can_not_be_read(text: str) -> None:
    content = write_order(Order(address=HERE, cohort=5, vector=VECTOR, shown=shown_by(1)))
    content["ledgers"]["ledgers"] = text
    with pytest.raises(OrderRefused, match="can't be read"):
        read_order(content, LAYOUT)


def test_a_receipt_arrives_whole() -> None:
    sent = TrainReport(
        address=HERE,
        site="north",
        update=VECTOR,
        mechanism=None,
        declared_rows=40,
        seeded=True,
        receipt=ledger_of().reveal([0, 1]),
    )
    arrived = read_report(write_report(sent), Expectation(address=HERE, layout=LAYOUT, prices={"update": None}))
    assert isinstance(arrived, TrainReport)
    assert arrived.receipt == sent.receipt
    newest, entries = judged(arrived.receipt, None)
    assert (checked(newest).size, len(entries)) == (2, 2)


def test_a_report_digest_changes_with_everything_that_a_report_says_of_itself() -> None:
    said = [
        digest_of_report(HERE, "north", VECTOR),
        digest_of_report(HERE, "nort", VECTOR),
        digest_of_report(HERE, "north", VECTOR + 1),
        digest_of_report(HERE, "north", VECTOR[:2]),
        *(
            digest_of_report(replace(HERE, **change), "north", VECTOR)  # type: ignore[arg-type]
            for change in ({"run": "78"}, {"round": 4}, {"plan": "b" * 64}, {"layout": "c" * 64})
        ),
        digest_of_sums(HERE, "north", {"count": torch.ones(3)}),
        digest_of_sums(HERE, "north", {"counts": torch.ones(3)}),
        digest_of_sums(HERE, "north", {"count": torch.zeros(3)}),
    ]
    assert len(set(said)) == len(said)
    assert digest_of_report(HERE, "north", VECTOR.astype(">f4")) == said[0]
    both = {"a": torch.ones(1), "b": torch.zeros(1)}
    backwards = dict(reversed(both.items()))
    assert digest_of_sums(HERE, "north", both) == digest_of_sums(HERE, "north", backwards)
