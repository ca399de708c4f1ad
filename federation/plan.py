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
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import Field

from federation.plan_settings import (
    AggregationSettings,
    CohortSettings,
    Count,
    DataSettings,
    EncryptionSettings,
    HardwareSettings,
    PrivacySettings,
    Settings,
    TrainingSettings,
    setting,
)
from privacy.errors import PlanInvalid

Scalar: TypeAlias = bool | int | float | str


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
    release: Literal["sites", "server"] = setting(
        "sites",
        "encrypted plans: who ends up with the model: the sites alone, or the server too, to which they give the last",
    )
    privacy: PrivacySettings = PrivacySettings()
    training: TrainingSettings = TrainingSettings()
    hardware: HardwareSettings = HardwareSettings()
    cohort: CohortSettings = CohortSettings()
    aggregation: AggregationSettings = AggregationSettings()
    data: DataSettings = DataSettings()
    encryption: EncryptionSettings = EncryptionSettings()

    @property
    def is_encrypted(self) -> bool:
        """Whether updates are to travel as ciphertexts; where `encryption.simulate` is "sizes", as their likes."""
        return self.encryption.scheme != "none"

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
