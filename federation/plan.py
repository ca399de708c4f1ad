"""The plan: every setting of one run, agreed by all, as frozen values with their meaning, unit and range.

One source for three readers: the parser refuses what is not listed here, `fedseal plan show` prints what is, and the
canonical JSON (sorted keys, no spaces, every default written out, UTF-8) has the SHA-256 that names the plan in every
message. Settings are written as dotted keys in Flower's run config (`[tool.flwr.app.config]`), as TOML tables, or both.
What crosses two settings is checked in `federation/contradictions.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from privacy.errors import PlanInvalid

Scalar: TypeAlias = bool | int | float | str
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A frozen table of settings; unknown names, NaN, infinity, and true or false for a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic would read true as 1
            raise PydanticCustomError("truth_value", "must be a number or a text, not true or false")
        return 0.0 if isinstance(value, float) and value == 0 else value  # -0.0 would give another plan hash


def setting(default: Any, meaning: str, unit: str = "") -> Any:
    """A setting with what `fedseal plan show` says of it."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit})


class PrivacySettings(Settings):
    """What is promised about one unit: a record, a group of records, or a whole client."""

    unit: Literal["record", "group", "client", "none"] = setting(
        "record",
        "whose presence is hidden: a record; a group (patient, customer), which is all records that a site holds under "
        "one unit id; or a client, which is a whole site with all its data; none trains WITHOUT privacy and is marked "
        "in red",
    )
    epsilon: Annotated[float, Field(gt=0, le=100)] = setting(
        3.0, "budget of each site for the whole run, all rounds together; a round that would pass it is refused"
    )
    delta: Annotated[float, Field(gt=0, lt=0.1)] = setting(
        1e-5, "chance that epsilon does not hold; keep it well below one over the number of units", "probability"
    )
    noise_multiplier: Annotated[float, Field(ge=0.01)] | None = setting(
        None, "noise standard deviation over max_grad_norm; absent: calibrated to epsilon over all planned rounds"
    )
    max_grad_norm: Positive = setting(
        1.0,
        "bound on one unit's gradient, L2; a group's is the sum over its records, clipped as one; unit client: bound "
        "on its whole update of a round",
    )
    records_per_group: Count = setting(
        8, "unit group: most records of one group that a step uses, drawn anew each step, all equally likely", "records"
    )
    metrics_share: Annotated[float, Field(gt=0, lt=1)] = setting(
        0.1, "metrics = private: share of epsilon for which the noise of all rounds' metrics is calibrated"
    )
    metrics_noise_multiplier: Annotated[float, Field(ge=0.01)] | None = setting(
        None, "metrics = private: noise standard deviation over sqrt(3), a unit's bound; absent: from metrics_share"
    )
    statistics_share: Annotated[float, Field(gt=0, lt=1)] = setting(
        0.1, "statistics = private: share of epsilon for which their noise is calibrated"
    )
    loss_bound: Positive = setting(5.0, "metrics = private: a record's loss counts as at most this", "nats")
    rounds_per_site: Count | None = setting(
        None, "rounds that one site may join, for which noise is calibrated; absent: all rounds", "rounds"
    )


class TrainingSettings(Settings):
    """What a site does in one round."""

    sample_rate: Share = setting(
        1.0,
        "chance that a unit (record, group) enters a step (Poisson); 1 is full batches; units client and none: share "
        "of a site's records in a batch, shuffled, not priced",
        "probability",
    )
    steps: Count = setting(1, "gradient steps a round", "steps")
    learning_rate: Positive = setting(0.1, "step size of the site's optimizer")
    optimizer: Literal["sgd", "momentum", "adam"] = setting(
        "sgd", "the site's optimizer; its state starts anew each round"
    )
    momentum: Decay = setting(0.9, "momentum of optimizer `momentum`, first moment of `adam`")
    l1: NotNegative = setting(0.0, "weight of the L1 penalty on the parameters")
    l2: NotNegative = setting(0.0, "weight of the L2 penalty, times half the squared norm")
    proximal: NotNegative = setting(0.0, "FedProx: weight of the squared distance to the round's model, times one half")
    iterate_averaging: Decay = setting(
        0.0, "decay of an average of the site's iterates, sent in place of the last one; 0 sends the last"
    )


