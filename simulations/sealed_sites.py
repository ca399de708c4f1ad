"""Simulated sites hold their records as deployed sites do: sealed, beside a ledger in which each release is reserved.

The keys live in this process only and the ledgers in its memory, unless the run keeps its sites: then each is a safe
like a deployed one, for `fedseal ledger` and `fedseal site` to look into. A throw-away authority certifies all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clients.data import DataSet
from clients.kept_model import Keep, keep_nothing, model_keeper
from clients.registers import register_data
from clients.sealing import Source, seal_rows
from federation.credentials import Credentials
from federation.plan import Plan
from federation.rows import Rows
from privacy.certificates import Authority, Role
from privacy.certified import certify
from privacy.entries import BudgetSet
from privacy.identity import Identity
from privacy.ledger import Ledger, now
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe, is_safe
from privacy.unlocking import KeyFileSettings

_DATA_SET = "records"

MakeSafe = Callable[[str], Safe]


def throw_away_safes(folder: Path) -> MakeSafe:
    """Safes whose keys die with this process, each in its own part of `folder`."""
    return lambda site: Safe.throw_away(folder / site, site)


def kept_safes(folder: Path, key_file: Path) -> MakeSafe:
    """Safes that the key file opens again after the run."""
    return lambda site: Safe.create(folder / site, site, KeyFileSettings(path=key_file), nobody_to_ask)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSite:
    """What a simulated site owns: sealed records, a ledger, what its authority certified, and where models are kept."""

    data: DataSet
    ledger: Ledger
    credentials: Credentials
    keep: Keep


def throw_away_authority() -> Authority:
    """Certifies the sites and the server of one simulation; its key dies with this process."""
    return Authority.create("simulation")


def certified(authority: Authority, identity: Identity, role: Role) -> Credentials:
    """What the authority gives to a site or the server."""
    certificate = authority.certify(identity.public(), role)
    return Credentials(identity=identity, certificate=certificate, trust=authority.trust())


def sealed_site(safe: Safe, rows: Rows, plan: Plan, authority: Authority) -> SealedSite:
    """The records, sealed in the site's safe with their groups where they know them, and the ledger."""
    units = None if rows.units is None else [str(number) for number in rows.units.tolist()]
    unit = None if units is None else "units"
    source = Source(name=_DATA_SET, imported=now(), columns=tuple(rows.fields), unit=unit)
    ledger = safe.ledger()
    ledger.set_budget(simulated_budget(plan))
    data = seal_rows(safe.vault, source, [(rows, units)])
    register_data(safe.vault, ledger, data.facts)
    credentials = certified(authority, safe.identity(), "site")
    if not is_safe(safe.folder):
        return SealedSite(data=data, ledger=ledger, credentials=credentials, keep=keep_nothing)
    certify(safe, credentials.certificate, credentials.trust)
    return SealedSite(data=data, ledger=ledger, credentials=credentials, keep=model_keeper(safe))


def simulated_budget(plan: Plan) -> BudgetSet:
    """What a simulated site allows: what the plan asks for."""
    return BudgetSet(
        time=now(),
        account=None,
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        per_run=None,
        per_round=None,
        allow=[plan.privacy.unit, "plain-metrics", "plain-updates", "server-release"],
    )
