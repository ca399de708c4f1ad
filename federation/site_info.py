"""What a site knows of itself before it reads a record: its name, its place in a simulation, its folder, its seed.

Read from Flower's node configuration, which the site's own engineer writes; the server can't change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from federation.plan import Plan, Scalar
from privacy.errors import DataInvalid, OrderRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteInfo:
    """One site, as the task that loads its rows sees it.

    name:            what people call the site
    index, count:    its place among the sites of a simulation; 0 of 1 for a site that stands alone
    data_folder:     where a task that reads its own files finds them; sealed records are not read from there
    safe_folder:     the site's safe, as `fedseal site init` made it
    data_set:        the sealed data set in it that is trained on; None: the task reads its own files
    passphrase_file: holds the safe's passphrase, for a safe that is locked by one; readable by its owner only
    declared_rows:   public, rough number of training records; never taken from the data while a run goes on
    declared_units:  the same of training groups, for plans that protect groups
    simulation_seed: seeds every draw of the site, noise included; None outside simulations and tests
    agreed_plan:     hash of the one plan that the site's engineer allows; None trusts the plan that the server sends
    rows_memory_bytes: a sealed data set larger than this is read batch by batch; None: a quarter of the free memory
    plan:            the run's plan; simulations read from it how a pool of records becomes sites
    """

    name: str
    index: int = 0
    count: int = 1
    data_folder: Path | None = None
    safe_folder: Path | None = None
    data_set: str | None = None
    passphrase_file: Path | None = None
    declared_rows: int | None = None
    declared_units: int | None = None
    simulation_seed: int | None = None
    agreed_plan: str | None = None
    rows_memory_bytes: int | None = None
    plan: Plan = field(default_factory=Plan)

    @staticmethod
    def from_node_config(config: Mapping[str, Scalar], plan: Plan) -> SiteInfo:
        """Reads `--node-config`: site-name, partition-id, num-partitions, data-folder, safe, data-set,
        passphrase-file, declared-rows, declared-units, plan-hash, simulation-seed, rows-memory-mib.

        Raises:
            DataInvalid: a number is not one or is negative, partition-id is not below num-partitions, or only one of
                safe and data-set is there.
        """
        index = _whole(config, "partition-id", 0)
        count = _whole(config, "num-partitions", 1)
        declared, units = _whole(config, "declared-rows", 0), _whole(config, "declared-units", 0)
        seed = _whole(config, "simulation-seed", -1)
        if declared < 0:
            raise DataInvalid(f"node config: declared-rows is {declared}, but no site holds fewer than no records")
        if units < 0:
            raise DataInvalid(f"node config: declared-units is {units}, but no site holds fewer than no groups")
        if not 0 <= index < count:
            raise DataInvalid(f"node config: partition-id {index} is not below num-partitions {count}")
        if "data-set" in config and "safe" not in config:
            raise DataInvalid("node config: data-set is the name of a data set in a safe: name the safe too")
        return SiteInfo(
            name=str(config.get("site-name", f"site-{index}")),
            index=index,
            count=count,
            data_folder=_path(config, "data-folder"),
            safe_folder=_path(config, "safe"),
            data_set=str(config["data-set"]) if "data-set" in config else None,
            passphrase_file=_path(config, "passphrase-file"),
            declared_rows=declared or None,
            declared_units=units or None,
            simulation_seed=seed if seed >= 0 else None,
            agreed_plan=str(config["plan-hash"]) if "plan-hash" in config else None,
            rows_memory_bytes=_whole(config, "rows-memory-mib", 0) * 1024 * 1024 or None,
            plan=plan,
        )

    def refuse_other_plan(self, plan: Plan) -> None:
        """Passes a plan that the site's engineer agreed to.

        Raises:
            OrderRefused: they agreed to another one only.
        """
        if self.agreed_plan is not None and self.agreed_plan != plan.digest:
            raise OrderRefused(
                f"this site's engineer agreed to plan {self.agreed_plan[:12]}… only, the run's plan is "
                f"{plan.digest[:12]}…; `fedseal plan check` prints a plan's hash"
            )


def _path(config: Mapping[str, Scalar], key: str) -> Path | None:
    return Path(str(config[key])) if key in config else None


def _whole(config: Mapping[str, Scalar], key: str, default: int) -> int:
    try:
        return int(str(config.get(key, default)))
    except ValueError:
        raise DataInvalid(f"node config: {key} is {config[key]!r}, but must be a whole number") from None
