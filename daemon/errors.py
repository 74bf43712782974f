"""What can go wrong, as the caller asks about it: may it be retried, whose fault is it, what to do.

Every error that reaches an operator is a `WppSyncError`: one sentence that says what and where,
a hint that says what to do next, and a stable code for machines. The driver's own exception, where
there is one, is the cause (`__cause__`); only `daemon.db` knows the driver.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote

# Exit codes of the command line; they are an interface (README, "Exit codes").
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_DIFFERENT = 4
EXIT_INTERRUPTED = 130  # as a shell says of SIGINT


_SHORTEST_SECRET = 8
"""A shorter password is found in any text, and would make it unreadable rather than safe."""

_secrets: dict[str, None] = {}


def keep_secret(password: str) -> None:
    """From here on no error says it: not plainly, quoted, escaped or as part of an address.

    Nothing of ours puts a password into an error. But a password may stand in the wrong place of
    the configuration, and what a library says of a value is not in our hands.
    """
    if len(password) >= _SHORTEST_SECRET:
        # What an environment has that is no UTF-8 arrives as surrogates.
        quoted = [quote(password, safe=safe, errors="surrogatepass") for safe in ("/", "")]
        forms = (password, repr(password)[1:-1], ascii(password)[1:-1], json.dumps(password)[1:-1],
                 json.dumps(password, ensure_ascii=False)[1:-1], *quoted)  # fmt: skip
        _secrets.update(dict.fromkeys(forms))


def without_secrets(text: str) -> str:
    """The text with … in the place of every password."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may begin like another
        if secret in text:
            text = text.replace(secret, "…")
    return text


class WppSyncError(Exception):
    """Base of every expected error.

    `message` says what and where, `hint` what to do about it, `code` names the kind for machines.
    None of them contains a password (`keep_secret`).
    """

    code = "error"
    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        self.message = without_secrets(message)
        self.hint = without_secrets(hint)
        super().__init__(self.message)
        if code:
            self.code = code
        self.since = datetime.now(UTC)

    def __str__(self) -> str:
        return self.message


class UsageError(WppSyncError):
    """The operator asked for something that does not exist: an instance, an entity, a verb."""

    code = "usage"
    exit_code = EXIT_USAGE


class NoInstanceError(UsageError):
    """There is no instance of that name."""


class ConfigError(WppSyncError):
    """The configuration cannot be used. `problems`: all that is wrong with it, one line each."""

    code = "config"
    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[str], *, hint: str = "correct the configuration") -> None:
        self.problems = tuple(without_secrets(problem) for problem in problems)
        super().__init__("\n".join(self.problems), hint=hint)


class ClosedFilesError(ConfigError):
    """All that is wrong with the configuration is that we may not read it, or what it names."""


class MigrationFilesError(WppSyncError):
    """The migration files themselves are wrong; nothing was touched. One problem a line."""

    code = "migration_files"
    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), hint="correct or remove these files")


class MigrationError(WppSyncError):
    """A migration did not take effect on one instance's database."""

    code = "migration"


class SchemaError(WppSyncError):
    """A table does not have what the copy needs: the entity stops until somebody mends it."""

    code = "schema"


class OwnerError(SchemaError):
    """The local rows were copied for another instance: nothing is written, nothing deleted."""

    code = "another_instance"


class StandbyError(WppSyncError):
    """Another daemon holds the instance's lock: it copies, we wait."""

    code = "locked"


class PausedError(WppSyncError):
    """An operator has paused the instance or the entity: nothing is written until it is resumed."""

    code = "paused"


class LockLostError(WppSyncError):
    """The connection that carried the instance's lock is gone, and the lock with it."""

    code = "lock_lost"


class StateMovedError(WppSyncError):
    """The state row is not what this process read: a reset came, or another copier wrote.

    Not a failure: what was read is discarded and the entity starts over from the new state.
    """

    code = "state_moved"


class PlanChangedError(WppSyncError):
    """A table is not what it was when the entity's column plan was made.

    Not a failure: the entity starts over with a new plan.
    """

    code = "schema_changed"


class RewoundError(WppSyncError):
    """Central's newest id lies below what was already read: its ids started again."""

    code = "rewound"


class StoppedError(WppSyncError):
    """What was asked for was broken off by a request to stop."""

    code = "stopped"
    exit_code = EXIT_INTERRUPTED


class DaemonUnreachableError(WppSyncError):
    """The daemon cannot be asked: it is silent, may not be asked by us, or is something else."""

    code = "daemon_unreachable"
    exit_code = EXIT_UNREACHABLE


class NoDaemonError(DaemonUnreachableError):
    """Nobody listens at the control socket. Only then may a verb do the work itself."""


class DatabaseError(WppSyncError):
    """A server refused or did not answer. `errno` is the server's or the client's error number.

    `server` names which one in the operator's words ("central", "local nunes").
    """

    code = "database"

    def __init__(self, server: str, errno: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"{server}: {message} (error {errno})", hint=hint)
        self.server = server
        self.errno = errno
        self._said = message

    def again(self) -> Self:
        """The same error, for somebody else who meets it now."""
        return type(self)(self.server, self.errno, self._said, hint=self.hint)


class TransientError(DatabaseError):
    """It may succeed if it is tried again: a lost connection, a deadlock, a busy server."""

    code = "unreachable"
    exit_code = EXIT_UNREACHABLE
    retry_after = 0.0
    """Seconds to leave the server alone at least."""


class AccessError(DatabaseError):
    """The account may not do this: wrong password, missing privilege, unknown database."""

    code = "access"
    exit_code = EXIT_UNREACHABLE


class RowError(DatabaseError):
    """A row's values were refused: too long, out of range, wrong character, constraint."""

    code = "data"


class CollisionError(DatabaseError):
    """An upsert met another row through a secondary unique key; nothing was changed."""

    code = "collision"


class MissingError(DatabaseError):
    """A table, column or index is not what a statement takes it for: the plan is stale."""

    code = "schema"


def internal(error: BaseException) -> WppSyncError:
    """A bug, told so that it can be reported: what, and the innermost line where it happened."""
    if isinstance(error, BaseExceptionGroup):
        return internal(error.exceptions[0])
    if isinstance(error, WppSyncError):
        return error
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return WppSyncError(
        f"internal error: {type(error).__name__}: {error}{where}",
        hint="this is a bug in wpp-sync: please report it with this line",
        code="internal",
    )
