"""Medians and quantiles. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

median = statistics.median


def quantile(samples: Sequence[float], share: float) -> float:
    """The lowest sample that at least this share of all is not above: a value that was measured,
    never one between two. Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(int(rank), 1) - 1]
