"""Encrypted runs as a whole: the right model, nothing for the server to read, and sites that come, go and forget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from clients.app import client_app
from clients.run_memory import ProcessMemory
from federation.plan import Scalar
from privacy.errors import RunFailed
from server.records import Observer, RoundRecord
from server.rounds import Setup, run_rounds
from simulations.engine import InProcessGrid
from tests.client_builders import Vector
from tests.encrypted_builders import (
    NAMES,
    TASK,
    Federation,
    all_bytes,
    clinics,
    start,
    update_of,
)

STEP = 8.0 / (2**15 - 1 - 2)  # of round 1: range 8, 16 bits, 4 sites


def mean_update(federation: Federation, names: tuple[str, ...], weights: tuple[float, ...] = ()) -> Vector:
    updates = [update_of(federation, name, start(federation)) for name in names]
    return np.average(updates, axis=0, weights=weights or None)


def moved(federation: Federation, place: int = 0) -> Vector:
    return federation.model(place).state.vector - start(federation)


def in_agreement(federation: Federation) -> bool:
    return len({federation.model(place).digest for place in range(len(federation.sites))}) == 1


def test_one_round_moves_every_site_by_the_mean_of_the_updates_within_the_stated_step() -> None:
    federation = clinics(rounds=1)
    result = federation.run()
    assert result.ended == "all planned rounds are done"
    assert in_agreement(federation)
    assert np.abs(moved(federation) - mean_update(federation, NAMES)).max() <= 4 / 2 * STEP
    assert result.vector is None
    assert result.tensors() == {}


def test_the_server_and_the_network_see_neither_an_update_nor_a_model() -> None:
    federation = clinics(rounds=2)
    federation.run()
    updates = [update_of(federation, name, start(federation)) for name in NAMES]
    models = [federation.model(0).state.vector, start(federation), np.mean(updates, axis=0).astype(np.float32)]
    marks = [
        vector.astype("<f4").tobytes()[place : place + 12] for vector in (*updates, *models) for place in (0, 4, 8)
    ]
    passed = [data for _, _, content in federation.network.passed for data in all_bytes(content)]
    assert len(passed) > 30
    assert not any(mark in data for mark in marks for data in passed)
    joined = federation.sites[0].member.memory.read(federation.network.run.run_id.__str__())
    assert joined is not None
    assert joined.joined is not None
    secret = joined.joined.secret.reveal()
    everything = [str(content) for _, _, content in federation.network.passed]
    assert not any(secret in data for data in passed)
    assert not any(secret.hex() in text for text in everything)


@pytest.mark.parametrize("bits", [12, 14, 16, 24])
def test_two_rounds_in_each_precision_come_near_a_run_in_the_clear(bits: int) -> None:
    clear = clinics(encryption__scheme="none")
    grid = InProcessGrid(_plain_app(clear), 4, lambda _: {}, clear.agreed.flat())
    plain = run_rounds(grid, Setup(task=TASK, plan=clear.agreed))
    federation = clinics(encryption__bits=bits)
    federation.run()
    assert plain.vector is not None
    assert np.abs(federation.model(0).state.vector - plain.vector).max() < 40 / 2**bits


def _plain_app(federation: Federation) -> ClientApp:
    return client_app(lambda context: federation.site_of(context).site)


def test_sizes_alone_give_the_very_model_that_encryption_gives() -> None:
    earnest, rehearsal = clinics(), clinics(encryption__simulate="sizes")
    first, second = earnest.run(), rehearsal.run()
    assert earnest.model(0).state.vector.tobytes() == rehearsal.model(0).state.vector.tobytes()
    assert [record.bytes_up for record in first.rounds] == [record.bytes_up for record in second.rounds]


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam", "fedyogi"])
def test_every_optimizer_runs_at_the_sites_which_stay_in_agreement(optimizer: str) -> None:
    federation = clinics(rounds=3, aggregation__optimizer=optimizer, aggregation__iterate_averaging=0.5)
    result = federation.run()
    assert [record.encryption.same_model for record in result.rounds if record.encryption] == [4, 4, 4]
    assert in_agreement(federation)


@pytest.mark.parametrize("rounding", ["stochastic", "error-feedback"])
def test_other_roundings_stay_near_the_mean(rounding: str) -> None:
    federation = clinics(rounds=1, encryption__rounding=rounding)
    federation.run()
    assert np.abs(moved(federation) - mean_update(federation, NAMES)).max() <= 4 * 8.0 / (2**15 - 1 - 4)


def test_error_feedback_makes_up_in_the_next_round_for_what_rounding_left_out() -> None:
    federation = clinics(rounds=1, encryption__rounding="error-feedback", encryption__bits=12, encryption__range=8.0)
    federation.run()
    memory = federation.sites[0].member.memory
    assert isinstance(memory, ProcessMemory)
    assert memory.known is not None
    assert memory.known.residual is not None
    assert 0 < np.abs(memory.known.residual).max() <= 4 / 2 * 8.0 / (2**11 - 1 - 2) * 1.01


def test_ckks_needs_no_range_and_comes_near_the_mean() -> None:
    federation = clinics(rounds=1, encryption__scheme="ckks")
    federation.run()
    assert np.abs(moved(federation) - mean_update(federation, NAMES)).max() < 1e-6


def test_declared_weights_count_and_the_server_need_not_be_trusted_with_them() -> None:
    declared = {"north": 10, "south": 20, "west": 30, "east": 40}
    federation = clinics(declared=declared, rounds=1, aggregation__weights="declared")
    federation.run()
    expected = mean_update(federation, NAMES, tuple(map(float, declared.values())))
    assert np.abs(moved(federation) - expected).max() <= 4 / 2 * STEP


def test_values_beyond_the_range_are_clipped_and_their_share_is_told() -> None:
    federation = clinics(rounds=1, encryption__range=1e-4)
    result = federation.run()
    assert result.rounds[0].encryption is not None
    assert result.rounds[0].encryption.clipped_share > 0.9
    assert np.abs(moved(federation)).max() <= 1.01e-4


def losing(kind: str, place: int, number: int | None = None) -> Callable[[int, str, RecordDict], RecordDict | None]:
    """A network that loses this site's messages of a kind, in one round or in all."""

    def change(node: int, message: str, content: RecordDict) -> RecordDict | None:
        rounds = content["facts"].get("round") if "facts" in content else None  # type: ignore[union-attr]
        lost = (node, message) == (place, kind) and number in (None, rounds)
        return None if lost else content

    return change


