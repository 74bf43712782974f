"""A pair of private servers with a central database, and instances that are up to date.

An instance's local database is a copy of one that the daemon has migrated; its rows are seeded as
central's are, and its state says that they were copied. So a thousand instances stand as after a
restart of the daemon, within a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from bench import processes, seed
from daemon.demo.central import schema
from daemon.demo.server import MariaDB, client
from daemon.errors import WppSyncError

# As large as a database server's are beside what it holds: neither the log nor the memory is what
# is measured.
SERVER_OPTIONS = (
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=512M",
    "--max-connections=5000",
    "--table-open-cache=20000",
    "--table-definition-cache=20000",
    "--open-files-limit=65536",
)

# What the daemon has migrated, and others are made like.
_FORM = "form"

_numbers = count(1)


class Pair:
    """Central and local servers that run."""

    def __init__(self, directory: Path, central: MariaDB, local: MariaDB) -> None:
        self.directory = directory
        self.central_server = central
        self.local_server = local
        self.central = central.create_database("central")
        central.execute(schema(), "central")
        self.form = local.create_database(_FORM)
        self.sync(self.form, _FORM)
        answer = client(self.form, "SHOW TABLES", "--skip-column-names")
        self._tables = answer.decode().split()

    def empty(self) -> dict[str, object]:
        """A local database with nothing in it."""
        return self.local_server.create_database(f"empty_{next(_numbers)}")

    def drop(self, local: seed.Server) -> None:
        self.local_server.execute(f"DROP DATABASE {local['database']}")

    def migrated(self, database: str = "") -> dict[str, object]:
        """A local database in its newest form, without rows."""
        database = database or f"migrated_{next(_numbers)}"
        tables = "".join(
            f"CREATE TABLE {database}.{table} LIKE {_FORM}.{table};"
            f"INSERT INTO {database}.{table} SELECT * FROM {_FORM}.{table};"
            for table in self._tables
        )
        # Whoever it is for: these rows say that it was copied for the instance of the form.
        tables += f"UPDATE {database}.wpp_sync_state SET instance = NULL, source = NULL;"
        self.local_server.execute(f"CREATE DATABASE {database}; {tables}")
        return self.local_server.config(database)

    def sync(
        self, local: seed.Server, instance: str, *options: str, **more: object
    ) -> processes.Ran:
        """`wpp-sync sync` of this instance, a process from its start to its end; `more`: sections
        of the configuration."""
        path = self.directory / f"sync-{next(_numbers)}.yaml"
        config = processes.write_config(path, self.central, {instance: local}, **more)
        return processes.run([*processes.WPP_SYNC, "sync", instance, "-c", str(config), *options])

    def like_messages(self) -> dict[str, object]:
        """A local database with one table `messages` like wpp_messages, for the rivals."""
        local = self.empty()
        client(local, f"CREATE TABLE messages LIKE {_FORM}.wpp_messages")
        return local


@contextmanager
def pair(directory: Path) -> Iterator[Pair]:
    """Two servers, for as long as the block."""
    for name in ("central", "local"):
        (directory / name).mkdir()
    central = MariaDB(directory / "central", name="central", options=SERVER_OPTIONS)
    local = MariaDB(directory / "local", name="local", options=SERVER_OPTIONS)
    # Closed also when a signal comes while one starts.
    with closing(central), closing(local):
        central.start()
        local.start()
        yield Pair(directory, central, local)


class Fleet:
    """Instances that are up to date: the messages 1, 2, 3, … belong to them in turn."""

    def __init__(self, pair: Pair, instances: int, messages: int) -> None:
        self.pair = pair
        self.messages = messages
        names = [seed.instance_name(number) for number in range(instances)]
        client(pair.central, seed.messages("messages", messages, instances=instances))
        self.locals = {
            name: self._up_to_date(name, number + 1, instances) for number, name in enumerate(names)
        }
        self.must_be_equal()

    def _up_to_date(self, name: str, first: int, step: int) -> dict[str, object]:
        local = self.pair.migrated(name)
        rows = seed.messages("wpp_messages", self.messages, first=first, step=step, instances=step)
        # Settled with the head, compared just now.
        state = (
            "UPDATE wpp_sync_state SET reconciled_at = UTC_TIMESTAMP();"
            f"UPDATE wpp_sync_state SET settled_id = {self.messages},"
            " last_synced_id = (SELECT MAX(id) FROM wpp_messages),"
            " settled_for = last_synced_id WHERE entity = 'messages';"
        )
        client(local, rows + state)
        return local

    def must_be_equal(self) -> None:
        """Raises WppSyncError unless every instance has exactly its messages of central."""
        if unequal := self.unequal():
            raise WppSyncError(
                f"wpp_messages of {len(unequal):,} instances is no copy: {', '.join(unequal[:5])}"
            )

    def unequal(self) -> list[str]:
        """The instances whose messages are not exactly central's."""
        there = seed.by_instance(self.pair.central)
        here = seed.by_database(self.pair.form, list(self.locals), "wpp_messages")
        return [name for name in self.locals if here[name] != there.get(name, seed.NOTHING)]

    def config(self, instances: int, **more: object) -> Path:
        """A configuration with the first so many of them."""
        chosen = dict(list(self.locals.items())[:instances])
        path = self.pair.directory / f"daemon-{next(_numbers)}.yaml"
        return processes.write_config(path, self.pair.central, chosen, **more)


@contextmanager
def fleet(directory: Path, instances: int, messages: int) -> Iterator[Fleet]:
    """Servers with so many instances that are up to date, and so many messages in all."""
    with pair(directory) as servers:
        yield Fleet(servers, instances, messages)
