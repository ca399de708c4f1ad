"""A small encrypted federation in one process, on a network that may change, lose or repeat what passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import nn

from clients.app import client_app
from clients.encrypted_app import answered
from clients.encrypted_site import EncryptedSite
from clients.member import Member
from clients.run_memory import ProcessMemory
from clients.site import Site
from federation.credentials import Credentials
from federation.encrypted_messages import write_order
from federation.encrypted_orders import Action, Body
from federation.layout import Layout
from federation.orders import Address, Order
from federation.plan import Plan, Scalar
from federation.rows import Rows
from federation.seeding import initial_vector
from federation.shared_model import SharedModel
from federation.site_info import SiteInfo
from privacy.certificates import Authority, Role
from privacy.identity import Identity
from server.records import Observer, RunResult
from server.rounds import Setup, run_rounds
from server.signing import signed_order
from simulations.engine import InProcessGrid
from tests.client_builders import GivenTask, Vector, ledger_of, plan

NAMES = ("north", "south", "west", "east")
ENCRYPTED: dict[str, Scalar] = {
    "encryption.scheme": "bfv",
    "privacy.unit": "none",
    "rounds": 2,
    "training.learning_rate": 0.5,
    "data.test_share": 0.5,
}
Change = Callable[[int, str, RecordDict], RecordDict | None]


class Wards(GivenTask):
    """Every site has records of its own, drawn from its name."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(3, 2))

    def rows(self, site: SiteInfo) -> Rows:
        generator = torch.Generator().manual_seed(sum(site.name.encode()))
        labels = torch.randint(0, 2, (20,), generator=generator)
        return Rows(fields={"x": torch.randn(20, 3, generator=generator) + labels[:, None], "y": labels})


TASK = Wards()
LAYOUT = Layout.of(TASK.model())


def unchanged(node: int, kind: str, content: RecordDict) -> RecordDict:
    """An honest network."""
    return content


class Network(InProcessGrid):
    """Hands every order to `down` and every reply to `up`, which may change it, or lose it (None)."""

    def __init__(
        self, federation: Federation, agreed: Plan, down: Change, up: Change, online: Callable[[], Sequence[int]] | None
    ) -> None:
        super().__init__(client_app(federation.site_of), len(federation.sites), lambda _: {}, agreed.flat())
        self._down, self._up, self._online = down, up, online
        self.passed: list[tuple[str, int, RecordDict]] = []

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes if self._online is None else [self._nodes[index] for index in self._online()]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        wanted = set(message_ids)
        while self._pending and self._pending[0].metadata.message_id in wanted:
            message = self._pending.popleft()
            place, kind = message.metadata.dst_node_id - self._nodes[0], message.metadata.message_type
            content = self._down(place, kind, message.content)
            if content is None:
                continue
            self.passed.append((kind, place, content))
            message.content = content
            reply = self._reply(message)
            if not reply.has_content():
                yield reply
                continue
            said = self._up(place, kind, reply.content)
            if said is not None:
                self.passed.append((kind, place, said))
                reply.content = said
                yield reply


@dataclass
class Federation:
    """Certified sites that have never met, and a certified server."""

    agreed: Plan
    names: Sequence[str] = NAMES
    declared: Mapping[str, int] = field(default_factory=dict)
    authority: Authority = field(default_factory=lambda: Authority.create("clinics"))
    sites: list[EncryptedSite] = field(init=False)
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        self.server = self.certified("server", "server")
        self.sites = [self.site(name) for name in self.names]

    def certified(self, name: str, role: Role, authority: Authority | None = None) -> Credentials:
        identity = Identity.create(name)
        certificate = (authority or self.authority).certify(identity.public(), role)
        return Credentials(identity=identity, certificate=certificate, trust=self.authority.trust())

    def site(self, name: str, credentials: Credentials | None = None) -> EncryptedSite:
        """A site of that name that knows of no run."""
        info = SiteInfo(
            name=name, declared_rows=self.declared.get(name, 10), simulation_seed=1, plan=self.agreed, index=0
        )
        known = credentials or self.certified(name, "site")
        ledger = ledger_of(name, signer=known.identity.signer())
        layout, vector = initial_vector(TASK, self.agreed.seed)
        member = Member(
            credentials=known,
            memory=ProcessMemory(),
            info=info,
            plan=self.agreed,
            layout=layout,
            first=SharedModel.start(vector, self.agreed),
        )
        site = Site(task=TASK, info=info, plan=self.agreed, ledger=ledger)
        return EncryptedSite(site=site, member=member)

    def site_of(self, context: Context) -> EncryptedSite:
        return self.sites[context.node_id - 1000]

    def run(
        self,
        down: Change = unchanged,
        up: Change = unchanged,
        online: Callable[[], Sequence[int]] | None = None,
        observers: tuple[Observer, ...] = (),
    ) -> RunResult:
        """A whole run over the network."""
        self.network = Network(self, self.agreed, down, up, online)
        setup = Setup(task=TASK, plan=self.agreed, credentials=self.server, observers=observers)
        return run_rounds(self.network, setup)

    def model(self, place: int) -> SharedModel:
        """What a site holds."""
        memory = self.sites[place].member.memory
        assert isinstance(memory, ProcessMemory)
        assert memory.known is not None
        return memory.known.model

    def order(
        self,
        action: Action,
        number: int,
        cohort: Sequence[str],
        body: Body,
        membership: str,
        signer: Credentials | None = None,
    ) -> RecordDict:
        """An order of run 1, signed by the server, or by somebody else."""
        address = Address(run="1", round=number, plan=self.agreed.digest, layout=LAYOUT.digest)
        return signed_order(signer or self.server, write_order(action, address, membership, cohort, body))

    def ask(self, place: int, action: Action, content: RecordDict) -> RecordDict:
        """What a site answers."""
        return answered(self.sites[place], action, content)


def clinics(names: Sequence[str] = NAMES, declared: Mapping[str, int] | None = None, **changes: Scalar) -> Federation:
    """A federation under a small plan with these changes (double underscores stand for dots)."""
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    return Federation(agreed=plan({**ENCRYPTED, **flat}), names=names, declared=declared or {})


def start(federation: Federation) -> Vector:
    return federation.sites[0].member.first.state.vector


def all_bytes(content: RecordDict) -> list[bytes]:
    """The data of every array in a message."""
    return [
        bytes(array.data) for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()
    ]


def update_of(federation: Federation, name: str, vector: Vector) -> Vector:
    """What a site's training makes of a model, computed apart."""
    alone = Federation(agreed=federation.agreed, names=(name,)).sites[0].site
    address = Address(run="9", round=1, plan=federation.agreed.digest, layout=LAYOUT.digest)
    return np.asarray(alone.train(Order(address=address, cohort=3, vector=vector)).update)