def hasty(**changes: Scalar) -> Federation:
    return clinics(cohort__deadline_seconds=0.3, **changes)


def test_a_site_that_drops_out_of_a_round_is_divided_out() -> None:
    federation = hasty(rounds=1)
    result = federation.run(down=losing("train", 3))
    assert result.rounds[0].answered == ("north", "south", "west")
    assert np.abs(moved(federation) - mean_update(federation, NAMES[:3])).max() <= 3 / 2 * STEP * 4 / 3


def test_with_declared_weights_too_a_drop_out_is_divided_out() -> None:
    declared = {"north": 10, "south": 20, "west": 30, "east": 40}
    federation = clinics(declared=declared, rounds=1, aggregation__weights="declared", cohort__deadline_seconds=0.3)
    federation.run(down=losing("train", 3))
    expected = mean_update(federation, NAMES[:3], (10.0, 20.0, 30.0))
    assert np.abs(moved(federation) - expected).max() <= 3 / 2 * STEP * 100 / 60


def test_a_site_that_missed_a_sum_gets_the_model_from_another_before_the_next_round() -> None:
    federation = hasty(rounds=2)
    result = federation.run(down=losing("query.take", 2, 1))
    assert [len(record.answered) for record in result.rounds] == [4, 4]
    assert in_agreement(federation)
    kinds = [kind for kind, _, _ in federation.network.passed]
    assert "query.hand_over" in kinds
    assert "query.receive" in kinds


