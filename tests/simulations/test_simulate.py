"""A simulated federation repeats bit for bit, keeps its promise, learns, and refuses what can't run at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

from federation.plan import Plan, Scalar
from federation.promise import round_mechanism
from federation.reading import read_plan
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.accountant import epsilon
from privacy.errors import DataInvalid, ModelUnsupported, PlanInvalid
from server.records import Observer, RoundRecord
from simulations.scenarios.breast_cancer import task as breast_cancer
from simulations.scenarios.catalogue import scenario
from simulations.simulate import Options, Result, simulate
from simulations.simulated_federation import public_size
from tests.client_builders import PLAIN, PRIVATE, GivenTask, plan


def two_columns(seed: int, count: int = 40) -> Rows:
    """Records whose first column tells their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    inputs = torch.randn(count, 2, generator=generator)
    inputs[:, 0] += 4.0 * labels - 2
    return Rows(fields={"x": inputs, "y": labels})


class Dropping(GivenTask):
    """A small network with dropout, and noise on its batches."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Linear(8, 2)))

    def augment(self, batch: Rows, generator: torch.Generator) -> Rows:
        return batch.replace(x=batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator))


SITES = [two_columns(seed) for seed in range(5)]
TASK = GivenTask(lambda: nn.Linear(2, 2))


def simulated(changes: dict[str, Scalar], options: Options | None = None, sites: Sequence[Rows] = SITES) -> Result:
    agreed = plan({**PRIVATE, "rounds": 3, "training.sample_rate": 0.5, "training.steps": 2, **changes})
    return simulate(Dropping(), agreed, sites, options)


def facts(result: Result) -> list[RoundRecord]:
    """The rounds without what a clock says."""
    return [replace(record, seconds={}) for record in result.rounds]


def same(first: Result, second: Result) -> bool:
    return first.run.vector.tobytes() == second.run.vector.tobytes() and facts(first) == facts(second)


@pytest.mark.parametrize("unit", ["record", "none"])
def test_two_runs_of_one_seed_are_the_same_bit_for_bit(unit: str) -> None:
    first = simulated({"privacy.unit": unit})
    torch.rand(3)  # whatever the process drew in between
    second = simulated({"privacy.unit": unit})
    assert same(first, second)
    assert first.sites == second.sites


def test_another_seed_gives_another_run() -> None:
    assert not np.isin(simulated({"seed": 1}).run.vector, simulated({"seed": 2}).run.vector).any()


def test_another_seed_gives_other_noise_where_all_else_is_the_same() -> None:
    marked = [Rows(fields=rows.fields, held_out=torch.arange(len(rows)) % 4 == 0) for rows in SITES]
    vectors = [simulate(TASK, plan({**PRIVATE, "seed": seed}), marked).run.vector for seed in (1, 2)]
    assert not np.isin(*vectors).any()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_two_workers_give_what_one_gives(share: float) -> None:
    alone, together = (simulated({"cohort.share": share}, Options(workers=workers)) for workers in (1, 2))
    assert same(alone, together)


class FrozenBase(Dropping):
    """A random frozen layer under a trainable one."""

    def model(self) -> nn.Module:  # drawn from torch's generator, as a user's task does
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return model


def test_frozen_weights_are_the_same_at_sites_judge_and_result() -> None:
    agreed = plan({**PRIVATE, "rounds": 2})
    first = simulate(FrozenBase(), agreed, SITES)
    torch.rand(3)
    second = simulate(FrozenBase(), agreed, SITES, Options(workers=2))
    assert same(first, second)
    assert all(
        torch.equal(one, other) for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True)
    )


def test_the_model_that_is_given_out_is_the_one_that_was_judged() -> None:
    result = simulated({"privacy.unit": "none"})
    held_out = torch.cat([rows["x"] for rows in SITES]), torch.cat([rows["y"] for rows in SITES])
    assert not result.model.training
    everything = (result.model(held_out[0]).argmax(dim=1) == held_out[1]).double().mean()
    assert float(everything) == pytest.approx(result.rounds[-1].figures["accuracy"], abs=0.1)


def test_rounds_are_labelled_as_what_only_a_simulator_can_see() -> None:
    for record in simulated({}).rounds:
        assert record.figures_source == "simulation only"
        assert record.seeded


def test_rows_may_be_given_site_by_site() -> None:
    result = simulated({"privacy.unit": "none", "training.learning_rate": 0.5, "rounds": 8})
    assert [site.site for site in result.sites] == [f"site-{index}" for index in range(5)]
    assert result.rounds[-1].figures["accuracy"] > 0.9


def test_a_task_may_bring_the_rows_of_each_site() -> None:
    class Bringing(Dropping):
        def rows(self, site: SiteInfo) -> Rows:
            return two_columns(site.index)

    agreed = plan({**PRIVATE, "rounds": 2})
    assert same(simulate(Bringing(), agreed, 5), simulate(Dropping(), agreed, SITES))


class Unread(GivenTask):
    """Records that nobody may ask for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(lambda: model)

    def rows(self, site: SiteInfo) -> Rows:
        raise AssertionError("records were read")


def test_fewer_sites_than_the_quorum_are_refused_at_once() -> None:
    with pytest.raises(PlanInvalid, match="quorum is 4, but only 3 sites"):
        simulate(Unread(nn.Linear(2, 2)), plan({**PRIVATE, "cohort.quorum": 4}), 3)


def test_a_model_that_mixes_records_is_refused_before_anything_is_loaded() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(ModelUnsupported, match="1 is BatchNorm1d"):
        simulate(Unread(model), plan(PRIVATE), 3)


