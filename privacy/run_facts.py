"""What a run wrote, read back as values: `run.json` and `rounds.jsonl`, also of a run that was killed."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from privacy.errors import DataInvalid


class Parsed(BaseModel):
    """What was written before, perhaps by a later version: names that this one does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RefusedFacts(Parsed):
    """A reply that was not added."""

    site: str
    error: str
    reason: str


class EncryptionOfARound(Parsed):
    """What encryption did in one round; seconds are of the slowest site, or of the server's adding."""

    clipped_share: float | None
    same_model: int
    encrypt_seconds: float
    add_seconds: float
    decrypt_seconds: float


class RoundFacts(Parsed):
    """A line of `rounds.jsonl`; a null in `epsilon` was written for infinity."""

    round: int
    cohort: int
    answered: list[str]
    refused: list[RefusedFacts]
    figures: dict[str, float | None]
    figures_source: str
    epsilon: dict[str, float | None]
    seconds: dict[str, float | None]
    bytes_down: int
    bytes_up: int
    seeded: bool
    encryption: EncryptionOfARound | None = None

    @property
    def spent(self) -> dict[str, float]:
        return {site: math.inf if value is None else value for site, value in self.epsilon.items()}

    @property
    def wall_seconds(self) -> float:
        return sum(value or 0 for value in self.seconds.values())


class PrivacyFacts(Parsed):
    """The plan's privacy settings that the report speaks of."""

    unit: str
    epsilon: float
    delta: float


class CohortFacts(Parsed):
    """The plan's cohort settings that the report speaks of."""

    quorum: int


class EncryptionFacts(Parsed):
    """The plan's encryption settings that the report speaks of; a run of before there were any was in the clear."""

    scheme: str = "none"
    bits: int = 16
    simulate: str = "ciphertexts"


class PlanFacts(Parsed):
    """The plan, as far as the report speaks of it; all of it is in `RunFacts.plan`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    task: str
    rounds: int
    metrics: str
    statistics: str = "none"
    release: str = "server"
    privacy: PrivacyFacts
    cohort: CohortFacts
    encryption: EncryptionFacts = EncryptionFacts()


class SiteFacts(Parsed):
    """One site over the whole run."""

    site: str
    rounds: int
    refusals: int
    declared_rows: int
    epsilon: float | None


class TotalFacts(Parsed):
    """What the run came to."""

    parameters: int


class MechanismFacts(Parsed):
    """What every round of a private plan does at a site."""

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float


class RunFacts(Parsed):
    """`run.json`; a run that was killed lacks what is written at the end.

    statistics: the sum of the sites' noisy statistics; empty where none were asked for
    """

    run: str
    started: datetime
    plan: dict[str, JsonValue]
    plan_hash: str
    sites_online: int
    versions: dict[str, str]
    machine: dict[str, JsonValue]
    seeds: dict[str, int | None]
    accountant: str | None
    mechanism_of_a_round: MechanismFacts | None = None
    statistics: list[float | None] = []
    ended: str | None = None
    finished: datetime | None = None
    totals: TotalFacts | None = None
    sites: list[SiteFacts] | None = None


def read_run(path: Path) -> RunFacts:
    """A `run.json`.

    Raises:
        DataInvalid: the file is missing, or does not hold a run.
    """
    try:
        run = RunFacts.model_validate_json(path.read_bytes())
        PlanFacts.model_validate(run.plan)
    except OSError as error:
        raise DataInvalid(f"{path}: can't be read ({error.strerror}); name a folder that a run has written") from None
    except ValidationError as error:
        raise DataInvalid(f"{path}: does not hold a run: {_first(error)}; name a folder that a run wrote") from None
    return run


def read_rounds(path: Path) -> list[RoundFacts]:
    """The finished rounds; none where the file is not there yet. A killed writer's half line is not a round."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataInvalid(f"{path}: can't be read ({error.strerror})") from None
    try:
        return [RoundFacts.model_validate_json(line) for line in lines[:-1]]
    except ValidationError as error:
        raise DataInvalid(f"{path}: a line does not hold a round: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in details['loc']) or 'the text'}: {details['msg']}"
