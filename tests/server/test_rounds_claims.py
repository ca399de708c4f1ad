"""What sites say of themselves, names, sizes, noise and updates, moves the run no further than the plan lets it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from flwr.app import Message

from federation.promise import round_mechanism
from privacy.accountant import epsilon
from tests.client_builders import PLAIN, PRIVATE, Vector, plan
from tests.server_builders import HASTY, LEDGERS, moved, order_of, refused, run, sent, start


def test_two_nodes_of_one_name_get_different_names() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, site="north")]

    result = run(answer, plan({**PLAIN, "rounds": 2}), nodes=3)
    names = ("north", "north (node 2)", "north (node 3)")
    assert [record.answered for record in result.rounds] == [names, names]
    assert [(site.site, site.rounds) for site in result.sites] == [(name, 2) for name in names]


@pytest.mark.parametrize("name", ["north (node 3)", "node 3", ""])
def test_a_site_can_not_take_the_name_that_the_server_would_give_to_another(name: str) -> None:
    claims = {1: name, 2: "north", 3: "north"}

    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, site=claims[node])]

    result = run(answer, plan({**PLAIN, "rounds": 2}), nodes=3)
    assert len(set(result.rounds[0].answered)) == 3
    assert [site.rounds for site in result.sites] == [2, 2, 2]


def test_a_site_that_was_silent_before_it_gave_its_name_is_one_site() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        silent = node == 1 and order_of(message).address.round == 1
        return [] if silent else [sent(message, 1.0)]

    result = run(answer, plan(HASTY), nodes=3)
    found = [(site.site, site.rounds, site.refusals) for site in result.sites]
    assert found == [("site-1", 1, 1), ("site-2", 2, 0), ("site-3", 2, 0)]


def test_declared_weights_are_capped_and_silence_counts_one() -> None:
    declared = {1: 10**9, 2: 300, 3: 0}

    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, float(node), declared_rows=declared[node])]

    agreed = plan({**PLAIN, "aggregation.weights": "declared", "aggregation.weight_cap": 1000})
    result = run(answer, agreed, nodes=3)
    expected = np.average([1.0, 2.0, 3.0], weights=[1000, 300, 1])
    assert moved(result) == pytest.approx([expected] * 4, abs=1e-6)
    assert [site.declared_rows for site in result.sites] == [10**9, 300, 0]


def test_the_first_declaration_counts_in_every_round() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        later = order_of(message).address.round > 1
        return [sent(message, float(node), declared_rows=1000 if node == 2 and later else 1)]

    result = run(answer, plan({**PLAIN, "rounds": 2, "aggregation.weights": "declared"}), nodes=2)
    assert moved(result) == pytest.approx([3.0] * 4, abs=1e-6)  # the plain mean of 1 and 2, twice


def test_declarations_weigh_nothing_where_weights_are_uniform() -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, float(node), declared_rows=node * 1000)]

    assert moved(run(answer, plan(PLAIN), nodes=3)) == pytest.approx([2.0] * 4, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregation.rule": "median"},
        {"aggregation.rule": "trimmed-mean", "aggregation.trimmed_share": 0.2},
        {"aggregation.rule": "krum", "cohort.quorum": 5},
    ],
)
def test_a_robust_rule_holds_against_a_poisoning_site(settings: dict[str, float | str]) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1e8 if node == 3 else 1.0 + node / 100)]

    result = run(answer, plan({**PLAIN, **settings}), nodes=5)
    assert all(1.0 < value < 1.1 for value in moved(result))
    assert max(moved(run(answer, plan(PLAIN), nodes=5))) > 1e7  # the mean does not


def test_epsilon_is_counted_by_site_as_the_ledgers_of_admitted_reports_show_it() -> None:
    agreed = plan({**PRIVATE, "rounds": 3})
    mechanism = round_mechanism(agreed)

    def answer(node: int, message: Message) -> list[Message]:
        absent = node == 2 and order_of(message).address.round == 2
        return [refused(message) if absent else sent(message, 1.0, mechanism=mechanism)]

    result = run(answer, agreed, nodes=3)
    delta = agreed.privacy.delta
    one, two, three = (epsilon([mechanism] * rounds, delta) for rounds in (1, 2, 3))
    assert one < two < three
    assert result.rounds[0].epsilon == {"site-1": one, "site-2": one, "site-3": one}
    assert result.rounds[1].epsilon == {"site-1": two, "site-2": one, "site-3": two}
    assert [site.epsilon for site in result.sites] == [three, two, three]


def test_a_round_that_failed_after_it_was_reserved_is_counted_as_soon_as_its_site_reports() -> None:
    agreed = plan({**PRIVATE, "rounds": 3})
    mechanism = round_mechanism(agreed)

    def answer(node: int, message: Message) -> list[Message]:
        if node == 2 and order_of(message).address.round == 2:
            LEDGERS.reserve(node, order_of(message), mechanism)
            return [refused(message, "SiteFailed")]
        return [sent(message, 1.0, mechanism=mechanism)]

    result = run(answer, agreed, nodes=3)
    delta = agreed.privacy.delta
    one, two, three = (epsilon([mechanism] * rounds, delta) for rounds in (1, 2, 3))
    assert [record.epsilon["site-2"] for record in result.rounds] == [one, one, three]
    assert [record.epsilon["site-1"] for record in result.rounds] == [one, two, three]
    assert [(site.rounds, site.epsilon) for site in result.sites] == [(3, three), (2, three), (3, three)]


@pytest.mark.parametrize("seeded", [True, False])
def test_a_round_says_whether_any_noise_came_from_a_seed(seeded: bool) -> None:
    def answer(node: int, message: Message) -> list[Message]:
        return [sent(message, 1.0, seeded=seeded and node == 2)]

    assert run(answer, plan(PLAIN)).rounds[0].seeded is seeded


def test_rounds_start_from_the_model_of_the_round_before() -> None:
    seen: dict[int, list[Vector]] = defaultdict(list)

    def answer(node: int, message: Message) -> list[Message]:
        seen[order_of(message).address.round].append(order_of(message).vector)
        return [sent(message, 0.25)]

    result = run(answer, plan({**PLAIN, "rounds": 3}), nodes=2)
    first = start(result.plan)
    for number, vectors in seen.items():
        assert vectors[0].tolist() == vectors[1].tolist()
        assert vectors[0] == pytest.approx(first + 0.25 * (number - 1), abs=1e-6)
