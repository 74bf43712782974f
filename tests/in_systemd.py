"""What tests/acceptance/test_booted.py has done inside a Debian of its own, with systemd as process
1: `python3 in_systemd.py GIVEN`, as root, with no network. Standard library only.

GIVEN contains `clone`, the sources; `wheels`, what pip would fetch; `central.sql`; and gets
`found.json`: for each step, in order, null or the traceback. The first that fails is the last.
"""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

GIVEN = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
OPERATIONS = GIVEN / "clone/docs/operations.md"
CONFIG = Path("/etc/wpp-sync/config.yaml")
CREDENTIALS = Path("/etc/wpp-sync/credentials")
SOCKET = Path("/run/wpp-sync/control.sock")
DATABASE = Path("/run/database.sock")
PASSWORD = "of both"
UNIT = "wpp-sync.service"

STEPS: list[Callable[[], None]] = []


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(function)
    return function


def run(*command: str | Path, fails: bool = False, given: str = "") -> str:
    """Run it; what it said. It must succeed, or fail."""
    done = subprocess.run(
        list(map(str, command)), check=False, input=given, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=100, cwd="/",
    )  # fmt: skip
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def shown(name: str, unit: str = UNIT) -> str:
    return run("systemctl", "show", "-P", name, unit).strip()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)


def sql(statements: str) -> str:
    return run("mariadb", "--no-defaults", "--user=root", f"--socket={DATABASE}",
               "--batch", "--skip-column-names", given=statements)  # fmt: skip


def say_in_central(body: str) -> None:
    sql(f"""INSERT INTO wpp.messages (instance, `from`, `to`, type, is_forwarded, is_edited, body,
        timestamp, sent_at, status)
        VALUES ('nunes', '1', '2', 'chat', 0, 0, '{body}', '1', NOW(3), 'SENT')""")


def state(instance: str = "nunes") -> str:
    return str(json.loads(run("wpp-sync", "status", instance, "--json"))["state"])


