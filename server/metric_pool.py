"""A round's metric sums, pooled among the sites that agree on their names and shapes.

Most sites decide, and among equals the first heard: a site that reports other metrics costs its own report only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from privacy.errors import WrongShape

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(slots=True)
class MetricPool:
    """Takes sums site by site; one total for each set of names and shapes that was reported."""

    _totals: dict[Shapes, dict[str, Tensor]] = field(default_factory=dict)
    _nodes: dict[Shapes, list[int]] = field(default_factory=dict)

    def add(self, node: int, sums: Mapping[str, Tensor]) -> None:
        """Adds a node's sums to those of its kind."""
        shapes = _shapes(sums)
        before = self._totals.get(shapes, {})
        self._totals[shapes] = {name: tensor + before.get(name, 0) for name, tensor in sums.items()}
        self._nodes.setdefault(shapes, []).append(node)

    def result(self) -> dict[str, Tensor]:
        """The sums of the kind that most sites reported; empty where nobody did."""
        return self._totals[self._usual()] if self._totals else {}

    @property
    def sites(self) -> int:
        """How many sites' sums are in the result."""
        return len(self._nodes[self._usual()]) if self._nodes else 0

    def outvoted(self) -> list[tuple[int, WrongShape]]:
        """The nodes whose sums are not in the result, and why."""
        return [
            (node, WrongShape(f"the metrics are {dict(shapes)}, but most sites sent {dict(self._usual())}"))
            for shapes, nodes in self._nodes.items()
            if shapes != self._usual()
            for node in nodes
        ]

    def _usual(self) -> Shapes:
        return max(self._nodes, key=lambda shapes: len(self._nodes[shapes]))


def _shapes(sums: Mapping[str, Tensor]) -> Shapes:
    return tuple((name, tuple(tensor.shape)) for name, tensor in sorted(sums.items()))