class HardwareSettings(Settings):
    """What changes speed and memory, never the result's guarantee."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = setting(
        "auto", "where sites train: auto (CUDA where there is one), cpu, cuda, cuda:1"
    )
    max_physical_batch: Count = setting(1024, "most records whose gradients are held at once; bounds memory", "records")
    grad_sample_mode: Literal["auto", "hooks", "functorch", "ew"] = setting(
        "auto", "how Opacus computes gradients record by record; auto: chosen by the model's layers"
    )


class CohortSettings(Settings):
    """Who takes part in a round, and how long the server waits."""

    share: Share = setting(1.0, "share of the sites online that is asked in a round")
    quorum: Count = setting(2, "fewest good reports that make a round", "sites")
    deadline_seconds: Positive = setting(
        600.0, "longest wait for a round's reports, and for enough sites at the start", "s"
    )


class AggregationSettings(Settings):
    """How reports become the next model."""

    rule: Literal["mean", "median", "trimmed-mean", "krum"] = setting(
        "mean", "mean streams; the robust rules hold every report in memory"
    )
    weights: Literal["uniform", "declared"] = setting(
        "uniform", "weight of a report: one each, or the rows its site publicly declared"
    )
    weight_cap: Count = setting(100_000, "largest declared number of rows that counts", "rows")
    trimmed_share: Annotated[float, Field(ge=0, lt=0.5)] = setting(
        0.1, "trimmed-mean: share of values dropped at each end"
    )
    byzantine_sites: Annotated[int, Field(ge=0)] = setting(
        1, "krum: most sites that may lie; needs 2 f + 3 reports", "sites"
    )
    optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = setting(
        "fedavg", "what the server does with the mean update"
    )
    learning_rate: Positive = setting(1.0, "step size of the server's optimizer")
    momentum: Decay = setting(0.9, "fedavgm, fedadam, fedyogi: decay of the first moment")
    second_moment: Decay = setting(0.99, "fedadam, fedyogi: decay of the second moment")
    adaptivity: Positive = setting(1e-3, "fedadam, fedyogi: added to the root of the second moment")
    iterate_averaging: Decay = setting(
        0.0, "decay of an average of the server's models, which is then the run's model; 0 keeps the last"
    )


class DataSettings(Settings):
    """How records are divided."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = setting(
        0.2, "share of a site's units (records, groups) held out from training, unless its rows say which"
    )
    rows_per_site: Count | None = setting(
        None, "public, rough number of training records of a site that declares none: steps divide by it", "records"
    )
    units_per_site: Count | None = setting(
        None, "unit group: public, rough number of training groups of a site that declares none", "groups"
    )
    partition: Literal["iid", "dirichlet", "shards", "quantity", "column"] = setting(
        "iid", "simulations: how a pool of records becomes sites"
    )
    alpha: Positive = setting(0.5, "dirichlet: concentration; small is uneven")
    shards_per_site: Count = setting(2, "shards: label-sorted pieces a site gets", "shards")
    size_spread: NotNegative = setting(1.0, "quantity: standard deviation of the logarithm of site sizes")
    partition_column: str = setting("", "column: the field whose values are the sites")


class Plan(Settings):
    """The settings of one run."""

    task: str = setting("task:task", "what is trained, as module:attribute")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] = setting(
        "run", "the run's name: lower-case letters, digits, hyphens"
    )
    rounds: Count = setting(20, "planned rounds", "rounds")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting(
        0, "public seed of the first model, the cohorts and the division of records; never of deployed noise"
    )
    metrics: Literal["none", "private", "plain"] = setting(
        "none",
        "what sites report of their held-out records: nothing, noisy sums that epsilon covers, or exact sums that it "
        "does NOT cover",
    )
    statistics: Literal["none", "private"] = setting(
        "none", "whether sites release the noisy statistics that the task asks for, once, before the first round"
    )
    privacy: PrivacySettings = PrivacySettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    cohort: CohortSettings = CohortSettings()
    aggregation: AggregationSettings = AggregationSettings()
    data: DataSettings = DataSettings()

    @property
    def is_private(self) -> bool:
        """Whether training protects anybody."""
        return self.privacy.unit != "none"

    def canonical_json(self) -> str:
        """The plan's one spelling, from which it is hashed and signed."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        """The plan hash: SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def flat(self) -> dict[str, Scalar]:
        """The plan as Flower's run config: dotted keys, absent values left out."""
        return {key: value for key, value in flatten(self.model_dump()).items() if value is not None}


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """Nested tables as dotted keys.

    Raises:
        PlanInvalid: a setting stands there twice.
    """
    flat: dict[str, Scalar] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _merge(flat, flatten(value, f"{prefix}{name}."))
        else:
            _merge(flat, {f"{prefix}{name}": cast(Scalar, value)})
    return flat


def _merge(flat: dict[str, Scalar], more: Mapping[str, Scalar]) -> None:
    twice = sorted(flat.keys() & more.keys())
    if twice:
        raise PlanInvalid(f"plan: {twice[0]} is given twice, as a dotted key and in a table: keep one of them")
    flat.update(more)
