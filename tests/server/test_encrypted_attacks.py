"""A hostile server, network or site in an encrypted run: what it tries is refused by name, and no model changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor, nn

from federation.encrypted_orders import (
    Draw,
    EncryptedReport,
    Enrol,
    Join,
    Release,
    Statements,
    Take,
    Work,
)
from federation.encrypted_replies import read_confirmation, read_enrolment, read_report, read_secrets, write_report
from federation.membership import Enrolment, Membership, enrol
from federation.orders import Address, Expectation, Refusal
from federation.promise import metrics_mechanism
from federation.rows import Rows
from federation.run_secret import SealedSecrets, draw_secret
from federation.statements import Statement
from privacy.certificates import Authority
from privacy.errors import FedSealError, IdentityRefused, MembershipRefused, ModelDiffers, OrderRefused, SumRefused
from privacy.identity import Identity
from server.encrypted_sum import EncryptedSum
from tests.encrypted_builders import LAYOUT, NAMES, Federation, Wards, clinics, start, unchanged


def enrolled(federation: Federation, places: Sequence[int] = range(4)) -> list[Enrolment]:
    order = federation.order("enrol", 1, (), Enrol(), "")
    found = [read_enrolment(federation.ask(place, "enrol", order)) for place in places]
    return [each for each in found if isinstance(each, Enrolment)]


def membership_of(federation: Federation, wishes: Sequence[Enrolment], epoch: int = 1) -> Membership:
    return Membership.of("1", federation.agreed.digest, epoch, wishes)


def drawn(federation: Federation, membership: Membership, place: int = 0) -> SealedSecrets:
    order = federation.order("draw", 1, (), Draw(membership=membership.to_text()), membership.digest)
    found = read_secrets(federation.ask(place, "draw", order))
    assert isinstance(found, SealedSecrets)
    return found


def join(federation: Federation, place: int, membership: Membership, secrets: SealedSecrets) -> Statement:
    body = Join(membership=membership.to_text(), secret=secrets.for_member(NAMES[place]))
    order = federation.order("join", 1, (), body, membership.digest)
    said = read_confirmation(federation.ask(place, "join", order))
    assert not isinstance(said, Refusal)
    return said.statement


class Joined:
    """Four sites that have joined, and what their first round came to."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.membership = membership_of(federation, enrolled(federation))
        self.secrets = drawn(federation, self.membership)
        self.confirmed = [join(federation, place, self.membership, self.secrets) for place in range(4)]

    def work(self, cohort: Sequence[str] = NAMES, confirmed: Sequence[Statement] | None = None) -> RecordDict:
        body = Work(shown=(), confirmed=Statements.of(self.confirmed if confirmed is None else confirmed))
        return self.federation.order("train", 1, sorted(cohort), body, self.membership.digest)

    def report(self, place: int, order: RecordDict | None = None) -> EncryptedReport:
        content = self.federation.ask(place, "train", order or self.work())
        address = Address(run="1", round=1, plan=self.federation.agreed.digest, layout=LAYOUT.digest)
        found = read_report(content, Expectation(address=address, layout=LAYOUT, prices={"update": None}), "update")
        assert isinstance(found, EncryptedReport)
        return found

    def take(
        self, added: Sequence[EncryptedReport], listed: Sequence[EncryptedReport], cohort: Sequence[str] = NAMES
    ) -> RecordDict:
        """An order to take the sum of some reports, said to be that of others."""
        total = EncryptedSum(self.federation.agreed, self.membership, "update", 1, LAYOUT.length, tuple(sorted(NAMES)))
        for report in added:
            total.add(report)
        honest = total.handed_out()
        body = Take(
            purpose="update",
            heads=Statements.of(report.statement for report in listed),
            values=honest.values,
            tally=honest.tally,
        )
        return self.federation.order("take", 1, sorted(cohort), body, self.membership.digest)


@pytest.fixture
def federation() -> Federation:
    return clinics()


@pytest.fixture
def joined(federation: Federation) -> Joined:
    return Joined(federation)