def test_a_site_that_missed_the_last_sum_gets_the_last_model_before_the_run_ends() -> None:
    federation = hasty(rounds=2)
    federation.run(down=losing("query.take", 0, 2))
    assert in_agreement(federation)
    assert federation.model(0).round == 2


class RoundCounter(Observer):
    """Counts the rounds that are over."""

    def __init__(self) -> None:
        self.over = 0

    def round_finished(self, record: RoundRecord) -> None:
        self.over += 1


def test_a_site_that_comes_late_becomes_a_member_under_a_new_secret_and_gets_the_model() -> None:
    federation, counter = clinics(rounds=3), RoundCounter()
    result = federation.run(online=lambda: range(3 if counter.over == 0 else 4), observers=(counter,))
    assert [len(record.answered) for record in result.rounds] == [3, 4, 4]
    assert in_agreement(federation)
    draws = [kind for kind, _, _ in federation.network.passed if kind == "query.draw"]
    assert len(draws) == 4  # an order and a reply, twice


def test_a_site_that_forgot_the_run_is_asked_anew_and_goes_on() -> None:
    federation = clinics(rounds=3)

    class Forgetting(Observer):
        def round_finished(self, record: RoundRecord) -> None:
            if record.round == 1:
                federation.sites[1].member.memory = ProcessMemory()

    result = federation.run(observers=(Forgetting(),))
    assert [len(record.answered) for record in result.rounds] == [4, 3, 4]
    assert [refused.error for refused in result.rounds[1].refused] == ["NotJoined"]
    assert in_agreement(federation)


def test_fewer_than_three_sites_make_no_encrypted_run() -> None:
    federation = clinics(names=NAMES[:2])
    with pytest.raises(RunFailed, match="2 sites came online"):
        clinics(names=NAMES[:2], cohort__deadline_seconds=0.01).run()
    assert federation.agreed.cohort.quorum == 3


def test_a_server_without_a_certificate_is_told_how_to_get_one() -> None:
    federation = clinics()
    setup = Setup(task=TASK, plan=federation.agreed)
    grid = InProcessGrid(_plain_app(federation), 4, lambda _: {}, federation.agreed.flat())
    with pytest.raises(RunFailed, match="fedseal server init DIR"):
        run_rounds(grid, setup)


def test_the_model_is_released_to_the_server_where_the_plan_says_so() -> None:
    federation = clinics(release="server", aggregation__iterate_averaging=0.5)
    result = federation.run()
    assert result.vector is not None
    assert result.vector.tobytes() == federation.model(0).state.average.tobytes()


def test_private_metrics_reach_the_server_as_a_total_only() -> None:
    private = {"privacy__unit": "record", "privacy__noise_multiplier": 1.0, "privacy__epsilon": 100.0}
    federation = clinics(rounds=1, metrics="private", data__rows_per_site=10, **private)
    result = federation.run()
    assert result.rounds[0].figures_source == "noisy sums from sites"
    assert set(result.rounds[0].figures) == {"accuracy", "loss", "noise"}
    kinds = {kind for kind, _, content in federation.network.passed if "sums" in content}
    assert kinds == set()


def test_exact_metrics_still_leave_in_the_clear_where_plan_and_policy_say_so() -> None:
    federation = clinics(rounds=1, metrics="plain")
    result = federation.run()
    assert result.rounds[0].figures_source == "plain sums from sites"
    assert result.rounds[0].figures["accuracy"] > 0.4


def test_the_record_of_a_round_says_what_encryption_did() -> None:
    record = clinics(rounds=1).run().rounds[0]
    assert record.encryption is not None
    assert record.encryption.same_model == 4
    assert record.encryption.encrypt_seconds > 0
    assert record.encryption.add_seconds > 0
    assert record.bytes_up > 4 * 2 * 28_736


def test_seeded_encrypted_runs_repeat_bit_for_bit() -> None:
    first, second = clinics(), clinics()
    first.run()
    second.run()
    assert first.model(0).digest == second.model(0).digest
