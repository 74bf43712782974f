"""Real servers for the tests: every test sees fresh databases, and nothing outlives the run.

`central` and `local` are two fresh servers for one test, which may kill, pause and restart them.
`servers` is a pair that the tests of a module share; `databases` gives one test two fresh databases
on it and is the faster choice for a test that leaves its servers alone. The two servers of a pair
differ in every setting that must not matter to a copy. A crash of a server fails its test.

A pair is a family of servers for each side. What stands in tests/integration and tests/fault and
asks for a server can run on all four pairs, and its id names the pair; the other tests, and those
marked `mariadb`, run on MariaDB alone. All on all pairs takes hours on a slow machine, so the
ordinary run has all of them on MariaDB, and of each test one case on one of the other three pairs,
the same pair for a whole module; those marked `all_pairs` run on all. `--families` chooses others.
Where there is no MySQL (see tests/mysql_server.py) its pairs are skipped, and the run's last lines
say so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
import yaml

from daemon import errors
from daemon import local as rows_to_local
from daemon.demo.central import schema
from daemon.demo.server import MariaDB, PrivateServer, template
from tests import mysql_server, prometheus
from tests.mysql_server import MySQL
from tests.prometheus import NO_PROMETHEUS

# What a server of config.yaml needs: host, port, database, user, password.
ServerConfig = dict[str, object]

CENTRAL_OPTIONS = (
    "--character-set-server=utf8mb4",
    "--default-time-zone=-03:00",
    "--sql-mode=",
)
LOCAL_OPTIONS = (
    "--character-set-server=latin1",
    "--default-time-zone=+05:30",
    "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES",
)

FAMILIES: dict[str, type[PrivateServer]] = {"mariadb": MariaDB, "mysql": MySQL}
NO_MYSQL = "there is no MySQL server"
SERVERS = ("maria", "ld-linux", "prometheus")  # what their processes are called
ON_ALL_PAIRS = ("integration", "fault")
ORDINARY = "ordinary"

_numbers = count(1)


class Pair(NamedTuple):
    """The families of a central and a local server."""

    central: str
    local: str

    @property
    def name(self) -> str:
        return f"{self.central}-{self.local}"


MARIADB = Pair("mariadb", "mariadb")
PAIRS = {pair.name: pair for pair in (
    MARIADB, Pair("mysql", "mariadb"), Pair("mariadb", "mysql"), Pair("mysql", "mysql")
)}  # fmt: skip


class Databases(NamedTuple):
    """One test's two databases: central with its tables, local empty."""

    central: ServerConfig
    local: ServerConfig


class Servers(NamedTuple):
    """A pair of servers shared by a module's tests, which must leave both running."""

    central: PrivateServer
    local: PrivateServer

    def new_central(self) -> ServerConfig:
        """Create a uniquely named central database with its tables."""
        config = self.central.create_database(f"central_{next(_numbers)}")
        self.central.execute(schema(), str(config["database"]))
        return config

    def new_local(self) -> ServerConfig:
        """Create a uniquely named, empty local database."""
        return self.local.create_database(f"local_{next(_numbers)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also what takes minutes")
    parser.addoption(
        "--families",
        default=ORDINARY,
        help="pairs of server families to test, central-local:"
        f" {ORDINARY} (all on MariaDB, of each test one case on another pair), all,"
        f" or some of {', '.join(PAIRS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mariadb: not for other families' servers")
    config.addinivalue_line("markers", "all_pairs: on all pairs of families, all of its cases")
    unknown = set(_wanted(config)) - PAIRS.keys()
    if unknown:
        raise pytest.UsageError(
            f"--families: {', '.join(sorted(unknown))} is none of {', '.join(PAIRS)}"
        )


def _wanted(config: pytest.Config) -> list[str]:
    chosen = str(config.getoption("--families"))
    return list(PAIRS) if chosen in ("all", ORDINARY) else chosen.split(",")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An ordinary run's part of what can run on all pairs; a case that is named runs anyhow."""
    by_name = any("[" in argument for argument in config.args)
    if by_name or config.getoption("--families") != ORDINARY:
        return
    kept = _ordinary([_case_of(item) for item in items])
    config.hook.pytest_deselected(
        items=[item for item, keep in zip(items, kept, strict=True) if not keep]
    )
    items[:] = [item for item, keep in zip(items, kept, strict=True) if keep]


