"""The bench takes a small measure really: servers, a whole process, a checked copy, a rival."""

from __future__ import annotations

from pathlib import Path

from bench.measures import whole_process
from bench.place import Place
from bench.rivals import Afternoon, DumpPipe


def test_a_small_measure(tmp_path: Path) -> None:
    with Place(tmp_path, quick=True, rounds=1) as place:
        outcome = whole_process.take(place)
    found = {line.what for line in outcome.lines}
    assert {whole_process.OURS, Afternoon.name} <= found
    # Where it is not installed, the bench says so and goes on.
    assert (DumpPipe.name in found) != (DumpPipe.name in outcome.missing)
    assert outcome.goals[0].reached is None or DumpPipe.name in found
