"""The sites and the server of a simulation: who they are, what they own, and what a simulator sees."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context
from numpy.typing import NDArray
from torch import Tensor

from clients.encrypted_site import EncryptedSite
from clients.member import Member
from clients.run_memory import ProcessMemory
from clients.site import Site
from federation.credentials import Credentials
from federation.evaluation import metric_sums
from federation.groups import divided
from federation.layout import Layout
from federation.plan import Plan, Scalar
from federation.rows import Rows, concatenate
from federation.seeding import first_model
from federation.shared_model import SharedModel
from federation.site_info import SiteInfo
from federation.task import Task, informed
from privacy.errors import DataInvalid
from privacy.identity import Identity
from server.conduct import Seen
from simulations.sealed_sites import MakeSafe, SealedSite, certified, sealed_site, throw_away_authority

_SITES_KEPT = 256


class SimulatedFederation:
    """All sites of a simulation: who they are, what they declare, their sealed records, and pooled held-out ones."""

    def __init__(self, task: Task, plan: Plan, sites: int, data_folder: Path | None, safe_of: MakeSafe) -> None:
        self._task = task
        self._plan = plan
        self.count = sites
        self._data_folder = data_folder
        self._declared: list[Mapping[str, Scalar]] = [{}] * sites
        self._authority = throw_away_authority()
        self._sealed: list[SealedSite] = []
        self._memories = [ProcessMemory() for _ in range(sites)]
        held_out: list[Rows] = []
        for index in range(sites):
            info = self._info(index)
            rows = task.rows(info)
            sides = divided(rows, plan)
            if plan.privacy.unit == "group":
                # What a site's vault would divide by is the group's keyed hash, whose key is drawn anew for each run.
                rows = Rows(fields=rows.fields, held_out=sides, units=rows.units)
            self._sealed.append(sealed_site(safe_of(info.name), rows, plan, self._authority))
            self._declared[index] = _declared(rows, sides)
            if sides.any():
                held_out.append(rows.take(sides))
        if not held_out:
            raise DataInvalid("no site holds out a record to test on: raise data.test_share")
        self._pooled = concatenate(held_out)
        self._prepared_by: Task | None = None
        self._held_out = self._pooled
        self._model = first_model(task, plan.seed)
        self._layout = Layout.of(self._model)
        self._first = SharedModel.start(self._layout.flatten(self._model), plan)
        self.parameters = self._layout.length
        self._site = lru_cache(maxsize=_SITES_KEPT)(self._made)

    def node_config(self, index: int) -> Mapping[str, Scalar]:
        """What the engineer of this site would have written."""
        folder = {"data-folder": str(self._data_folder)} if self._data_folder else {}
        return {
            "site-name": f"site-{index:0{len(str(self.count - 1))}d}",
            "partition-id": index,
            "num-partitions": self.count,
            "simulation-seed": self._plan.seed,
            **self._declared[index],
            **folder,
        }

    def server(self) -> Credentials:
        """Who the simulated server is."""
        return certified(self._authority, Identity.create("server"), "server")

    def insight(self) -> Seen:
        """The newest model that the sites of an encrypted run hold: simulation only."""
        known = [memory.known.model for memory in self._memories if memory.known is not None]
        newest = max(known, key=lambda model: model.round, default=self._first)
        return Seen(state=newest.state, statistics=newest.statistics)

    def site(self, context: Context) -> Site | EncryptedSite:
        """The site that answers for a node; its sealed records are opened for each round and dropped after it."""
        return self._site(int(context.node_config["partition-id"]))

    def judge(self, vector: NDArray[np.float32], statistics: tuple[float, ...]) -> Mapping[str, float]:
        """Figures of a model vector on the pooled held-out records: simulation only."""
        task = informed(self._task, statistics)
        if self._prepared_by is not task:
            self._prepared_by, self._held_out = task, task.prepare(self._pooled)
        self._layout.load(self._model, vector)
        return task.figures(metric_sums(task, self._model.eval(), self._held_out))

    def _info(self, index: int) -> SiteInfo:
        return SiteInfo.from_node_config(self.node_config(index), self._plan)

    def _made(self, index: int) -> Site | EncryptedSite:
        sealed, info = self._sealed[index], self._info(index)
        site = Site(task=self._task, info=info, plan=self._plan, ledger=sealed.ledger, data=sealed.data)
        if not self._plan.is_encrypted:
            return site
        member = Member(
            credentials=sealed.credentials,
            memory=self._memories[index],
            info=info,
            plan=self._plan,
            layout=self._layout,
            first=self._first,
        )
        return EncryptedSite(site=site, member=member, keep=sealed.keep)


def _declared(rows: Rows, held_out: Tensor) -> Mapping[str, Scalar]:
    """What a site declares of its training records, and of their groups where it knows them."""
    train = rows.take(~held_out)
    groups = {} if train.units is None else {"declared-units": public_size(len(train.units.unique()))}
    return {"declared-rows": public_size(len(train)), **groups}


def public_size(records: int) -> int:
    """A site's declaration in a simulation: its number of training records to two significant digits, at least 1.

    Stands for what an engineer would declare once and publicly; epsilon does not cover it.
    """
    digits = len(str(records))
    return max(1, round(records, min(0, 2 - digits)))