class _Case(NamedTuple):
    module: str
    function: str
    pair: Pair | None
    """None: it runs on no pair, or on all."""


def _case_of(item: pytest.Item) -> _Case:
    module = item.path.name
    function = item.nodeid.partition("[")[0]
    params = item.callspec.params if hasattr(item, "callspec") else {}
    everywhere = any(item.iter_markers("all_pairs"))
    return _Case(module, function, None if everywhere else params.get("pair"))


def _ordinary(cases: Sequence[_Case]) -> list[bool]:
    """Which of them an ordinary run takes. The choice hangs on names alone: all workers have to
    make the same one."""
    others = [pair for pair in PAIRS.values() if pair != MARIADB]
    elsewhere: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        if case.pair == others[crc32(case.module.encode()) % len(others)]:
            elsewhere.setdefault(case.function, []).append(number)
    chosen = {
        numbers[crc32(function.encode()) % len(numbers)] for function, numbers in elsewhere.items()
    }
    return [case.pair in (None, MARIADB) or number in chosen for number, case in enumerate(cases)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The pairs that a test runs on; without any, `pair` is the fixture: MariaDB."""
    everywhere = metafunc.definition.path.parent.name in ON_ALL_PAIRS
    alone = any(metafunc.definition.iter_markers("mariadb"))
    if "pair" not in metafunc.fixturenames or not everywhere or alone:
        return
    missing = mysql_server.missing()
    skipped = [pytest.mark.skip(f"{NO_MYSQL}: {missing}")] if missing else []
    metafunc.parametrize(
        "pair",
        [
            pytest.param(PAIRS[name], id=name, marks=skipped if "mysql" in PAIRS[name] else [])
            for name in PAIRS
            if name in _wanted(metafunc.config)
        ],
        scope="module",
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What nobody should overlook: servers that this run says nothing about."""
    left_out = [name for name in PAIRS if name not in _wanted(config)]
    if config.getoption("--families") == ORDINARY:
        terminalreporter.write_line(
            "on MySQL: one case of each test, on one pair; --families all: all of them on all pairs"
        )
    if left_out:
        terminalreporter.write_line(f"not tested (--families): {', '.join(left_out)}", yellow=True)
    skipped = terminalreporter.stats.get("skipped", [])
    number = sum(NO_MYSQL in str(report.longrepr) for report in skipped)
    if number:
        without = [name for name in _wanted(config) if "mysql" in PAIRS[name]]
        terminalreporter.write_line(
            f"SKIPPED {number} tests of {', '.join(without)}: {NO_MYSQL}: {mysql_server.missing()}",
            yellow=True,
        )
    number = sum(NO_PROMETHEUS in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_line(
            f"SKIPPED {number} tests: {NO_PROMETHEUS}: {prometheus.missing()}", yellow=True
        )


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The families of `central`, `local`, `servers`: MariaDB, where a test runs on one pair."""
    return MARIADB


@pytest.fixture(params=["in_bulk", "as_literals"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are sent in the test's own process, however few: by the bulk protocol, where the
    local server has it, or as literals: new ones inserted, others upserted."""
    wanted = str(request.param)
    if wanted == "in_bulk":
        monkeypatch.setattr(rows_to_local, "INSERT_ROWS", 0)
    monkeypatch.setattr(rows_to_local, "BULK_ROWS", 1 if wanted == "in_bulk" else 1 << 62)
    return wanted


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether this run may take minutes."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns a family's initialised data directory; all workers share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    make = {"mariadb": template, "mysql": mysql_server.template}
    return lambda family: make[family](shared)


@pytest.fixture(scope="session")
def mariadb_template(templates: Callable[[str], Path]) -> Path:
    """MariaDB's initialised data directory."""
    return templates("mariadb")


@contextmanager
def _server(
    name: str, family: str, options: tuple[str, ...], source: Path
) -> Iterator[PrivateServer]:
    """A started server; at the end it is stopped, removed, and asked whether it crashed."""
    directory = Path(tempfile.mkdtemp(prefix=f"wpp-{name}-"))
    server = FAMILIES[family](directory, name=name, options=options, template=source)
    try:
        server.start()
        yield server
    finally:
        server.close()
        crashes = server.crashes()
        shutil.rmtree(directory, ignore_errors=True)
    if crashes:
        pytest.fail("the server crashed: " + "; ".join(crashes))


@pytest.fixture
def central(pair: Pair, templates: Callable[[str], Path]) -> Iterator[PrivateServer]:
    """A fresh central server for this test alone, without databases."""
    with _server("central", pair.central, CENTRAL_OPTIONS, templates(pair.central)) as server:
        yield server


@pytest.fixture
def local(pair: Pair, templates: Callable[[str], Path]) -> Iterator[PrivateServer]:
    """A fresh local server for this test alone, without databases."""
    with _server("local", pair.local, LOCAL_OPTIONS, templates(pair.local)) as server:
        yield server


@pytest.fixture(scope="module")
def servers(pair: Pair, templates: Callable[[str], Path]) -> Iterator[Servers]:
    """A central and a local server for the tests of one module."""
    with (
        _server(
            "central", pair.central, CENTRAL_OPTIONS, templates(pair.central)
        ) as central_server,
        _server("local", pair.local, LOCAL_OPTIONS, templates(pair.local)) as local_server,
    ):
        yield Servers(central_server, local_server)


@pytest.fixture
def databases(servers: Servers) -> Iterator[Databases]:
    """Two fresh databases on the module's servers, dropped after the test."""
    made = Databases(servers.new_central(), servers.new_local())
    yield made
    servers.central.execute(f"DROP DATABASE {made.central['database']}")
    servers.local.execute(f"DROP DATABASE {made.local['database']}")


INCREMENTAL_ONLY: Mapping[str, Mapping[str, object]] = {
    "messages": {"hot": None},
    "chats": {"hot": None},
    "contacts": {"enabled": False},
    "contact_sectors": {"enabled": False},
    "schedules": {"enabled": False},
}


@pytest.fixture
def write_config(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that writes a config.yaml for the given databases and returns its path.

    `write_config(central, {"nunes": local}, sync={"batch_rows": 10})`: further sections by name,
    and they win. The control socket lies at a path short enough for a socket; the HTTP listener
    takes any free port. Without `entities`, nothing is compared while it is copied: most tests are
    about the incremental motion alone.
    """
    # tmp_path contains the test's name and is often longer than a socket's 107 bytes.
    runtime = Path(tempfile.mkdtemp(prefix="wpp-run-", dir="/tmp"))

    def write(
        central: Mapping[str, object],
        locals_: Mapping[str, Mapping[str, object]],
        **sections: object,
    ) -> Path:
        document: dict[str, object] = {
            "central": dict(central),
            "instances": {name: dict(config) for name, config in locals_.items()},
            "control": {"socket": str(runtime / "control.sock")},
            "http": {"listen": "127.0.0.1:0"},
            "entities": INCREMENTAL_ONLY,
            **sections,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
        return path

    yield write
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_secret_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's configuration has for a password is a plain word in the next one's."""
    monkeypatch.setattr(errors, "_secrets", {})


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left_behind() -> Iterator[None]:
    """At the end of the run, this process has no server among its children."""
    yield
    left = [
        pid
        for pid, parent, name in _processes()
        if parent == os.getpid() and any(each in name for each in SERVERS)
    ]
    assert left == [], f"servers left behind: {left}"


def _processes() -> Iterator[tuple[int, int, str]]:
    """Process id, parent's id and command of all processes that are not mere zombies."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text()
        except OSError:
            continue  # it ended while we looked
        name, _, rest = stat.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if state != "Z":
            yield int(directory.name), int(parent), name