def refused(federation: Federation, place: int, action: str, content: RecordDict) -> FedSealError:
    """The site's refusal; what it holds and counts is as before."""
    memory = federation.sites[place].member.memory
    before, entries = memory.read("1"), len(federation.sites[place].site.ledger.entries())
    with pytest.raises(FedSealError) as error:
        federation.ask(place, action, content)  # type: ignore[arg-type]
    assert memory.read("1") is before
    assert len(federation.sites[place].site.ledger.entries()) == entries
    return error.value


def test_a_server_that_swaps_a_public_key_is_refused_by_the_sites(federation: Federation) -> None:
    wishes = enrolled(federation)
    eve = federation.certified("east", "site", Authority.create("clinics"))  # its own authority of the same name
    forged = enrol(
        eve.identity, eve.certificate, run="1", plan=federation.agreed.digest, nonce=b"n" * 32, declared_rows=10
    )
    membership = membership_of(federation, [*wishes[:3], forged])
    body = Draw(membership=membership.to_text())
    error = refused(federation, 0, "draw", federation.order("draw", 1, (), body, membership.digest))
    assert isinstance(error, IdentityRefused)
    assert "not signed by the authority" in str(error)


def test_keys_swapped_under_a_members_own_certificate_are_refused(federation: Federation) -> None:
    wishes = enrolled(federation)
    eve = Identity.create("east").public()
    certificate = replace(wishes[3].certificate, identity=eve)
    membership = membership_of(federation, [*wishes[:3], replace(wishes[3], certificate=certificate)])
    body = Draw(membership=membership.to_text())
    assert isinstance(refused(federation, 0, "draw", federation.order("draw", 1, (), body, "")), IdentityRefused)


def test_a_server_that_adds_itself_as_a_member_is_refused(federation: Federation) -> None:
    wishes = enrolled(federation)
    server = federation.server
    itself = enrol(
        server.identity, server.certificate, run="1", plan=federation.agreed.digest, nonce=b"n" * 32, declared_rows=1
    )
    membership = membership_of(federation, [*wishes, itself])
    body = Draw(membership=membership.to_text())
    error = refused(federation, 0, "draw", federation.order("draw", 1, (), body, membership.digest))
    assert "certified as a server" in str(error)


def test_an_old_sealed_secret_is_refused_by_a_site_that_enrolled_anew(federation: Federation) -> None:
    old = Joined(federation)
    federation.sites[0] = federation.site("north", federation.sites[0].member.credentials)  # it forgot everything
    enrolled(federation, [0])
    body = Join(membership=old.membership.to_text(), secret=old.secrets.for_member("north"))
    error = refused(federation, 0, "join", federation.order("join", 1, (), body, old.membership.digest))
    assert isinstance(error, MembershipRefused)
    assert "another time" in str(error)


def test_an_older_membership_is_refused_after_a_newer_one(joined: Joined) -> None:
    federation = joined.federation
    newer = membership_of(federation, list(joined.membership.members.values()), epoch=2)
    join(federation, 0, newer, drawn(federation, newer, 1))
    body = Join(membership=joined.membership.to_text(), secret=joined.secrets.for_member("north"))
    error = refused(federation, 0, "join", federation.order("join", 1, (), body, joined.membership.digest))
    assert "an older membership" in str(error)


def test_a_secret_drawn_by_somebody_who_is_no_member_is_refused(federation: Federation) -> None:
    membership = membership_of(federation, enrolled(federation))
    eve = Identity.create("eve")
    body = Join(membership=membership.to_text(), secret=draw_secret(membership, eve).for_member("north"))
    error = refused(federation, 0, "join", federation.order("join", 1, (), body, membership.digest))
    assert "no member" in str(error)


def test_a_secret_drawn_in_a_members_name_is_refused(federation: Federation) -> None:
    membership = membership_of(federation, enrolled(federation))
    body = Join(
        membership=membership.to_text(), secret=draw_secret(membership, Identity.create("south")).for_member("north")
    )
    error = refused(federation, 0, "join", federation.order("join", 1, (), body, membership.digest))
    assert "the signature is not south's" in str(error)