def documented(number: int) -> list[str]:
    """The commands of a block of docs/operations.md, as root says them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", OPERATIONS.read_text(), re.DOTALL | re.MULTILINE)
    return [line.removeprefix("sudo ") for line in blocks[number].splitlines()]


def owner(path: Path) -> tuple[str, int]:
    found = path.stat()
    return grp.getgrgid(found.st_gid).gr_name, found.st_mode & 0o777


# --- in order -------------------------------------------------------------------------------------


@step
def it_is_installed() -> None:
    os.umask(0o077)  # a careful root's
    said = run(GIVEN / "clone/deploy/install")
    os.umask(0o022)
    assert "edit it before the first start" in said
    assert owner(CONFIG.parent) == ("wpp-sync-ops", 0o750)
    assert owner(CONFIG) == ("wpp-sync-ops", 0o640)
    assert owner(CREDENTIALS) == ("root", 0o700)
    # As a package leaves it.
    os.chown(CONFIG, 0, 0)
    run("systemd-tmpfiles", "--create", "wpp-sync.conf")
    assert owner(CONFIG) == ("wpp-sync-ops", 0o640)


@step
def it_says_which_password_is_missing() -> None:
    run("systemctl", "start", UNIT, fails=True)
    assert shown("ExecMainStatus") == "243"
    run("systemctl", "stop", UNIT)  # it would try again, five times
    said = run("wpp-sync", "check", fails=True)
    assert str(CREDENTIALS / "central") in said


@step
def there_are_databases() -> None:
    data = Path("/var/lib/database")
    run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
        "--auth-root-authentication-method=normal", "--skip-test-db")  # fmt: skip
    run("systemd-run", "--unit=database", shutil.which("mariadbd") or "/usr/sbin/mariadbd",
        "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={DATABASE}",
        "--bind-address=127.0.0.1", "--performance-schema=0",
        "--innodb-buffer-pool-size=64M")  # fmt: skip
    wait_until(DATABASE.exists)
    sql(f"CREATE DATABASE wpp; USE wpp; {(GIVEN / 'central.sql').read_text()}")
    sql(f"""CREATE DATABASE wpp_nunes; CREATE DATABASE wpp_karsten;
        CREATE USER wpp_sync@localhost IDENTIFIED BY '{PASSWORD}';
        CREATE USER wpp_sync@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
        GRANT ALL ON *.* TO wpp_sync@localhost; GRANT ALL ON *.* TO wpp_sync@'127.0.0.1';""")


@step
def the_first_start_is_as_documented() -> None:
    for command in documented(0):
        run("sh", "-c", command, given=f"{PASSWORD}\n")
    assert owner(CREDENTIALS / "local") == ("root", 0o600)
    assert "0 failed" in run("wpp-sync", "check")
    run("wpp-sync", "migrate", "--dry-run")
    run("wpp-sync", "sync", "nunes")
    run("systemctl", "enable", "--now", UNIT)


@step
def it_runs() -> None:
    assert shown("ActiveState") == "active"
    assert owner(SOCKET) == ("wpp-sync-ops", 0o660)
    pid = int(shown("MainPID"))
    assert Path(f"/proc/{pid}").stat().st_uid not in {0, 65534}, "a user of its own"
    wait_until(lambda: state() == "idle")
    wait_until(lambda: "1 idle" in shown("StatusText"))
    say_in_central("oi")
    wait_until(lambda: sql("SELECT body FROM wpp_nunes.wpp_messages") == "oi\n")


@step
def its_group_commands_it() -> None:
    run("useradd", "--groups", "wpp-sync-ops", "ana")
    run("useradd", "carlos")
    assert "nunes" in run("runuser", "-u", "ana", "--", "wpp-sync", "status")
    run("runuser", "-u", "ana", "--", "wpp-sync", "pause", "nunes", "--reason", "backup")
    run("runuser", "-u", "ana", "--", "wpp-sync", "resume", "nunes")
    run("runuser", "-u", "carlos", "--", "wpp-sync", "status", fails=True)
    # Which passwords cannot be read, by whom: said, not a traceback.
    assert "Traceback" not in run("runuser", "-u", "ana", "--", "wpp-sync", "check", fails=True)


@step
def it_reloads_a_good_configuration_and_refuses_a_broken_one() -> None:
    pid, good = shown("MainPID"), CONFIG.read_text()
    CONFIG.write_text(good.replace("    enabled: false\n", ""))
    run("systemctl", "reload", UNIT)
    wait_until(lambda: state("karsten") == "idle")
    CONFIG.write_text(good + "nonsense: 1\n")
    run("systemctl", "reload", UNIT, fails=True)
    CONFIG.write_text(good)
    assert (shown("ActiveState"), shown("MainPID"), state()) == ("active", pid, "idle")
    run("systemctl", "reload", UNIT)


@step
def it_comes_back_when_it_was_killed() -> None:
    pid = shown("MainPID")
    run("systemctl", "kill", "-s", "KILL", UNIT)
    wait_until(lambda: shown("ActiveState") == "active" and shown("MainPID") not in {pid, "0"})
    wait_until(lambda: state() == "idle")


@step
def the_last_batch_has_longer_than_the_units_timeout() -> None:
    drop_in = Path("/run/systemd/system/wpp-sync.service.d/short.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nTimeoutStopSec=2\n")
    run("systemctl", "daemon-reload")
    with subprocess.Popen(
        ["mariadb", "--no-defaults", "--user=root", f"--socket={DATABASE}"],
        stdin=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdin is not None
        holder.stdin.write(
            "BEGIN; DO (SELECT COUNT(*) FROM wpp_nunes.wpp_sync_state FOR UPDATE);\n"
        )
        holder.stdin.flush()
        time.sleep(0.5)
        say_in_central("tchau")
        waits = """SELECT COUNT(*) > 0 FROM information_schema.processlist
            WHERE command = 'Query' AND info LIKE '%FOR UPDATE%' AND id <> CONNECTION_ID()"""
        wait_until(lambda: sql(waits) == "1\n")
        began = time.monotonic()
        stopping = subprocess.Popen(["systemctl", "stop", UNIT])
        time.sleep(7)
        assert stopping.poll() is None, "the batch waits, and is waited for"
        holder.stdin.write("COMMIT;\n")
        holder.stdin.close()
        assert stopping.wait(30) == 0
    assert time.monotonic() - began < 15
    assert (shown("Result"), shown("ExecMainStatus")) == ("success", "0")
    assert sql("SELECT body FROM wpp_nunes.wpp_messages ORDER BY id") == "oi\ntchau\n"
    shutil.rmtree(drop_in.parent)
    run("systemctl", "daemon-reload")


@step
def it_stops() -> None:
    run("systemctl", "start", UNIT)
    wait_until(lambda: state() == "idle")
    began = time.monotonic()
    run("systemctl", "stop", UNIT)
    assert time.monotonic() - began < 5
    assert (shown("Result"), shown("ExecMainStatus")) == ("success", "0")
    assert not SOCKET.parent.exists()


@step
def a_broken_configuration_is_not_tried_again() -> None:
    good = CONFIG.read_text()
    CONFIG.write_text(good + "nonsense: 1\n")
    run("systemctl", "start", UNIT, fails=True)
    time.sleep(3)
    assert (shown("ActiveState"), shown("ExecMainStatus")) == ("failed", "2")
    assert shown("NRestarts") == "0"
    CONFIG.write_text(good)


@step
def the_template_starts_as_documented() -> None:
    *commands, last = documented(1)
    for command in commands:
        run("sh", "-c", command, given=f"{PASSWORD}\n")
    north = CONFIG.with_name("north.yaml")
    assert owner(north) == ("wpp-sync-ops", 0o640)
    text = north.read_text().replace(
        "/etc/wpp-sync/credentials}", "/etc/wpp-sync/credentials/north}"
    )
    text = text.replace("control:\n", "control:\n  socket: /run/wpp-sync-north/control.sock\n")
    north.write_text(text + "http:\n  listen: 127.0.0.1:9189\n")
    run("sh", "-c", last)
    assert shown("ActiveState", "wpp-sync@north.service") == "active"
    assert "nunes" in run("wpp-sync", "-c", north, "status")
    assert owner(Path("/run/wpp-sync-north/control.sock")) == ("wpp-sync-ops", 0o660)


@step
def the_watchdog_ends_one_that_hangs() -> None:
    if "--long" not in sys.argv:
        return  # it takes a minute
    north = "wpp-sync@north.service"
    pid = shown("MainPID", north)
    os.kill(int(pid), signal.SIGSTOP)
    wait_until(lambda: shown("MainPID", north) not in {pid, "0"}, 90)
    wait_until(lambda: shown("ActiveState", north) == "active")


@step
def an_upgrade_leaves_the_daemon_alone() -> None:
    pid = shown("MainPID", "wpp-sync@north.service")
    text = CONFIG.read_text()
    run(GIVEN / "clone/deploy/install")
    assert CONFIG.read_text() == text
    assert shown("MainPID", "wpp-sync@north.service") == pid
    run("systemctl", "restart", "wpp-sync@north.service")


@step
def all_of_it_is_removed() -> None:
    said = run(GIVEN / "clone/deploy/install", "--uninstall")
    assert "Failed" not in said, said
    assert "Failed" not in run(GIVEN / "clone/deploy/install", "--uninstall"), "again"
    assert run("systemctl", "list-units", "--all", "--plain", "--no-legend", "wpp-sync*") == ""
    left = run("find", "/etc", "/usr", "/opt", "/run", "/var/lib/systemd", "-name", "*wpp-sync*")
    assert set(left.split()) == {"/etc/wpp-sync"}


def main() -> None:
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root",
        PIP_NO_INDEX="1", PIP_FIND_LINKS=str(GIVEN / "wheels"), PIP_NO_CACHE_DIR="1",
        LC_ALL="C.UTF-8",
    )  # fmt: skip
    found: dict[str, str | None] = {}
    for each in STEPS:
        began = time.monotonic()
        error = None
        try:
            each()
        except Exception:  # noqa: BLE001 - all of it is told outside
            error = traceback.format_exc()
        print(f"{each.__name__}: {time.monotonic() - began:.1f} s", flush=True)  # noqa: T201
        found[each.__name__] = error
        (GIVEN / "found.json").write_text(json.dumps(found))
        if error is not None:
            break


if __name__ == "__main__":
    main()
