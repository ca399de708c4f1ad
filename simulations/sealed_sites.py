"""Simulated sites hold their records as deployed sites do: sealed, in a vault whose keys live only in this process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from clients.data import DataSet
from clients.sealing import Source, seal_rows
from federation.rows import Rows
from privacy.safe import Safe

_DATA_SET = "records"


def sealed_records(folder: Path, site: str, rows: Rows) -> DataSet:
    """The records, sealed in the site's own part of `folder`, with their groups where they know them."""
    safe = Safe.throw_away(folder / site, site)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    units = None if rows.units is None else [str(number) for number in rows.units.tolist()]
    unit = None if units is None else "units"
    source = Source(name=_DATA_SET, imported=now, columns=tuple(rows.fields), unit=unit)
    return seal_rows(safe.vault, source, [(rows, units)])