def test_the_same_model_trains_where_the_plan_protects_nobody() -> None:
    task = GivenTask(lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    assert simulate(task, plan(PLAIN), SITES).run.ended == "all planned rounds are done"


def test_a_plan_that_contradicts_itself_is_refused_at_once() -> None:
    agreed = plan(PRIVATE)
    wrong = agreed.model_copy(update={"aggregation": agreed.aggregation.model_copy(update={"rule": "krum"})})
    with pytest.raises(PlanInvalid, match="krum"):
        simulate(Unread(nn.Linear(2, 2)), wrong, 3)


def test_sites_that_hold_nothing_out_are_refused() -> None:
    rows = [Rows(fields=one.fields, held_out=torch.zeros(len(one), dtype=torch.bool)) for one in SITES]
    with pytest.raises(DataInvalid, match="holds out"):
        simulate(TASK, plan(PRIVATE), rows)


# The promise


def test_epsilon_never_passes_the_plans_and_is_the_accountants() -> None:
    agreed = plan({"rounds": 4, "privacy.epsilon": 2.0, "training.sample_rate": 0.5, "training.steps": 2})
    result = simulate(TASK, agreed, SITES)
    mechanism = round_mechanism(agreed)
    for record in result.rounds:
        spent = epsilon([mechanism] * record.round, agreed.privacy.delta)
        assert set(record.epsilon.values()) == {spent}
        assert len(record.epsilon) == 5
        assert spent <= 2.0
    assert result.rounds[-1].epsilon["site-0"] > 1.99  # calibrated to the budget, not far below
    assert [site.epsilon for site in result.sites] == list(result.rounds[-1].epsilon.values())


def test_sites_refuse_the_round_that_their_budget_does_not_cover_and_the_run_says_so() -> None:
    agreed = plan({"rounds": 9, "privacy.epsilon": 2.0, "privacy.rounds_per_site": 2})
    result = simulate(TASK, agreed, SITES)
    assert len(result.rounds) == 3
    assert {refused.error for refused in result.rounds[2].refused} == {"BudgetExhausted"}
    assert result.run.ended == "no site has privacy budget left for another round"
    assert all(site.rounds == 2 for site in result.sites)
    assert max(result.rounds[2].epsilon.values()) <= 2.0


def test_a_run_without_privacy_has_no_epsilon() -> None:
    result = simulate(TASK, plan({**PLAIN, "rounds": 2}), SITES)
    assert all(record.epsilon == {} for record in result.rounds)
    assert all(site.epsilon is None for site in result.sites)
    assert [row["epsilon_largest"] for row in result.rows()] == [None, None]


def test_a_private_model_learns_breast_cancer() -> None:
    settings = {**scenario("breast-cancer").settings, "rounds": 8, "hardware.device": "cpu"}
    result = simulate(breast_cancer, read_plan(settings), 8)
    assert result.rounds[-1].figures["accuracy"] > 0.85
    assert max(result.rounds[-1].epsilon.values()) <= 3.0


def test_a_site_declares_its_size_to_two_digits_only() -> None:
    assert [public_size(records) for records in (0, 7, 99, 104, 1251, 98765)] == [1, 7, 99, 100, 1300, 99000]


# What comes out


def test_rounds_are_rows_for_pandas() -> None:
    frame = pandas.DataFrame(simulated({}).rows())
    assert frame["round"].tolist() == [1, 2, 3]
    assert {"accuracy", "loss", "epsilon_largest", "seconds", "bytes_up"} <= set(frame.columns)
    assert (frame["answered"] == 5).all()
    assert frame["epsilon_largest"].is_monotonic_increasing


def test_a_run_is_written_where_options_say_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert simulated({}).folder is None
    assert list(tmp_path.iterdir()) == []
    written = simulated({}, Options(out=tmp_path / "runs"))
    assert written.folder is not None
    assert (written.folder / "rounds.jsonl").is_file()
    assert written.folder.parent == tmp_path / "runs"


def test_writing_and_watching_do_not_change_the_result(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watcher(Observer):
        def round_finished(self, record: RoundRecord) -> None:
            seen.append(record.round)

    assert same(simulated({}), simulated({}, Options(out=tmp_path, observers=(Watcher(),))))
    assert seen == [1, 2, 3]


def test_plain_metrics_of_sites_are_the_simulators_own_figures() -> None:
    """The same model, summed at sites over messages and judged on the pooled records."""
    seen_by_simulator = simulated({"metrics": "none"}).rounds[-1]
    summed_at_sites = simulated({"metrics": "plain"}).rounds[-1]
    assert summed_at_sites.figures == pytest.approx(dict(seen_by_simulator.figures))
    assert summed_at_sites.figures_source == "plain sums from sites"


def test_torch_keeps_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    simulated({})
    assert torch.get_num_threads() == before


def test_a_task_that_fails_at_one_site_costs_that_site_only() -> None:
    class Failing(Dropping):
        def loss(self, model: nn.Module, batch: Rows) -> Tensor:
            if len(batch) and bool((batch["x"][:, 0] > 50).any()):
                raise RuntimeError("a record of Mrs Doe")
            return super().loss(model, batch)

    far = SITES[0].replace(x=SITES[0]["x"] + 100)
    task: Task = Failing()
    agreed: Plan = plan({**PRIVATE, "rounds": 2})
    result = simulate(task, agreed, [far, *SITES[1:]])
    assert [len(record.answered) for record in result.rounds] == [4, 4]
    for record in result.rounds:
        assert [(refused.site, refused.error) for refused in record.refused] == [("site-0", "SiteFailed")]
        assert "Doe" not in str(record)
