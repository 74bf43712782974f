"""A broken version of each rule must make a test fail: which rule, how it is broken, which test.

The breaks are applied to a copy of the tree, never to this one. That each of them still fits the
code is tested in every run; that the tests named catch it, with `--long`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """One rule, broken: `old` becomes `new` in `file`, and one of `tests` must fail."""

    rule: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "rows and watermark commit together",
        "daemon/sync/commit.py",
        "                yield transaction\n"
        "                transaction.last.append(state.write(following, self.note))\n",
        "                transaction.last.append(state.write(following, self.note))\n"
        "            async with self.connection.transaction() as transaction:\n"
        "                yield transaction\n",
        "tests/fault/test_kill_sweep.py",
    ),
    Mutant(
        "so do they where they go together",
        "daemon/sync/commit.py",
        "        if await self.connection.at_once(fence, insert, write):\n",
        "        await self.connection.at_once(fence, write)\n"
        "        if await self.connection.at_once(insert):\n",
        "tests/fault/test_cut_connections.py",
    ),
    Mutant(
        "nothing is committed where somebody has changed the state row",
        "daemon/sync/commit.py",
        "self.connection.at_once(fence, insert, write)",
        "self.connection.at_once(insert, write)",
        "tests/integration/test_round_trips.py",
    ),
    Mutant(
        "rows of a contact are followed by what is derived",
        "daemon/sync/commit.py",
        "any(groups is None or groups for groups in known)",
        "False",
        "tests/integration/test_round_trips.py",
    ),
    Mutant(
        "the latest row of a contact stays where an older one comes",
        "daemon/sync/derived.py",
        "        standing: Sequence[Row] = told.standing\n",
        "        standing: Sequence[Row] = ()\n",
        "tests/integration/test_derived.py",
    ),
    Mutant(
        "an entity that has something to do has its turn",
        "daemon/sync/incremental.py",
        "        return self._watched is not None and self._watched.heeded and self.can_rest\n",
        "        return self._watched is not None and self.can_rest\n",
        "tests/integration/test_resting.py",
    ),
    Mutant(
        "comparisons do not wait until central is busy no more",
        "daemon/central.py",
        "        await self.load.look()\n        return True\n",
        "        await self.load.look()\n        return not self.load.busy\n",
        "tests/integration/test_busy_central.py",
    ),
    Mutant(
        "a round that waits for its turn takes none every second",
        "daemon/sync/motion.py",
        "            if not self._round_waits:\n",
        "            if self.round is not None:\n",
        "tests/integration/test_busy_central.py",
    ),
    Mutant(
        "what is known of a migration's copy ends with its change",
        "daemon/migrations/shadow.py",
        "        self._known.pop(copy, None)\n",
        "",
        "tests/integration/test_migrations.py",
    ),
    Mutant(
        "a read for several claims no more than it has looked at",
        "daemon/reads.py",
        "        end = wanted.upto if self.reached is None else min(wanted.upto, self.reached)\n",
        "        end = wanted.upto\n",
        "tests/unit/test_divided_reads.py",
    ),
    Mutant(
        "who asks while a read for several is under way is not given its answer",
        "daemon/reads.py",
        "                asked, lane.waiting = lane.waiting, set()\n",
        "                asked = lane.waiting\n",
        "tests/integration/test_reads.py",
    ),
    Mutant(
        "an id in flight holds the settled id",
        "daemon/evidence.py",
        "    return looked_to, seen - committed\n",
        "    return looked_to, set()\n",
        "tests/integration/test_settling.py",
    ),
    Mutant(
        "late rows are looked for",
        "daemon/sync/incremental.py",
        "        missing = sorted((set(theirs) - set(ours)).difference(self.committer.excluded))\n",
        "        missing: list[int] = []\n",
        "tests/integration/test_settling.py",
    ),
    Mutant(
        "what was told once has to be read before it is passed over",
        "daemon/ledger.py",
        "        if position >= told.base and not self.unread(position):\n",
        "        if position >= told.base:\n",
        "tests/unit/test_ledger.py",
    ),
    Mutant(
        "what the scans find late is looked for",
        "daemon/sync/incremental.py",
        "            late += await self._look_at_suspects(stop, deadline)\n",
        "            self._reading.suspect = None\n",
        "tests/acceptance/test_rest.py",
    ),
    Mutant(
        "a stretch is vouched for by a scan after it has settled",
        "daemon/watch.py",
        "            await self._scan(table, ledger, stretch)\n            ledger.vouch(stretch)\n",
        "            ledger.vouch(stretch)\n",
        "tests/acceptance/test_rest.py tests/integration/test_watch.py",
    ),
    Mutant(
        "the position never lies beyond the head",
        "daemon/sync/incremental.py",
        "await self._copy(head.id, stop, deadline)",
        "await self._copy(head.id + 5, stop, deadline)",
        "tests/integration/test_copying.py tests/integration/test_settling.py",
    ),
    Mutant(
        "a bound is claimed only as far as it was scanned",
        "daemon/reads.py",
        "        end = key_of(found[-1]) if full and found else wanted.upto\n",
        "        end = wanted.upto\n",
        "tests/integration/test_copying.py",
    ),
    Mutant(
        "an upsert never touches another row through a unique key",
        "daemon/sql.py",
        'f"{first} = IF({same}, {first}, (SELECT 1 UNION SELECT 2))"',
        'f"{first} = {first}"',
        "tests/integration/test_collisions.py",
    ),
    Mutant(
        "the state row is compared before anything is written",
        "daemon/state.py",
        "    if not rows or not _state(rows[0]).same(known):\n",
        "    if not rows:\n",
        "tests/integration/test_copying.py",
    ),
    Mutant(
        "one copier",
        "daemon/lock.py",
        '            if got == b"1":\n',
        '            if got in {b"0", b"1"}:\n',
        "tests/fault/test_crashes.py",
    ),
    Mutant(
        "in doubt the position is read again, never kept",
        "daemon/instance.py",
        "            # In doubt the position is read again, never kept.\n"
        "            self.motions.forget_all()\n",
        "",
        "tests/fault",
    ),
    Mutant(
        "an instance's name is compared byte for byte",
        "daemon/sql.py",
        "    if whose is not None:\n",
        "    if whose is not None and entity.through is not None:\n",
        "tests/integration/test_copying.py",
    ),
    Mutant(
        "a database that was copied for another instance is left alone",
        "daemon/making.py",
        "        if standing.refused is not None:\n            raise standing.refused\n",
        "",
        "tests/integration/test_made_for.py",
    ),
    Mutant(
        "a reset says nothing of whose the database is",
        "daemon/operations.py",
        "resync=resync, disown=resync, note=note",
        "resync=resync, disown=True, note=note",
        "tests/integration/test_made_for.py",
    ),
    Mutant(
        "what was copied of other rows counts no more",
        "daemon/state.py",
        'return "ours" if known.source == source or known.rewound else "other source"',
        'return "ours"',
        "tests/integration/test_made_for.py",
    ),
    Mutant(
        "a server converts text from the session's character set, and takes bytes as they are",
        "daemon/bulk.py",
        "[_BLOB if flag else _VAR_STRING for flag in binary]",
        "[_BLOB for _ in binary]",
        "tests/integration/test_every_type.py",
    ),
    Mutant(
        "what may contain the marks of a row's text has its length before it",
        "daemon/checksum.py",
        "    if text.free or other.free:\n",
        "    if text.free and not other.free:\n",
        "tests/integration/test_column_options.py",
    ),
    Mutant(
        "a value is never cut",
        "daemon/db.py",
        '    "STRICT_ALL_TABLES,ALLOW_INVALID_DATES',
        '    "ALLOW_INVALID_DATES',
        "tests/integration/test_quarantine.py",
    ),
    Mutant(
        "a refused row is written down with the watermark",
        "daemon/sync/commit.py",
        "        await quarantine.put(self.connection, self.entity, refusals, self.note)\n",
        "",
        "tests/integration/test_quarantine.py",
    ),
    Mutant(
        "a list of transactions proves only what was seen a second before it",
        "daemon/settle.py",
        "            late_enough = writers.at - head.at >= _MARGIN\n",
        "            late_enough = True\n",
        "tests/unit/test_settle.py",
    ),
    Mutant(
        "a rewound entity stays so until a reset",
        "daemon/sync/commit.py",
        "        following = replace(self.state, rewound=True)\n",
        "        following = self.state\n",
        "tests/integration/test_broken_once.py",
    ),
    Mutant(
        "a rewind is told until it is written",
        "daemon/sync/incremental.py",
        "            if again_from <= self.position:\n",
        "            self._rewind_noted()\n            if again_from <= self.position:\n",
        "tests/integration/test_watch.py",
    ),
    Mutant(
        "rows deleted at the end hide no later truncate",
        "daemon/watch.py",
        "            table.past.reached, table.fell_to = head, None\n",
        "            table.past.reached = head\n",
        "tests/unit/test_watching.py",
    ),
    Mutant(
        "ids that are handed out again have not settled",
        "daemon/settle.py",
        "        if fell or came_again:\n",
        "        if fell:\n",
        "tests/unit/test_settle.py",
    ),
    Mutant(
        "a full resync looks at all that central has ever had",
        "daemon/sync/incremental.py",
        "            self._resync_until = await self._last_handed_out()\n",
        "            self._resync_until = head.id\n",
        "tests/integration/test_reconcile.py",
    ),
    Mutant(
        "of two writers the second commits behind the first",
        "daemon/sync/ahead.py",
        "                await self.wait(turn)\n                in_turn = True\n",
        "                in_turn = True\n",
        "tests/integration/test_two_writers.py",
    ),
    Mutant(
        "the second writer sees that the first has the lock still",
        "daemon/sync/ahead.py",
        "        if await lock.holder(connection, self._database, note) != first.thread_id:\n",
        "        if not first.thread_id:\n",
        "tests/integration/test_two_writers.py",
    ),
    Mutant(
        "the second writer locks the state row before it commits",
        "daemon/sync/commit.py",
        "            locked = await connection.fetch(state.lock(self.state, self.note))\n"
        "            state.see(self.state, locked)\n"
        "            await ahead.see_the_lock(connection, self.connection, self.note)\n",
        "            await ahead.see_the_lock(connection, self.connection, self.note)\n",
        "tests/integration/test_two_writers.py",
    ),
)

IDS = [mutant.rule for mutant in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_each_break_fits_the_code(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert all((ROOT / test).exists() for test in mutant.tests.split())


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the tests need."""
    for name in ("daemon", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "config.yaml", tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)


def _tests(tree: Path, tests: str) -> int:
    """Run these tests in that tree; pytest's exit code."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests.split()],
        check=False,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-2000:])  # noqa: T201 - pytest shows it with a failure
    return done.returncode


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_each_break_is_caught(mutant: Mutant, tree: Path, long_run: bool) -> None:
    if not long_run:
        pytest.skip("only with --long")
    file = tree / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
    assert _tests(tree, mutant.tests) == 1
