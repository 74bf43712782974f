"""Real servers for the tests: every test sees fresh databases, and nothing outlives the run.

`central` and `local` are two fresh servers for one test, which may kill, pause and restart them.
`servers` is a pair that the tests of a module share; `databases` gives one test two fresh databases
on it and is the faster choice for a test that leaves its servers alone. The two servers of a pair
differ in every setting that must not matter to a copy. A crash of a server fails its test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from daemon.demo.central import schema
from daemon.demo.server import MariaDB, template

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

_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: what takes minutes runs too, and what draws at random draws much more."""
    parser.addoption("--long", action="store_true", help="run the long tests, too")


class Databases(NamedTuple):
    """One test's two databases: central with its tables, local empty."""

    central: ServerConfig
    local: ServerConfig


class Servers(NamedTuple):
    """A pair of servers shared by a module's tests, which must leave both running."""

    central: MariaDB
    local: MariaDB

    def new_central(self) -> ServerConfig:
        """Create a uniquely named central database with its tables."""
        config = self.central.create_database(f"central_{next(_numbers)}")
        self.central.execute(schema(), str(config["database"]))
        return config

    def new_local(self) -> ServerConfig:
        """Create a uniquely named, empty local database."""
        return self.local.create_database(f"local_{next(_numbers)}")


@pytest.fixture(scope="session")
def mariadb_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised data directory, shared by all workers of a parallel run."""
    base = tmp_path_factory.getbasetemp()
    return template(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@contextmanager
def _server(name: str, options: tuple[str, ...], source: Path) -> Iterator[MariaDB]:
    """A started server; at the end it is stopped, removed, and asked whether it crashed."""
    directory = Path(tempfile.mkdtemp(prefix=f"wpp-{name}-"))
    server = MariaDB(directory, name=name, options=options, template=source)
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
def central(mariadb_template: Path) -> Iterator[MariaDB]:
    """A fresh central server for this test alone, without databases."""
    with _server("central", CENTRAL_OPTIONS, mariadb_template) as server:
        yield server


@pytest.fixture
def local(mariadb_template: Path) -> Iterator[MariaDB]:
    """A fresh local server for this test alone, without databases."""
    with _server("local", LOCAL_OPTIONS, mariadb_template) as server:
        yield server


@pytest.fixture(scope="module")
def servers(mariadb_template: Path) -> Iterator[Servers]:
    """A central and a local server for the tests of one module."""
    with (
        _server("central", CENTRAL_OPTIONS, mariadb_template) as central_server,
        _server("local", LOCAL_OPTIONS, mariadb_template) as local_server,
    ):
        yield Servers(central_server, local_server)


@pytest.fixture
def databases(servers: Servers) -> Iterator[Databases]:
    """Two fresh databases on the module's servers, dropped after the test."""
    made = Databases(servers.new_central(), servers.new_local())
    yield made
    servers.central.execute(f"DROP DATABASE {made.central['database']}")
    servers.local.execute(f"DROP DATABASE {made.local['database']}")


@pytest.fixture
def write_config(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that writes a config.yaml for the given databases and returns its path.

    `write_config(central, {"nunes": local}, sync={"batch_rows": 10})`: further sections by name,
    and they win. The control socket lies at a path short enough for a socket; the HTTP listener
    takes any free port.
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
            **sections,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
        return path

    yield write
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left_behind() -> Iterator[None]:
    """At the end of the run, this process has no MariaDB server among its children."""
    yield
    left = [pid for pid, parent, name in _processes() if parent == os.getpid() and "maria" in name]
    assert left == [], f"mariadbd processes left behind: {left}"


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
