"""Small honest tasks, sites, plans and streams for the tests of clients, server and simulations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.budgets import read_budget
from clients.site import Site
from clients.training import Protection, Settings, train_privately, train_without_privacy
from federation.layout import Layout
from federation.orders import Address, Order
from federation.plan import Plan, Scalar
from federation.plan_settings import HardwareSettings, TrainingSettings
from federation.reading import read_plan
from federation.rows import Rows
from federation.site_info import SiteInfo
from federation.task import Task
from privacy.entries import Reserved
from privacy.identity import Signer
from privacy.keys import KeyRing
from privacy.ledger import Ledger
from privacy.ledger_rows import LedgerRows, MemoryRows
from privacy.mechanism import Mechanism
from privacy.noise import RandomStream

Vector = NDArray[np.float32]
Build = Callable[[], nn.Module]

ONE_STEP = Mechanism(noise_multiplier=1.0, sample_rate=1.0, steps=1, max_grad_norm=1.0)
FULL_STEP = TrainingSettings(learning_rate=1.0)
READABLE: dict[str, Scalar] = {"encryption.scheme": "none", "cohort.quorum": 2}
PLAIN: dict[str, Scalar] = {**READABLE, "privacy.unit": "none", "rounds": 1}
PRIVATE: dict[str, Scalar] = {**READABLE, "privacy.noise_multiplier": 1.0, "privacy.epsilon": 50.0, "rounds": 1}
EVERYTHING = ["record", "group", "client", "none", "plain-metrics", "plain-updates", "server-release"]
GENEROUS: dict[str, object] = {"epsilon": 1e6, "delta": 1e-5, "allow": EVERYTHING}
ALARM = 1e-6  # chance that a statistical test would fail without a fault; the seeds are fixed
MODES = ["hooks", "functorch", "ew"]


class GivenTask(Task):
    """Classifies the records that it was given with the model that `build` makes, always from the same weights."""

    def __init__(self, build: Build, rows: Rows | None = None) -> None:
        self._build = build
        self._given = rows

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return self._build()

    def rows(self, site: SiteInfo) -> Rows:
        assert self._given is not None, "this test gave no records, so none may be asked for"
        return self._given


class DotTask(GivenTask):
    """Loss w . x: the gradient of a record is the record itself. Notes which records entered each batch."""

    def __init__(self, columns: int = 1, rows: Rows | None = None) -> None:
        super().__init__(lambda: nn.Linear(columns, 1, bias=False), rows)
        self.batches: list[list[int]] = []

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        if "id" in batch.fields:
            self.batches.append(batch["id"].tolist())
        losses: Tensor = model(batch["x"])[:, 0]
        return losses


class Untouchable(DotTask):
    """Records that nobody may ask for."""

    def rows(self, site: SiteInfo) -> Rows:
        raise AssertionError("the site read its records")


class Quiet(RandomStream):
    """A seeded stream whose noise is zero, to look at what stands below the noise."""

    def __init__(self) -> None:
        super().__init__(bytes(32), seeded=True)

    def normals(self, count: int) -> Vector:
        return np.zeros(count, dtype=np.float32)


def dots(*records: object) -> Rows:
    """Records for a `DotTask`: a number, or a list of them, each; numbered from 0."""
    table = torch.tensor(records, dtype=torch.float32).reshape(len(records), -1)
    return Rows(fields={"x": table, "id": torch.arange(len(records))})


def protection(mechanism: Mechanism = ONE_STEP, denominator: float = 1.0) -> Protection:
    return Protection(mechanism=mechanism, denominator=denominator)


def mechanism(**facts: object) -> Mechanism:
    known = {"noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 1, "max_grad_norm": 1.0}
    return Mechanism(**{**known, **facts})  # type: ignore[arg-type]


def training(**chosen: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"learning_rate": 1.0, **chosen})


def private_update(
    task: Task,
    rows: Rows,
    protection: Protection | None = None,
    settings: Settings | None = None,
    model: nn.Module | None = None,
) -> Vector:
    """What one site's private training changes: by default one noiseless full step of length 1, divided by 1."""
    model = model or task.model()
    start = Layout.of(model).flatten(model)
    protection = protection or Protection(mechanism=ONE_STEP, denominator=1.0)
    return train_privately(task, model, rows, protection, settings or quiet()) - start