def test_a_secret_sealed_to_another_member_does_not_open(federation: Federation) -> None:
    membership = membership_of(federation, enrolled(federation))
    secrets = drawn(federation, membership)
    body = Join(membership=membership.to_text(), secret=secrets.for_member("south"))
    order = federation.order("join", 1, (), body, membership.digest)
    assert isinstance(refused(federation, 0, "join", order), IdentityRefused)


def test_two_members_are_too_few(federation: Federation) -> None:
    membership = membership_of(federation, enrolled(federation)[:2])
    order = federation.order("draw", 1, (), Draw(membership=membership.to_text()), membership.digest)
    assert "fewer than 3" in str(refused(federation, 0, "draw", order))


def test_an_order_signed_by_a_site_is_refused(joined: Joined) -> None:
    body = Work(shown=(), confirmed=Statements.of(joined.confirmed))
    credentials = joined.federation.sites[1].member.credentials
    order = joined.federation.order("train", 1, sorted(NAMES), body, joined.membership.digest, credentials)
    assert "not as a server" in str(refused(joined.federation, 0, "train", order))


def changed(order: RecordDict, **facts: str | int) -> RecordDict:
    return RecordDict({**order, "facts": ConfigRecord({**order.config_records["facts"], **facts})})


@pytest.mark.parametrize("facts", [{"round": 2}, {"run": "2"}, {"cohort": '["north"]'}, {"confirmed": "[]"}])
def test_an_order_changed_on_the_way_is_refused(joined: Joined, facts: dict[str, str | int]) -> None:
    error = refused(joined.federation, 0, "train", changed(joined.work(), **facts))
    assert isinstance(error, OrderRefused)
    assert "it was changed" in str(error)


def test_an_order_of_another_action_is_refused(joined: Joined) -> None:
    assert "but came as 'evaluate'" in str(refused(joined.federation, 0, "evaluate", joined.work()))


def test_an_order_repeated_is_refused_and_counted_once(joined: Joined) -> None:
    order = joined.work()
    joined.report(0, order)
    assert "taken up before" in str(refused(joined.federation, 0, "train", order))


@pytest.mark.parametrize(
    "cohort", [("south", "west", "east"), ("north", "south"), ("north", "south", "eve"), NAMES * 2]
)
def test_a_cohort_that_is_none_is_refused(joined: Joined, cohort: Sequence[str]) -> None:
    assert "the cohort" in str(refused(joined.federation, 0, "train", joined.work(cohort)))


def test_training_needs_three_members_to_confirm_the_model(joined: Joined) -> None:
    error = refused(joined.federation, 0, "train", joined.work(confirmed=joined.confirmed[:2]))
    assert isinstance(error, ModelDiffers)
    once = refused(joined.federation, 0, "train", joined.work(confirmed=[joined.confirmed[0]] * 3))
    assert isinstance(once, ModelDiffers)


def test_a_confirmation_of_another_model_stops_the_site(joined: Joined) -> None:
    credentials = joined.federation.sites[2].member.credentials
    other = replace(joined.confirmed[2], model="0" * 64).signed(credentials.identity)
    confirmed = [*joined.confirmed[:2], other, joined.confirmed[3]]
    assert isinstance(refused(joined.federation, 0, "train", joined.work(confirmed=confirmed)), ModelDiffers)


def test_a_confirmation_that_its_member_did_not_sign_is_refused(joined: Joined) -> None:
    forged = replace(joined.confirmed[2], name="east")
    error = refused(joined.federation, 0, "train", joined.work(confirmed=[*joined.confirmed[:2], forged]))
    assert isinstance(error, IdentityRefused)


def test_a_sum_of_fewer_than_three_is_not_decrypted(joined: Joined) -> None:
    reports = [joined.report(place) for place in range(2)]
    error = refused(joined.federation, 0, "take", joined.take(reports, reports))
    assert "at least 3" in str(error)


