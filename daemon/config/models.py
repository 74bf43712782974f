"""The shape of the configuration: one frozen model for each section of config.yaml.

Durations are seconds, sizes bytes, paths absolute. A default stands here and nowhere else; each
field says its unit and why its default is what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from daemon.config.values import (
    AbsoluteSocketPath,
    BatchBytes,
    Directory,
    Identifier,
    Interval,
    Listen,
    Mode,
    PollInterval,
    ReadableFile,
    Seconds,
    Settle,
    SighupReset,
    SocketPath,
    Text,
    WholeNumber,
    address,
)
from daemon.entities import Entity


class Section(BaseModel):
    """What all sections have in common."""

    # What pydantic was given may be a password: its own messages never show it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Tls(Section):
    """How the connection to a server is encrypted. Without it, it is not."""

    ca: ReadableFile | None = None
    """File of the authorities that may have signed the server's certificate; None: the system's."""

    cert: ReadableFile | None = None
    """Our own certificate, where the server asks for one."""

    key: ReadableFile | None = None
    """The private key of `cert`."""

    verify: bool = True
    """Whether the server's certificate and name are checked."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key only go together")
        return self


class Server(Section):
    """One database on one server, and the account that opens it."""

    host: Text = "127.0.0.1"
    """Name or address of the server."""

    port: Annotated[WholeNumber, Field(ge=1, le=65535)] = 3306
    """TCP port."""

    socket: SocketPath | None = None
    """Unix socket on this machine; where it is given, host and port are not used."""

    database: Identifier
    """The schema's name."""

    user: Text
    """The account."""

    password: SecretStr = SecretStr("")
    """The account's password; in the file also as `password_file`."""

    tls: Tls | None = None
    """Encryption; None leaves the connection in the clear."""

    connect_timeout: Seconds = 10.0
    """Seconds from the first packet to a usable session. A stopped server accepts and says no
    more, so this bounds the greeting and the log-in, too."""

    statement_timeout: Seconds = 60.0
    """Seconds one statement may take. A batch takes milliseconds; only a server in trouble or a
    scan without an index comes near."""

    @property
    def address(self) -> str:
        """Where the server is, in words."""
        return str(self.socket) if self.socket else f"{self.host}:{self.port}"


class Central(Server):
    """The central database, which is only read."""

    max_connections: Annotated[WholeNumber, Field(ge=2)] = 8
    """Connections at most, for all instances together."""


class Instance(Server):
    """One instance's local database and how it is kept."""

    name: str
    """The value of the column `instance` in central, byte for byte."""

    enabled: bool = True
    """False leaves the instance alone altogether."""

    poll_interval: PollInterval = 0.25
    """Seconds between two looks for new rows. The look is one for all instances together."""

    entities: Mapping[str, Entity]
    """What is copied, complete: the catalogue, then `entities`, then the instance's own changes."""


class Sync(Section):
    """The size of the steps, and when to stop waiting."""

    batch_rows: Annotated[WholeNumber, Field(ge=1, le=100_000)] = 5000
    """Rows of one batch at most. It begins with 2,000 and grows while the local server takes them
    quickly; beyond 5,000 the copy gains nothing, and memory grows."""

    batch_bytes: BatchBytes = 4 * 1024**2
    """Bytes of one batch at most; long messages end a batch before batch_rows does."""

    writers_per_server: Annotated[WholeNumber, Field(ge=1, le=2)] = 2
    """Connections that may copy in bulk to one local server at the same time, at least one for each
    instance: with 2, an instance that is alone at it writes on two. 1 spares a small server."""

    settle: Settle = "auto"
    """Seconds after which no transaction can add an id below those seen; auto is 60 s, above the
    50 s that InnoDB lets a transaction wait for a lock."""

    reconcile_interval: Interval = 3600.0
    """Seconds between two comparisons of an incremental entity's whole table, in the background.
    Changes of old rows that are not hot, and deletes, reach the local table so late."""

    whole_interval: Interval = 60.0
    """Seconds between two comparisons of an entity that is compared whole (contacts, …)."""

    hot_interval: Interval = 5.0
    """Seconds between two comparisons of the rows that are known to change soon."""

    reconcile_rows_per_second: Annotated[WholeNumber, Field(ge=1_000)] = 100_000
    """Rows of each central table that comparisons in the background go over in a second at most; a
    row costs central some 1.6 µs."""

    max_threads_running: Annotated[WholeNumber, Field(ge=1)] = 25
    """While more threads are at work in central, comparisons in the background go on four times
    slower, and what is copied in bulk slows down."""

    max_replica_lag: Seconds | None = 30.0
    """The same while central, a replica, is more seconds behind; None: never. A replica in order is
    a second or two behind; where central is none, nothing is asked for."""

    max_rows_per_second: Annotated[WholeNumber, Field(ge=1)] | None = None
    """Rows that are written in a second at most, all instances together. None: no bound."""

    rest_after: Seconds = 300.0
    """Seconds after which an instance that has nothing to do closes its local connection, and opens
    it again when central has something for it. Not where another daemon stands by for it, nor where
    `max_instances` is set. 1,000 hours keep all connections open."""

    max_instances: Annotated[WholeNumber, Field(ge=1)] | None = None
    """Instances that this daemon copies at most; the others are left to other daemons with the same
    configuration. None: as many as it gets."""

    backoff_max: Seconds = 60.0
    """Seconds between two tries at most, while a server does not answer."""

    shutdown_timeout: Seconds = 30.0
    """Seconds that running batches may take to end after TERM."""


class Migrations(Section):
    """The schema changes of the local databases."""

    directory: Directory | None = None
    """Further migration files beside the built-in ones."""

    lock_wait_timeout: Seconds = 30.0
    """Seconds a change waits for readers of its table; every new reader waits behind it."""


class Control(Section):
    """The socket on which the daemon takes commands."""

    socket: AbsoluteSocketPath | None = Path("/run/wpp-sync/control.sock")
    """Path of the Unix socket; None switches it off."""

    mode: Mode = 0o660
    """Permissions of the socket: whoever may write to it may reset instances."""

    group: Text | None = None
    """Group that owns the socket; None: the daemon's own."""


class Http(Section):
    """The address of metrics, health and the status page."""

    listen: Listen | None = "127.0.0.1:9188"
    """`host:port`, an IPv6 address in brackets, port 0 for any free one; None switches it off."""

    status: bool = False
    """Whether /v1/status is told here, too: with every detail, and without asking who asks."""

    @property
    def host(self) -> str:
        """The address without brackets. ValueError if it is switched off."""
        return address(self.listen or "")[0]

    @property
    def port(self) -> int:
        """The port. ValueError if it is switched off."""
        return address(self.listen or "")[1]


class Signals(Section):
    """What signals do."""

    sighup_reset: SighupReset = "all"
    """The entities that HUP resets."""


class Log(Section):
    """What is written, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important events that are written."""

    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, json elsewhere."""


class ConfiguredEntity(Entity):
    """An entity as it stands in the file, where a duration has a unit."""

    interval: Interval | None = None

    def plain(self) -> Entity:
        """The entity, as one of the catalogue."""
        return Entity(**{name: getattr(self, name) for name in Entity.model_fields})


class Config(Section):
    """All of config.yaml."""

    central: Central
    instances: Mapping[str, Instance]
    """By name, in the order of the file; at least one."""

    sync: Sync = Sync()
    migrations: Migrations = Migrations()
    control: Control = Control()
    http: Http = Http()
    signals: Signals = Signals()
    log: Log = Log()
    path: Path
    """The file, as an absolute path."""
