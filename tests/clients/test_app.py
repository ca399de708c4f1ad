"""What leaves a site when something fails: a refusal with the error's name, and nothing of a record."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from clients.app import client_app, site_from_context
from clients.site import Site
from federation.layout import Layout
from federation.messages import read_report, write_order
from federation.orders import Expectation, Refusal, TrainReport
from federation.plan import Plan, Scalar
from federation.promise import round_mechanism
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.errors import (
    DataInvalid,
    FedSealError,
    KeyRefused,
    LedgerCorrupt,
    LedgerRolledBack,
    StorageBusy,
    StorageFailed,
)
from privacy.ledger import Ledger
from privacy.ledger_rows import MemoryRows
from simulations.engine import InProcessGrid
from tests.client_builders import PRIVATE, DotTask, Untouchable, dots, ledger_of, order, plan, releases, site

SECRET = "Mrs Jane Doe, HIV positive"
TEN = dots(*[1.0] * 10)


def answers(
    task: Task, agreed: Plan, contents: list[RecordDict], kind: str = MessageType.TRAIN, ledger: Ledger | None = None
) -> tuple[list[Message], Ledger]:
    """What one site answers to these messages, one after the other, and its ledger."""
    kept = ledger or ledger_of()
    node_config: dict[str, Scalar] = {"site-name": "north"}
    grid = InProcessGrid(client_app(lambda _: site(task, agreed, ledger=kept)), 1, lambda _: node_config, agreed.flat())
    (node,) = grid.get_node_ids()
    return [reply for one in contents for reply in grid.send_and_receive([Message(one, node, kind)])], kept


def read(reply: Message, task: Task, agreed: Plan, number: int = 1) -> TrainReport | Refusal:
    asked = order(task, agreed, number)
    expected = Expectation(
        address=asked.address, layout=Layout.of(task.model()), prices={"update": round_mechanism(agreed)}
    )
    return read_report(reply.content, expected)


def everything(reply: Message) -> str:
    """All that a server could read of a reply."""
    return f"{reply.metadata} {reply.content if reply.has_content() else ''} {reply.error if reply.has_error() else ''}"


class Quoting(DotTask):
    """Fails with an error that quotes a record, as a parser does."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def rows(self, site: SiteInfo) -> Rows:
        raise self._error


class Leak(Exception):
    """An error of a user's task."""


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), Leak(SECRET), OSError(2, SECRET, SECRET)])
def test_an_unexpected_error_that_quotes_a_record_never_leaves_the_site(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    agreed, task = plan(PRIVATE), Quoting(error)
    with caplog.at_level(logging.ERROR):
        (reply,), _ = answers(task, agreed, [write_order(order(task, agreed))])
    assert not reply.has_error()
    assert "Jane" not in everything(reply)
    assert read(reply, task, agreed) == Refusal(
        site="north", error="SiteFailed", reason="the site failed; the details are in its own log"
    )
    assert "Jane" in caplog.text  # the site's engineer can read it


def test_an_error_that_names_the_sites_files_stays_in_the_sites_log(caplog: pytest.LogCaptureFixture) -> None:
    agreed, task = plan(PRIVATE), Quoting(DataInvalid("/srv/oncology/doe.csv has no column 'outcome'"))
    with caplog.at_level(logging.WARNING):
        (reply,), _ = answers(task, agreed, [write_order(order(task, agreed))])
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "DataInvalid"
    assert "oncology" not in everything(reply)
    assert "oncology" in caplog.text


def test_an_error_while_the_site_is_found_is_a_refusal_too() -> None:
    def nowhere(context: Context) -> Site:
        raise RuntimeError(SECRET)

    task, agreed = DotTask(), plan(PRIVATE)
    grid = InProcessGrid(client_app(nowhere), 1, lambda _: {"site-name": "north"}, agreed.flat())
    (reply,) = grid.send_and_receive([Message(write_order(order(task, agreed)), 1000, MessageType.TRAIN)])
    assert "Jane" not in everything(reply)
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.error) == ("north", "SiteFailed")


def test_a_named_refusal_arrives_with_its_reason() -> None:
    agreed, other = plan(PRIVATE), plan({**PRIVATE, "seed": 1})
    task = DotTask(rows=TEN)
    (reply,), _ = answers(task, agreed, [write_order(order(task, other))])
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "OrderRefused"
    assert "the order is under plan" in refusal.reason


