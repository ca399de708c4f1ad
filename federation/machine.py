"""What this machine is and which versions run on it, as far as results and timings depend on them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("fedseal", "flwr", "torch", "opacus", "dp-accounting", "numpy", "cryptography", "scikit-learn")


def machine() -> dict[str, str | int | None]:
    """System, processor and number of cores."""
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
