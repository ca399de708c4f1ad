"""A site killed at any act of a round: what it read, and what left it, is counted, and the next round goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from clients.site import Site
from federation.rows import Rows
from federation.site_info import SiteInfo
from privacy.entries import Reserved, Settled
from tests.client_builders import PRIVATE, DotTask, dots, order, plan
from tests.privacy.ledger_builders import budget, deaths, in_memory, note_down, unlocked_again
from tests.privacy.vault_builders import safe_in

AGREED = plan({**PRIVATE, "rounds": 4})


@dataclass
class Marks:
    """What a killed round left: whether records were read, and whether its report had left."""

    folder: Path

    @property
    def read(self) -> Path:
        return self.folder / "read"

    @property
    def left(self) -> Path:
        return self.folder / "left"


class Reading(DotTask):
    """Leaves a mark when its records are read."""

    def __init__(self, mark: Path) -> None:
        super().__init__(rows=dots(1, 2, 3))
        self._mark = mark

    def rows(self, site: SiteInfo) -> Rows:
        note_down(self._mark)
        return super().rows(site)


def site_of(folder: Path) -> Site:
    task = Reading(Marks(folder).read)
    info = SiteInfo(name="north", declared_rows=3, plan=AGREED)
    return Site(task=task, info=info, plan=AGREED, ledger=unlocked_again(folder / "site").ledger())


def test_a_round_killed_at_any_act_is_counted_before_records_are_read_and_the_next_one_goes_on() -> None:
    torch.set_num_threads(1)
    with in_memory() as folder:
        first = folder / "original"
        first.mkdir()
        original = safe_in(first / "site", "north")
        original.ledger().set_budget(budget())
        original.anchor_at(first / "anchor")
        wish = order(DotTask(), AGREED)

        def round_of(number: int) -> Callable[[], None]:
            copy = folder / str(number)
            shutil.copytree(first, copy)
            settings = copy / "site/safe.toml"
            settings.write_text(settings.read_text().replace(str(first / "anchor"), str(copy / "anchor")))

            def train() -> None:
                site_of(copy).train(wish)
                note_down(Marks(copy).left)

            return train

        read = unread = 0
        for number in deaths(round_of):
            marks = Marks(folder / str(number))
            entries = unlocked_again(marks.folder / "site").ledger().entries()
            reserved = sum(isinstance(entry, Reserved) for entry in entries)
            settled = sum(isinstance(entry, Settled) for entry in entries)
            read, unread = read + marks.read.exists(), unread + (not marks.read.exists())
            assert reserved >= int(marks.read.exists())
            assert settled >= int(marks.left.exists())
            assert reserved >= settled
            again = site_of(marks.folder)
            again.train(order(again.task, AGREED, 2))
            assert sum(isinstance(entry, Reserved) for entry in again.ledger.entries()) == reserved + 1
            shutil.rmtree(marks.folder)
        assert read > 5
        assert unread > 5