def plain_update(task: Task, rows: Rows, settings: Settings) -> Vector:
    """What one site's training without privacy changes."""
    model = task.model()
    start = Layout.of(model).flatten(model)
    return train_without_privacy(task, model, rows, settings) - start


def quiet(training: TrainingSettings = FULL_STEP, **hardware: object) -> Settings:
    """Settings without noise."""
    return heard(Quiet(), training, **hardware)


def heard(stream: RandomStream, training: TrainingSettings = FULL_STEP, **hardware: object) -> Settings:
    """Settings with the noise of this stream, on the processor."""
    chosen = HardwareSettings.model_validate({"device": "cpu", **hardware})
    return Settings(training=training, hardware=chosen, stream=stream)


def plan(changes: Mapping[str, Scalar]) -> Plan:
    """A plan for tests: on the processor, else the defaults and these changes."""
    return read_plan({"hardware.device": "cpu", **changes})


def ledger_of(
    name: str = "north", rows: LedgerRows | None = None, signer: Signer | None = None, **budget: object
) -> Ledger:
    """A ledger, in memory if no rows are given, of a site that allows what this budget says, and else everything."""
    ledger = Ledger.create(rows or MemoryRows(), KeyRing.throw_away(name), signer or Signer.create(name))
    ledger.set_budget(read_budget({**GENEROUS, **budget}))
    return ledger


def releases(ledger: Ledger) -> list[Reserved]:
    """What the ledger counts, oldest first."""
    return [entry for entry in ledger.entries() if isinstance(entry, Reserved)]


def site(
    task: Task, agreed: Plan, declared_rows: int | None = 10, seed: int | None = 1, ledger: Ledger | None = None
) -> Site:
    """A site of that name and declaration, its ledger a new one if none is given; seed None draws from the system."""
    info = SiteInfo(name="north", declared_rows=declared_rows, simulation_seed=seed, plan=agreed)
    return Site(task=task, info=info, plan=agreed, ledger=ledger or ledger_of())


def order(task: Task, agreed: Plan, round_number: int = 1, run: str = "1") -> Order:
    """The server's order to train or evaluate the task's first model."""
    model = task.model()
    layout = Layout.of(model)
    address = Address(run=run, round=round_number, plan=agreed.digest, layout=layout.digest)
    return Order(address=address, cohort=2, vector=layout.flatten(model))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 3))


class Normed(nn.Module):
    """A layer norm between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.norm(self.first(inputs)))
        return found


class Embedder(nn.Module):
    """Two tokens a record, and a position embedding whose indices are one row expanded over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions, self.last = nn.Embedding(5, 4), nn.Embedding(2, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(2).expand(len(tokens), 2)
        found: Tensor = self.last((self.tokens(tokens) + self.positions(positions)).tanh().mean(dim=1))
        return found


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))


def tables(scale: float = 1.0, count: int = 7, shape: tuple[int, ...] = (6,)) -> Rows:
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(8))
    inputs[count // 2] *= scale
    return Rows(fields={"x": inputs, "y": torch.arange(count) % 3})


def images(scale: float = 1.0) -> Rows:
    return tables(scale, shape=(2, 4, 4))


def sentences(scale: float = 1.0) -> Rows:
    words = torch.randint(0, 5, (7, 2), generator=torch.Generator().manual_seed(9))
    return Rows(fields={"x": words, "y": torch.arange(7) % 3})


MODELS = [(perceptron, tables), (convolution, images), (Normed, tables), (grouped, images), (Embedder, sentences)]
NAMES = ["linear", "convolution", "layer norm", "group norm", "embedding"]


def clipped_sum(task: Task, rows: Rows, bound: float) -> NDArray[np.float64]:
    """The oracle: one backward pass a record, clipped by hand, summed in float64."""
    model = task.model().train()
    total = np.zeros(Layout.of(model).length)
    for position in range(len(rows)):
        model.zero_grad()
        task.loss(model, rows.take(torch.tensor([position]))).sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
        gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
        total += gradient * min(1.0, bound / (np.linalg.norm(gradient) + 1e-6))
    return total