def test_a_spent_budget_arrives_as_a_refusal() -> None:
    agreed = plan({"rounds": 4, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 1})
    task = DotTask(rows=TEN)
    replies, ledger = answers(task, agreed, [write_order(order(task, agreed, number)) for number in (1, 2)])
    assert isinstance(read(replies[0], task, agreed, 1), TrainReport)
    refusal = read(replies[1], task, agreed, 2)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "BudgetExhausted"
    assert [release.round for release in releases(ledger)] == [1]


def test_an_evaluation_that_the_plan_does_not_allow_arrives_as_a_refusal() -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    (reply,), _ = answers(task, agreed, [write_order(order(task, agreed))], MessageType.EVALUATE)
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "OrderRefused"


@pytest.mark.parametrize("content", [RecordDict(), write_order(order(DotTask(3), plan(PRIVATE)))])
def test_a_malformed_or_foreign_order_is_refused(content: RecordDict) -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    (reply,), ledger = answers(task, agreed, [content])
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "OrderRefused"
    assert releases(ledger) == []


def test_a_replayed_order_is_refused_and_the_first_answer_is_not_repeated() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 2}), DotTask(rows=TEN)
    wish = write_order(order(task, agreed))
    (first, second), ledger = answers(task, agreed, [wish, wish])
    assert isinstance(read(first, task, agreed), TrainReport)
    refusal = read(second, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "OrderRefused"
    assert len(releases(ledger)) == 1


def test_a_crash_in_training_counts_the_round_in_the_sites_ledger() -> None:
    agreed, task = plan({**PRIVATE, "rounds": 2}), Quoting(MemoryError())
    (reply,), ledger = answers(task, agreed, [write_order(order(task, agreed))])
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert refusal.error == "SiteFailed"
    assert [release.mechanism for release in releases(ledger)] == [round_mechanism(agreed)]


def test_an_honest_round_arrives_as_a_report() -> None:
    agreed, task = plan(PRIVATE), DotTask(rows=TEN)
    (reply,), ledger = answers(task, agreed, [write_order(order(task, agreed))])
    report = read(reply, task, agreed)
    assert isinstance(report, TrainReport)
    assert np.isfinite(report.update).all()
    assert [release.round for release in releases(ledger)] == [1]


class Unreliable(MemoryRows):
    """Rows that can't be read: `error` names the file, as ours do."""

    error: FedSealError | None = None

    def head(self) -> bytes:
        if self.error is not None:
            raise self.error
        return super().head()


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (LedgerCorrupt("/srv/oncology/ledger.db is damaged"), "LedgerCorrupt"),
        (LedgerRolledBack("the anchor /srv/oncology/anchor is missing"), "LedgerRolledBack"),
        (StorageBusy("/srv/oncology/ledger.db is being changed"), "StorageBusy"),
        (StorageFailed("/srv/oncology/ledger.db: disk I/O error"), "DataInvalid"),
        (KeyRefused("/srv/oncology/north.key can't be read"), "DataInvalid"),
    ],
)
@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_ledger_that_can_not_be_relied_on_is_a_refusal_whose_details_stay_in_the_sites_log(
    error: FedSealError, named: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    agreed, rows = plan({**PRIVATE, "metrics": "plain"}), Unreliable()
    task, ledger = Untouchable(), ledger_of(rows=rows)
    rows.error = error
    with caplog.at_level(logging.WARNING):
        (reply,), _ = answers(task, agreed, [write_order(order(task, agreed))], kind, ledger)
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.error) == ("north", named)
    assert "oncology" not in everything(reply)
    assert "oncology" in caplog.text


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_site_whose_node_config_names_no_safe_counts_nothing_and_so_answers_nothing(kind: str) -> None:
    agreed, task = plan({**PRIVATE, "task": "simulations.scenarios.breast_cancer:task"}), DotTask()
    grid = InProcessGrid(client_app(site_from_context), 1, lambda _: {"site-name": "north"}, agreed.flat())
    (reply,) = grid.send_and_receive([Message(write_order(order(task, agreed)), 1000, kind)])
    refusal = read(reply, task, agreed)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.error) == ("north", "OrderRefused")
    assert "keeps no ledger" in refusal.reason
