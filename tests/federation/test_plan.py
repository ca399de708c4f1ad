"""The plan: every setting, what it refuses, and one hash for one meaning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from federation.contradictions import most_sites, refuse_large_cohort
from federation.plan import Plan, Scalar, flatten
from federation.reading import app_config, read_overrides, read_plan, settings
from privacy.errors import PlanInvalid

SETTINGS = settings()
READABLE: dict[str, Scalar] = {"encryption.scheme": "none"}
NEEDED = {"data.partition": {"data.partition_column": "site"}, "aggregation.rule": READABLE}  # beside a setting

# For every setting: values that are wrong alone, and one that is right and not the default.
VALUES: dict[str, tuple[list[object], Scalar]] = {
    "task": ([1, True, ["a"]], "other:task"),
    "name": (["", "Upper", "-dash", "a b", "a" * 65, 5], "my-run-2"),
    "rounds": ([0, -1, 2.5, "many"], 30),
    "seed": ([-1, 2**63, 0.5, "x"], 2**63 - 1),
    "metrics": (["exact", "", 1], "plain"),
    "statistics": (["plain", "", 1], "private"),
    "release": (["nobody", "", 1], "server"),
    "privacy.unit": (["patient", "Record", 0], "group"),
    "privacy.epsilon": ([0, -3.0, 100.1, "much"], 8),
    "privacy.delta": ([0, 0.1, 1.0, -1e-5, "little"], 1e-7),
    "privacy.noise_multiplier": ([0, 0.009, -1.0, "none"], 1.25),
    "privacy.max_grad_norm": ([0, -1.0, "one"], 0.5),
    "privacy.records_per_group": ([0, -1, 1.5, "all"], 4),
    "privacy.metrics_share": ([0, 1, -0.1, "half"], 0.2),
    "privacy.metrics_noise_multiplier": ([0, 0.009, -1.0, "none"], 30.0),
    "privacy.statistics_share": ([0, 1, -0.1, "half"], 0.2),
    "privacy.loss_bound": ([0, -1.0, "large"], 8.0),
    "privacy.rounds_per_site": ([0, -2, 1.5, "all"], 10),
    "training.sample_rate": ([0, 1.01, -0.1, "all"], 0.25),
    "training.steps": ([0, -1, 1.5, "x"], 3),
    "training.learning_rate": ([0, -0.1, "fast"], 0.5),
    "training.optimizer": (["Adam", "adamw", 1], "adam"),
    "training.momentum": ([1, -0.1, "x"], 0.5),
    "training.l1": ([-0.1, "x"], 0.01),
    "training.l2": ([-0.1, "x"], 0.01),
    "training.proximal": ([-0.1, "x"], 0.01),
    "training.iterate_averaging": ([1, -0.1, "x"], 0.5),
    "hardware.device": (["gpu", "cuda:", "cuda:x", "cpu ", 0], "cuda:1"),
    "hardware.max_physical_batch": ([0, -1, 1.5, "x"], 64),
    "hardware.encryption_processes": ([0, -1, 1.5, "x"], 2),
    "hardware.grad_sample_mode": (["ghost", 1], "functorch"),
    "cohort.share": ([0, 1.1, "half"], 0.5),
    "cohort.quorum": ([0, -1, 1.5, "x"], 5),
    "cohort.deadline_seconds": ([0, -1, "soon"], 30),
    "aggregation.rule": (["average", 1], "median"),
    "aggregation.weights": (["rows", 1], "declared"),
    "aggregation.weight_cap": ([0, -1, 1.5, "x"], 500),
    "aggregation.trimmed_share": ([0.5, -0.1, "x"], 0.2),
    "aggregation.byzantine_sites": ([-1, 0.5, "x"], 2),
    "aggregation.optimizer": (["adam", "sgd", 1], "fedyogi"),
    "aggregation.learning_rate": ([0, -1, "x"], 0.5),
    "aggregation.momentum": ([1, -0.1, "x"], 0.5),
    "aggregation.second_moment": ([1, -0.1, "x"], 0.999),
    "aggregation.adaptivity": ([0, -1, "x"], 0.01),
    "aggregation.iterate_averaging": ([1, -0.1, "x"], 0.5),
    "data.test_share": ([0, 1, -0.1, "x"], 0.5),
    "data.rows_per_site": ([0, -1, 1.5, "x"], 50),
    "data.units_per_site": ([0, -1, 1.5, "x"], 20),
    "data.partition": (["random", 1], "shards"),
    "data.alpha": ([0, -1, "x"], 0.1),
    "data.shards_per_site": ([0, -1, 1.5, "x"], 4),
    "data.size_spread": ([-0.1, "x"], 2),
    "data.partition_column": ([1, True], "hospital"),
    "encryption.scheme": (["paillier", "BFV", 1], "ckks"),
    "encryption.bits": ([0, 8, 17, "x"], 24),
    "encryption.range": ([0, -1.0, "wide"], 0.5),
    "encryption.first_range": ([0, -1.0, "wide"], 2.0),
    "encryption.rounding": (["up", 1], "stochastic"),
    "encryption.simulate": (["nothing", 1], "sizes"),
}
NUMBERS = [key for key, row in SETTINGS.items() if isinstance(VALUES[key][1], int | float)]
WRONG = [(key, value) for key, (wrong, _) in VALUES.items() for value in wrong]


def read_app(folder: Path) -> Plan:
    return read_plan(app_config(folder))


def toml(flat: dict[str, Scalar]) -> str:
    def spelled(value: Scalar) -> str:
        return f'"{value}"' if isinstance(value, str) else str(value).lower()

    return "\n".join(f"{key} = {spelled(value)}" for key, value in flat.items())


def app(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_the_examples_below_cover_every_setting() -> None:
    assert list(VALUES) == list(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_says_what_it_means(key: str) -> None:
    assert len(SETTINGS[key].meaning) > 10
    assert not SETTINGS[key].meaning.endswith(".")


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_a_wrong_value_is_refused_with_the_setting_the_value_and_the_remedy(key: str, value: Scalar) -> None:
    with pytest.raises(PlanInvalid) as refused:
        read_plan({key: value})
    sentence = str(refused.value)
    assert sentence.startswith(f"plan: {key} is {value!r}, but ")
    assert SETTINGS[key].meaning in sentence
    assert "must " in sentence.partition(", but ")[2]
    assert all(choice in sentence for choice in SETTINGS[key].choices)
    assert "\n" not in sentence


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_for_every_number(key: str, value: float) -> None:
    with pytest.raises(PlanInvalid, match=f"^plan: {key} is {value!r}, but "):
        read_plan({key: value})


@pytest.mark.parametrize("key", NUMBERS)
def test_yes_and_no_are_not_numbers(key: str) -> None:
    for value in (True, False):
        with pytest.raises(PlanInvalid, match=f"^plan: {key} is {value}, but "):
            read_plan({key: value})


@pytest.mark.parametrize("key", SETTINGS)
def test_the_hash_changes_when_any_setting_changes(key: str) -> None:
    changed = {key: VALUES[key][1], **NEEDED.get(key, {})}
    assert read_plan(changed).digest != Plan().digest
    assert read_plan(changed).flat()[key] == VALUES[key][1]


def test_the_hashes_of_all_these_plans_differ() -> None:
    digests = {read_plan({key: right, **NEEDED.get(key, {})}).digest for key, (_, right) in VALUES.items()}
    assert len(digests) == len(VALUES)


def test_the_hash_does_not_depend_on_the_order_of_keys_or_the_spelling_of_numbers() -> None:
    spelled = {"rounds": 5, "privacy.epsilon": 8, "privacy.noise_multiplier": 2, "training.sample_rate": 1}
    other = {"training.sample_rate": 1.0, "privacy.noise_multiplier": 2.0, "privacy.epsilon": 8.0, "rounds": 5.0}
    assert read_plan(spelled).digest == read_plan(other).digest
    assert read_plan(spelled).canonical_json() == read_plan(other).canonical_json()


def test_the_hash_does_not_depend_on_whether_a_default_is_written_out() -> None:
    assert read_plan({}).digest == Plan().digest == read_plan(Plan().flat()).digest


def test_the_hash_is_the_sha256_of_sorted_json_without_spaces() -> None:
    text = Plan().canonical_json()
    assert text.startswith('{"aggregation":{"adaptivity":0.001,')
    assert ": " not in text.replace("task:task", "")
    assert len(Plan().digest) == 64


@given(st.data())
@hypothesis_settings(deadline=None, max_examples=60)
def test_a_plan_comes_back_from_flat_keys_and_from_toml_tables(data: st.DataObject) -> None:
    free = [key for key in VALUES if key != "aggregation.weights" and not key.startswith("encryption.")]
    keys = data.draw(st.lists(st.sampled_from(free), unique=True))
    plan = read_plan({**READABLE, **{key: VALUES[key][1] for key in keys}})
    assert read_plan(plan.flat()) == plan
    assert read_plan(dict(reversed(plan.flat().items()))) == plan
    assert read_plan(flatten(plan.model_dump(exclude_none=True))) == plan


@given(st.floats(min_value=1e-6, max_value=100), st.floats(min_value=1e-12, max_value=0.09))
@hypothesis_settings(deadline=None, max_examples=40)
def test_no_digit_of_a_number_is_lost_on_the_way_through_an_override(epsilon: float, delta: float) -> None:
    plan = read_plan(read_overrides([f"privacy.epsilon={epsilon!r}", f"privacy.delta={delta!r}"]))
    assert (plan.privacy.epsilon, plan.privacy.delta) == (epsilon, delta)


def test_flat_leaves_absent_values_out() -> None:
    assert "privacy.noise_multiplier" not in Plan().flat()
    assert set(Plan().flat()) == {key for key, row in SETTINGS.items() if row.default is not None}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("epsilon", "privacy.epsilon"),
        ("hardware.epsilon", "privacy.epsilon"),
        ("delta", "privacy.delta"),
        ("quorum", "cohort.quorum"),
        ("sample_rate", "training.sample_rate"),
        ("privacy.epsilonn", "privacy.epsilon"),
        ("privacy.sample_rate", "training.sample_rate"),
        ("training.rounds", "rounds"),
        ("round", "rounds"),
        ("Seed", "seed"),
        ("training.max_grad_norm", "privacy.max_grad_norm"),
    ],
)
def test_an_unknown_setting_is_refused_and_the_nearest_is_named(key: str, nearest: str) -> None:
    with pytest.raises(PlanInvalid, match=f"^plan: there is no setting '{key}'; did you mean '{nearest}'\\?$"):
        read_plan({key: 1})


def test_a_name_that_two_tables_share_is_offered_in_both() -> None:
    with pytest.raises(PlanInvalid, match=r"did you mean 'training.momentum' or 'aggregation.momentum'\?$"):
        read_plan({"momentum": 0.5})


@pytest.mark.parametrize("key", ["", ".", "privacy", "privacy.", "zzzzzz", "privacy.epsilon.x.qqqqqqq"])
def test_a_setting_like_no_other_is_refused_with_where_to_look(key: str) -> None:
    with pytest.raises(PlanInvalid, match=r"there is no setting .*(`fedseal plan show` lists them all|did you mean)"):
        read_plan({key: 1})


def test_two_wrong_settings_are_both_named() -> None:
    with pytest.raises(PlanInvalid, match=r"(?s)rounds is 0.*\n.*privacy.epsilon is -1"):
        read_plan({"rounds": 0, "privacy.epsilon": -1.0})


def test_a_near_choice_is_offered() -> None:
    with pytest.raises(PlanInvalid, match="did you mean 'trimmed-mean'"):
        read_plan({"aggregation.rule": "trimmed_mean"})


def test_a_plan_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError):
        Plan().privacy.epsilon = 100.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flat", "reason", "remedy"),
    [
        (
            {"aggregation.rule": "median"},
            "compares single updates, which encryption.scheme 'bfv' hides",
            "aggregation.rule to 'mean'",
        ),
        (
            {"aggregation.rule": "median", "encryption.scheme": "ckks"},
            "encryption.scheme 'ckks' hides",
            "rule to 'mean'",
        ),
        (
            {"encryption.scheme": "bfv", "encryption.bits": 16, "cohort.quorum": 66},
            "the updates of 66 sites",
            "set encryption.bits to 14",
        ),
        ({"cohort.quorum": 2}, "from a sum of two each reads the other's update", "cohort.quorum to 3 or more"),
        (
            {"encryption.scheme": "ckks", "release": "server"},
            "an error that depends on the key",
            "encryption.scheme to 'bfv', or release to 'sites'",
        ),
        ({"encryption.scheme": "none", "encryption.simulate": "sizes"}, "encryption.simulate is 'sizes'", "'bfv' only"),
        ({"encryption.scheme": "ckks", "encryption.range": 1.0}, "has no range", "leave encryption.range"),
        ({"encryption.scheme": "ckks", "encryption.rounding": "stochastic"}, "no rounding", "set the scheme to 'bfv'"),
        ({"privacy.delta": 0.01, "data.rows_per_site": 100}, "about 100 records", "privacy.delta below 0.001"),
        (
            {"aggregation.rule": "median", "aggregation.weights": "declared", **READABLE},
            "counts every site once",
            "aggregation.weights to 'uniform', or aggregation.rule to 'mean'",
        ),
        (
            {"aggregation.rule": "krum", "aggregation.byzantine_sites": 2, "cohort.quorum": 6, **READABLE},
            "needs 7 reports",
            "at least 7",
        ),
        ({"data.partition": "column"}, "'column'", "set data.partition_column"),
        (
            {"privacy.unit": "client", "aggregation.weights": "declared"},
            "how much data a client holds",
            "aggregation.weights to 'uniform'",
        ),
        ({"privacy.unit": "client", "metrics": "plain"}, "the very client", "set metrics to 'private' or 'none'"),
        (
            {"privacy.unit": "group", "privacy.records_per_group": 9, "hardware.max_physical_batch": 8},
            "its records must fit one physical batch",
            "lower one or raise the other",
        ),
        (
            {"privacy.unit": "group", "privacy.delta": 0.01, "data.units_per_site": 100, "data.rows_per_site": 9},
            "about 100 groups",
            "privacy.delta below 0.001",
        ),
        (
            {"metrics": "private", "statistics": "private", "privacy.metrics_share": 0.9},
            "leave no epsilon for the updates",
            "lower one of them",
        ),
        ({"rounds": 10, "privacy.rounds_per_site": 11}, "more than the 10 planned rounds", "lower it or leave it out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_remedy(
    flat: dict[str, Scalar], reason: str, remedy: str
) -> None:
    with pytest.raises(PlanInvalid) as refused:
        read_plan(flat)
    assert str(refused.value).startswith("plan: ")
    assert reason in str(refused.value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    "flat",
    [
        {"privacy.delta": 0.01, "data.rows_per_site": 99},
        {"privacy.delta": 0.01, "data.rows_per_site": 100, "privacy.unit": "none"},
        {"aggregation.rule": "mean", "aggregation.weights": "declared"},
        {"aggregation.rule": "krum", "aggregation.byzantine_sites": 2, "cohort.quorum": 7, **READABLE},
        {"encryption.scheme": "none", "cohort.quorum": 2, "release": "server"},
        {"encryption.scheme": "bfv", "release": "server"},
        {"encryption.scheme": "ckks", "encryption.bits": 12},
        {"encryption.scheme": "bfv", "encryption.bits": 16, "cohort.quorum": 65},
        {"encryption.scheme": "bfv", "encryption.bits": 14, "cohort.quorum": 4161},
        {"encryption.scheme": "none", "cohort.quorum": 5000},
        {"encryption.simulate": "sizes", "encryption.range": 1.0, "encryption.rounding": "error-feedback"},
        {"data.partition": "column", "data.partition_column": "hospital"},
        {"privacy.unit": "client", "privacy.delta": 0.01, "data.rows_per_site": 10**6},
        {"privacy.unit": "client", "privacy.records_per_group": 9, "hardware.max_physical_batch": 8},
        {"privacy.unit": "group", "privacy.records_per_group": 8, "hardware.max_physical_batch": 8},
        {"privacy.unit": "record", "privacy.records_per_group": 9, "hardware.max_physical_batch": 8},
        {"privacy.unit": "group", "privacy.delta": 0.01, "data.units_per_site": 99, "data.rows_per_site": 10**6},
        {"rounds": 10, "privacy.rounds_per_site": 10},
    ],
)
def test_settings_on_the_right_side_of_a_contradiction_pass(flat: dict[str, Scalar]) -> None:
    assert set(flat.items()) <= set(read_plan(flat).flat().items())


def test_an_apps_plan_is_read_from_dotted_keys_and_from_tables_alike(tmp_path: Path) -> None:
    flat: dict[str, Scalar] = {"rounds": 5, "name": "heart", "privacy.epsilon": 2.5, "data.partition": "iid"}
    dotted = read_app(app(tmp_path, f"[tool.flwr.app.config]\n{toml(flat)}\n"))
    quoted = read_app(app(tmp_path, '[tool.flwr.app.config]\nrounds = 5\nname = "heart"\n"privacy.epsilon" = 2.5\n'))
    tables = '[tool.flwr.app.config]\nrounds = 5\nname = "heart"\n[tool.flwr.app.config.privacy]\nepsilon = 2.5\n'
    assert dotted == quoted == read_app(app(tmp_path, tables)) == read_plan(flat)


def test_a_folder_without_a_pyproject_is_no_app(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match=r"is no app: it has no pyproject.toml; `fedseal new DIR`"):
        read_app(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tool.ruff]\n",
        "[tool.flwr.app]\npublisher = 'x'\n",
        "tool = 3\n",
        "[tool]\nflwr = 'x'\n",
        "[tool.flwr]\napp = []\n",
        "[tool.flwr.app]\nconfig = 3\n",
    ],
)
def test_an_app_without_the_plans_table_is_refused_by_the_tables_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(PlanInvalid, match=r"has no table \[tool.flwr.app.config\]"):
        app_config(app(tmp_path, text))


def test_a_pyproject_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match="is not valid TOML"):
        read_app(app(tmp_path, "[tool.flwr.app.config\n"))
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanInvalid, match="is not valid TOML"):
        read_app(tmp_path)


def test_an_apps_list_or_date_is_refused_by_the_settings_name(tmp_path: Path) -> None:
    for value in ("[1, 2]", "2024-01-01"):
        with pytest.raises(PlanInvalid, match=r"^plan: rounds is "):
            read_app(app(tmp_path, f"[tool.flwr.app.config]\nrounds = {value}\n"))


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("privacy.epsilon=3", "privacy.epsilon", 3),
        ("privacy.epsilon = 3.5", "privacy.epsilon", 3.5),
        ("task=task:other", "task", "task:other"),
        ('name="a=b"', "name", "a=b"),
        ("name=a=b", "name", "a=b"),
        ("data.partition=iid", "data.partition", "iid"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("name=[1]", "name", "[1]"),
        ("name=", "name", ""),
    ],
)
def test_an_override_is_toml_or_else_plain_text(assignment: str, key: str, value: Scalar) -> None:
    assert read_overrides([assignment]) == {key: value}


def test_an_override_without_an_equals_sign_is_refused_with_an_example() -> None:
    with pytest.raises(PlanInvalid, match=r"write KEY=VALUE, for example --set privacy.epsilon=3"):
        read_overrides(["privacy.epsilon"])


def test_an_override_cannot_smuggle_in_nan() -> None:
    with pytest.raises(PlanInvalid, match=r"privacy.epsilon is nan"):
        read_plan(read_overrides(["privacy.epsilon=nan"]))


def test_a_setting_given_twice_is_refused_not_picked(tmp_path: Path) -> None:
    text = '[tool.flwr.app.config]\n"privacy.epsilon" = 1.0\n[tool.flwr.app.config.privacy]\nepsilon = 9.0\n'
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PlanInvalid, match=r"privacy\.epsilon is given twice"):
        read_app(tmp_path)


def test_minus_zero_names_the_same_plan_as_zero() -> None:
    assert read_plan({"training.l2": -0.0}).digest == read_plan({"training.l2": 0.0}).digest


def test_a_text_setting_takes_what_stands_behind_the_equals_sign() -> None:
    assert read_overrides(["name=5", "task=a:b"]) == {"name": "5", "task": "a:b"}


@pytest.mark.parametrize(
    ("bits", "scheme", "most"),
    [(12, "bfv", 65), (14, "bfv", 4161), (16, "bfv", 65), (24, "bfv", 65), (16, "ckks", 4161)],
)
def test_a_cohort_whose_sum_could_decrypt_wrong_is_refused(bits: int, scheme: str, most: int) -> None:
    agreed = read_plan({"encryption.bits": bits, "encryption.scheme": scheme})
    refuse_large_cohort(agreed, most)
    with pytest.raises(PlanInvalid, match=rf"sum of more than {most:,} may decrypt wrong: .*lower cohort.share"):
        refuse_large_cohort(agreed, most + 1)


@pytest.mark.parametrize(
    ("bits", "scheme", "sites", "offered"),
    [
        (16, "bfv", 66, True),
        (12, "bfv", 4161, True),
        (24, "bfv", 4162, False),  # too many for any width
        (14, "bfv", 4162, False),
        (16, "ckks", 4162, False),
    ],
)
def test_fourteen_bits_are_offered_where_they_would_help(bits: int, scheme: str, sites: int, offered: bool) -> None:
    agreed = read_plan({"encryption.bits": bits, "encryption.scheme": scheme})
    with pytest.raises(PlanInvalid) as refused:
        refuse_large_cohort(agreed, sites)
    assert ("set encryption.bits to 14 (up to 4,161 sites)" in str(refused.value)) is offered
    assert ("encryption.bits = " in str(refused.value)) is (scheme == "bfv")


@pytest.mark.parametrize(("bits", "wide"), [(12, 65), (14, 4161), (16, 65), (24, 65)])
def test_the_meaning_of_bits_names_the_cohorts_that_the_noise_allows(bits: int, wide: int) -> None:
    assert most_sites(read_plan({"encryption.scheme": "bfv", "encryption.bits": bits})) == wide
    assert f"{wide:,}" in SETTINGS["encryption.bits"].meaning


def test_a_plan_in_the_clear_adds_any_number_of_sites() -> None:
    refuse_large_cohort(read_plan({"encryption.scheme": "none"}), 10**6)