def honest(reports: Sequence[EncryptedReport]) -> tuple[list[EncryptedReport], list[EncryptedReport]]:
    return [*reports], [*reports]


@pytest.mark.parametrize(
    "lie",
    [
        lambda reports: (reports[:3], reports),
        lambda reports: (reports, reports[:3]),
        lambda reports: ([*reports[:2], reports[3]], reports[:3]),
    ],
    ids=["one report left out", "one report concealed", "one report put in another's place"],
)
def test_a_sum_that_is_not_of_the_reports_it_came_with_is_refused(
    joined: Joined, lie: Callable[[list[EncryptedReport]], tuple[list[EncryptedReport], list[EncryptedReport]]]
) -> None:
    reports = [joined.report(place) for place in range(4)]
    error = refused(joined.federation, 0, "take", joined.take(*lie(reports)))
    assert isinstance(error, SumRefused)
    joined.federation.ask(0, "take", joined.take(*honest(reports)))
    assert joined.federation.model(0).round == 1


def test_a_report_counted_twice_in_place_of_another_is_refused(joined: Joined) -> None:
    """The server holds the ciphertexts, and can add one of them under another's name if it ignores its own checks."""
    reports = [joined.report(place) for place in range(4)]
    total = EncryptedSum(joined.federation.agreed, joined.membership, "update", 1, LAYOUT.length, tuple(sorted(NAMES)))
    for report in reports[:3]:
        total.add(report)
    total._values._sites.clear()
    total._tally._sites.clear()
    total.add(reports[0])
    lying = total.handed_out()
    body = replace(lying, heads=Statements.of(report.statement for report in reports))
    order = joined.federation.order("take", 1, sorted(NAMES), body, joined.membership.digest)
    assert isinstance(refused(joined.federation, 0, "take", order), SumRefused)


def test_a_sum_taken_once_is_not_taken_again(joined: Joined) -> None:
    reports = [joined.report(place) for place in range(4)]
    order = joined.take(reports, reports)
    joined.federation.ask(0, "take", order)
    after = joined.federation.model(0).digest
    refused(joined.federation, 0, "take", order)
    assert joined.federation.model(0).digest == after


def test_a_member_that_trained_from_another_model_is_seen(joined: Joined) -> None:
    reports = [joined.report(place) for place in range(4)]
    credentials = joined.federation.sites[3].member.credentials
    other = replace(reports[3].statement, model="1" * 64).signed(credentials.identity)
    listed = [*reports[:3], replace(reports[3], statement=other)]
    assert isinstance(refused(joined.federation, 0, "take", joined.take(reports, listed)), ModelDiffers)


def test_no_model_leaves_a_site_whose_plan_keeps_it(joined: Joined) -> None:
    body = Release(confirmed=Statements.of(joined.confirmed))
    order = joined.federation.order("release", 1, (), body, joined.membership.digest)
    assert "no model leaves this site" in str(refused(joined.federation, 0, "release", order))


def carried(kind: str, change: Callable[[int, RecordDict], RecordDict]) -> Callable[[int, str, RecordDict], RecordDict]:
    """A network that changes replies of one kind."""
    return lambda node, message, content: change(node, content) if message == kind else content


def reasons(federation: Federation, up: Callable[[int, str, RecordDict], RecordDict]) -> list[str]:
    """Which errors the server notes in the first round, and how many reports it adds."""
    result = federation.run(up=up)
    first = result.rounds[0]
    assert len(first.answered) == 3
    assert start(federation) is not None
    assert len({federation.model(place).digest for place in range(4)}) == 1
    return [refused.error for refused in first.refused]


def test_a_report_delivered_as_another_sites_is_refused() -> None:
    kept: dict[int, RecordDict] = {}

    def swap(node: int, content: RecordDict) -> RecordDict:
        kept[node] = content
        return kept[0] if node == 1 else content

    assert "MalformedReport" in reasons(clinics(rounds=1), carried("train", swap))


