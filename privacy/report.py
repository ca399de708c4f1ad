"""The run's report (placeholder until written)."""

from pathlib import Path


def write_report(folder: Path) -> None: ...
