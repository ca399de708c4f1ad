"""The tables of a plan's settings, each value with its meaning, unit and range; `federation/plan.py` has the whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

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
    encryption_processes: Count = setting(
        1, "processes that encrypt and decrypt at once; more than one pays from some millions of values on"
    )
    grad_sample_mode: Literal["auto", "hooks", "functorch", "ew"] = setting(
        "auto", "how Opacus computes gradients record by record; auto: chosen by the model's layers"
    )


class CohortSettings(Settings):
    """Who takes part in a round, and how long the server waits."""

    share: Share = setting(1.0, "share of the sites online that is asked in a round")
    quorum: Count = setting(3, "fewest good reports that make a round", "sites")
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


class EncryptionSettings(Settings):
    """How updates, private metrics and statistics travel, so that the server can add what it can't read."""

    scheme: Literal["bfv", "ckks", "none"] = setting(
        "bfv",
        "bfv: exact sums of fixed-point values; ckks: values need no range, sums are rounded, and decrypted sums must "
        "stay with the sites; none: the server reads every update",
    )
    bits: Literal[12, 14, 16, 24] = setting(
        16,
        "precision of a value: its field in a ciphertext's coefficient; 14 serves cohorts of up to 4,161 sites, the "
        "others of 65",
        "bits",
    )
    range: Positive | None = setting(
        None,
        "public bound on one value of an update, beyond which it is clipped; absent: 8 times the largest value of the "
        "last mean update in the same tensor, more in cohorts beyond 16 sites",
    )
    first_range: Positive = setting(8.0, "the bound in round 1, where there is no last mean and range is absent")
    rounding: Literal["nearest", "stochastic", "error-feedback"] = setting(
        "nearest",
        "of values to fields: to the nearest; up or down by chance, unbiased; to the nearest, and what was left out is "
        "added to the site's next update",
    )
    simulate: Literal["ciphertexts", "sizes"] = setting(
        "ciphertexts",
        "simulations: encrypt in earnest; or send messages of the same sizes that are NOT encrypted, to rehearse "
        "cohorts of thousands",
    )