def test_a_report_of_an_earlier_round_is_refused() -> None:
    kept: list[RecordDict] = []

    def repeat(node: int, content: RecordDict) -> RecordDict:
        if node == 0:
            kept.append(content)
            return kept[0]
        return content

    result = clinics(rounds=2).run(up=carried("train", repeat))
    assert [len(record.answered) for record in result.rounds] == [4, 3]
    assert [refused.error for refused in result.rounds[1].refused] == ["LateReport"]


@pytest.mark.parametrize("part", ["values", "tally"])
def test_a_report_with_a_flipped_bit_is_refused(part: str) -> None:
    def flip(node: int, content: RecordDict) -> RecordDict:
        if node != 2:
            return content
        record = content.array_records[part]
        found = record["000000"]
        data = bytearray(found.data)
        data[5000] ^= 1
        changed = replace(found, data=bytes(data))
        return RecordDict({**content, part: ArrayRecord({"000000": changed})})

    assert reasons(clinics(rounds=1), carried("train", flip)) == ["MalformedReport"]


def test_a_statement_for_another_cohort_is_refused() -> None:
    federation = clinics(rounds=1)

    def other(node: int, content: RecordDict) -> RecordDict:
        if node != 3:
            return content
        signed = content.config_records["signed"]
        said = Statement.from_text(str(signed["statement"]))
        lied = replace(said, cohort="2" * 64).signed(federation.sites[3].member.credentials.identity)
        return RecordDict({**content, "signed": ConfigRecord({"statement": lied.to_text()})})

    assert reasons(federation, carried("train", other)) == ["MalformedReport"]


def test_a_site_certified_by_nobody_takes_no_part_and_costs_the_others_nothing() -> None:
    federation = clinics(rounds=1)
    stranger = federation.certified("east", "site", Authority.create("clinics"))
    federation.sites[3] = federation.site("east", stranger)
    result = federation.run()
    assert result.rounds[0].answered == ("north", "south", "west")
    assert "UnknownSite" in [refused.error for refused in result.rounds[0].refused]


def test_a_second_node_in_a_sites_name_takes_no_part() -> None:
    federation = clinics(rounds=1)
    federation.sites[3] = federation.site("north", federation.sites[0].member.credentials)
    result = federation.run()
    assert result.rounds[0].answered == ("north", "south", "west")


def test_a_site_that_reports_on_another_ledger_is_refused() -> None:
    federation = clinics(rounds=1)
    site = federation.sites[2].site
    federation.sites[2].site = replace(site, ledger=clinics().sites[2].site.ledger)
    result = federation.run()
    assert [refused.error for refused in result.rounds[0].refused] == ["MalformedReceipt"]


@pytest.mark.parametrize("text", ["", "[", '{"epoch": 1}', "[" * 100_000, json.dumps({"epoch": 1, "members": [1]})])
def test_a_membership_that_is_none_is_refused(federation: Federation, text: str) -> None:
    enrolled(federation)
    order = federation.order("draw", 1, (), Draw(membership=text), "")
    assert isinstance(refused(federation, 0, "draw", order), MembershipRefused)


class Asked:
    """Federation whose metrics the server tries to learn of one site."""

    def __init__(self) -> None:
        self.joined = Joined(clinics(metrics="private", **PRIVATE))

    def metrics(self, places: Sequence[int]) -> RecordDict:
        """The order to take the sum of the metrics of these sites."""
        joined, agreed = self.joined, self.joined.federation.agreed
        body = Work(shown=(), confirmed=Statements.of(joined.confirmed))
        order = joined.federation.order("evaluate", 1, sorted(NAMES), body, joined.membership.digest)
        address = Address(run="1", round=1, plan=agreed.digest, layout=LAYOUT.digest)
        expected = Expectation(address=address, layout=LAYOUT, prices={"metrics": metrics_mechanism(agreed)})
        if not hasattr(self, "reports"):
            found = [
                read_report(joined.federation.ask(place, "evaluate", order), expected, "metrics") for place in range(4)
            ]
            self.reports = [each for each in found if isinstance(each, EncryptedReport)]
        total = EncryptedSum(agreed, joined.membership, "metrics", 1, 3, tuple(sorted(NAMES)))
        for place in places:
            total.add(self.reports[place])
        return joined.federation.order("take", 1, sorted(NAMES), total.handed_out(), joined.membership.digest)


