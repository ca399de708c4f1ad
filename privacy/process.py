"""What a process that holds secrets does first."""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """No crash of this process, or of a child, writes its memory to a disk; the limit can't be raised again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