PRIVATE: dict[str, str | float] = {
    "privacy__unit": "record",
    "privacy__noise_multiplier": 1.0,
    "privacy__epsilon": 100.0,
    "data__rows_per_site": 10,
}


def test_a_server_gets_the_total_of_one_set_of_metrics_and_no_second_one_to_subtract() -> None:
    asked = Asked()
    east = NAMES.index("east")  # the first by name tells
    told = read_confirmation(asked.joined.federation.ask(east, "take", asked.metrics(range(4))))
    assert not isinstance(told, Refusal)
    assert set(told.told) == {"count", "correct", "loss"}
    assert "once" in str(refused(asked.joined.federation, east, "take", asked.metrics(range(3))))
    for place in range(3):
        assert "once" in str(refused(asked.joined.federation, place, "take", asked.metrics(range(3))))


def test_only_one_site_tells_what_share_of_values_was_clipped(joined: Joined) -> None:
    reports = [joined.report(place) for place in range(4)]
    said = [
        read_confirmation(joined.federation.ask(place, "take", joined.take(reports, reports))) for place in range(4)
    ]
    told = [each.told for each in said if not isinstance(each, Refusal)]
    assert [bool(each) for each in told] == [name == "east" for name in NAMES]


def test_a_plan_that_encrypts_nothing_is_refused_outside_simulations() -> None:
    federation = clinics(encryption__simulate="sizes")
    member = federation.sites[0].member
    member.info = replace(member.info, simulation_seed=None)
    with pytest.raises(OrderRefused, match="encrypts nothing"):
        federation.ask(0, "enrol", federation.order("enrol", 1, (), Enrol(), ""))
    assert member.memory.read("1") is None


def test_a_site_takes_no_part_in_a_plan_that_its_engineer_did_not_agree_to() -> None:
    federation = clinics()
    member = federation.sites[0].member
    member.info = replace(member.info, agreed_plan="f" * 64)
    with pytest.raises(OrderRefused, match="agreed to plan ffffffffffff… only"):
        federation.ask(0, "enrol", federation.order("enrol", 1, (), Enrol(), ""))
    assert member.memory.read("1") is None


def test_an_honest_network_changes_nothing(joined: Joined) -> None:
    content = write_report(joined.report(0))
    assert unchanged(0, "train", content) is content


class Diverging(Wards):
    """Its gradients are no numbers."""

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return super().loss(model, batch) * float("nan")


def test_an_update_that_is_no_number_is_not_quantised_and_costs_its_site_alone() -> None:
    federation = clinics(rounds=1)
    federation.sites[2].site = replace(federation.sites[2].site, task=Diverging())
    result = federation.run()
    assert [(refused.site, refused.error) for refused in result.rounds[0].refused] == [("west", "ValueTooLarge")]
    assert result.rounds[0].answered == ("east", "north", "south")


def test_the_site_that_tells_the_metrics_can_not_move_the_others_to_another_model() -> None:
    federation = clinics(rounds=2, metrics="private", **PRIVATE)
    east = NAMES.index("east")
    taken: list[int] = []

    def lie(node: int, content: RecordDict) -> RecordDict:
        taken.append(node)
        if taken.count(east) != 2 or node != east:
            return content
        said = Statement.from_text(str(content.config_records["signed"]["statement"]))
        lied = replace(said, model="0" * 64).signed(federation.sites[east].member.credentials.identity)
        return RecordDict({**content, "signed": ConfigRecord({"statement": lied.to_text()})})

    result = federation.run(up=carried("query.take", lie))
    assert [len(record.answered) for record in result.rounds] == [4, 4]
    assert len({federation.model(place).digest for place in range(4)}) == 1
