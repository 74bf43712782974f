"""The command line alone: what it makes of whatever answers at the socket, and how it says it.

No server is needed: the databases of this configuration are never opened, or not there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from daemon.cli import cli
from tests.daemon_process import COMMAND, environment, run_cli
from tests.strangers import Reply, answering, speaking

NUNES = {"host": "127.0.0.1", "port": 1, "database": "wpp_{instance}", "user": "u", "password": "p"}

# Root's own way past permissions is closed to the child; for others there is none.
AS_ANYBODY = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)


class Place(NamedTuple):
    """A configuration, and where its daemon would listen."""

    config: Path
    socket: Path

    def change(self, **sections: object) -> None:
        document = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(document | sections, sort_keys=False))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    runtime = Path(tempfile.mkdtemp(prefix="wpp-run-", dir="/tmp"))
    config, path = tmp_path / "config.yaml", runtime / "control.sock"
    central = {**NUNES, "database": "wpp"}
    document = {"central": central, "defaults": NUNES, "instances": {"nunes": None}}
    config.write_text(yaml.safe_dump(document | {"control": {"socket": str(path)}}))
    yield Place(config, path)
    runtime.chmod(0o700)
    shutil.rmtree(runtime)


def alive(*names: str) -> dict[str, Any]:
    return {"version": "1", "http": None, "instances": list(names or ("nunes",))}


def replies(found: Mapping[str, object], *names: str) -> Callable[[str, str], Reply]:
    """A daemon of these instances that answers so, by the end of the path."""

    def reply(_method: str, path: str) -> Reply:
        if path == "/v1/alive":
            return 200, alive(*names)
        return 200, next(answer for end, answer in found.items() if path.endswith(end))

    return reply


def entity(name: str, **changes: object) -> dict[str, Any]:
    return {
        "entity": name, "last_synced_id": 1_234_567_890, "last_synced_at": "2026-11-25T01:02:03Z",
        "settled_id": 1_234_567_891, "position": 1_234_567_892, "head": 1_234_567_893,
        "lag_rows": 123_456, "lag_seconds": 12345.6, "rewound": False, "resync": False,
        "reconcile": None, "quarantined": 0, "paused": None, "error": None, **changes,
    }  # fmt: skip


def status(name: str, **changes: object) -> dict[str, Any]:
    entities = [entity(each) for each in ("messages", "contact_sectors")]
    return {
        "instance": name, "state": "idle", "migrations": [], "sync_state": entities,
        "paused": None, "rows_per_second": None, "error": None, **changes,
    }  # fmt: skip


# --- what answers there -----------------------------------------------------------------------

VERBS = (
    ["status"], ["sync", "nunes"], ["reset", "nunes", "all"], ["resync", "nunes"],
    ["reconcile", "nunes"], ["pause", "--all"], ["resume", "nunes"], ["throttle", "nunes", "off"],
    ["quarantine", "nunes"], ["reload"],
)  # fmt: skip


@pytest.mark.parametrize("closed", ["socket", "directory"])
def test_a_socket_that_is_closed_to_us_is_not_taken_for_no_daemon(
    place: Place, closed: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen()
        (place.socket if closed == "socket" else place.socket.parent).chmod(0)
        for verb in VERBS:
            done = subprocess.run(
                [*AS_ANYBODY, *COMMAND, *verb, "-c", str(place.config)],
                check=False, capture_output=True, text=True, env=environment(), timeout=30,
            )  # fmt: skip
            assert done.returncode == 3, done.stdout + done.stderr
            assert f"error: no permission to ask the daemon at {place.socket}" in done.stderr
            assert "hint: are you in the group " in done.stderr
            assert done.stdout == "", "the databases are left alone"
        done = subprocess.run(
            [*AS_ANYBODY, *COMMAND, "reload", "--json", "--socket", str(place.socket)],
            check=False, capture_output=True, text=True, env=environment(), timeout=30,
        )  # fmt: skip
        assert done.returncode == 3, done.stdout + done.stderr
        assert json.loads(done.stdout)["error"]["code"] == "socket_denied"


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}), (200, []), (200, None), (200, {"error": "x"}), (200, {"instances": "nunes"}),
        (404, {"error": "x"}), (500, []), (400, {"error": {"code": 1}}), (200, b"<html>"),
        (200, b"[" * 100_000),
    ],
    ids=lambda answer: repr(answer)[:40],
)  # fmt: skip
def test_something_else_that_answers_is_told_as_such(place: Place, answer: Reply) -> None:
    with answering(place.socket, lambda _method, _path: answer):
        for verb in (["status"], ["reload"]):
            done = run_cli(*verb, "-c", place.config)
            assert done.returncode == 3, done.stdout + done.stderr
            assert f"what answers at {place.socket} is no wpp-sync daemon" in done.stderr


def test_something_that_is_not_even_http(place: Place) -> None:
    with speaking(place.socket, b"220 mail.example.com ESMTP\r\n"):
        done = run_cli("pause", "nunes", "-c", place.config)
    assert done.returncode == 3
    assert f"what answers at {place.socket} is no wpp-sync daemon" in done.stderr


def test_who_hangs_up_is_told_as_such(place: Place) -> None:
    with speaking(place.socket, b""):
        done = run_cli("status", "-c", place.config)
    assert done.returncode == 3
    assert f"the daemon at {place.socket} does not answer: it hung up" in done.stderr


def test_a_silent_socket_is_not_waited_for_for_ever(place: Place) -> None:
    with speaking(place.socket, None):
        done = run_cli("reload", "-c", place.config, seconds=20)
    assert done.returncode == 3
    assert f"the daemon at {place.socket} does not answer: timed out" in done.stderr


def closed_password(place: Place) -> None:
    """As in the standard installation: who may open the socket may not read the passwords."""
    path = place.config.parent / "password"
    path.write_text("p")
    path.chmod(0)
    server = {key: value for key, value in NUNES.items() if key != "password"}
    place.change(defaults={**server, "password_file": str(path)})


def test_who_may_not_read_the_passwords_hears_that_no_daemon_answers(place: Place) -> None:
    closed_password(place)
    for verb in (*VERBS[:-1], ["status", "--json"]):
        done = subprocess.run(
            [*AS_ANYBODY, *COMMAND, *verb, "-c", str(place.config)],
            check=False, capture_output=True, text=True, env=environment(), timeout=30,
        )  # fmt: skip
        assert done.returncode == 3, done.stdout + done.stderr
        assert done.stderr.startswith(f"error: no daemon answers at {place.socket}\nhint: ")
        assert "start the daemon, or be root" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "daemon_unreachable"
    # Where it is another mistake, that is told.
    place.change(http={"listne": "127.0.0.1:0"})
    assert "unknown key" in run_cli("status", "-c", place.config).stderr


def test_an_empty_name_is_no_configuration(place: Place) -> None:
    """`-c "$UNSET"`: neither this directory nor another configuration is meant."""
    for arguments in (["-c", "", "status"], ["status", "-c", ""]):
        done = run_cli(*arguments, cwd=place.config.parent)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Invalid value for '-c' / '--config': it is empty, and names no file." in done.stderr


@pytest.mark.parametrize("closed", ["file", "directory"])
def test_a_configuration_that_is_closed_to_us_is_told_with_who_may_read_it(
    place: Place, closed: str, tmp_path: Path
) -> None:
    (place.config if closed == "file" else place.config.parent).chmod(0)
    try:
        done = subprocess.run(
            [*AS_ANYBODY, *COMMAND, "status", "-c", str(place.config)],
            check=False, capture_output=True, text=True, env=environment(), timeout=30,
        )  # fmt: skip
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {place.config}: cannot be read: Permission denied\n" in done.stderr
    assert "hint: are you in the group wpp-sync-ops, or root?" in done.stderr


def test_a_directory_that_is_closed_is_not_told_as_one_without_configuration(
    place: Place, tmp_path: Path
) -> None:
    """Looked for in its places, of which the working directory is one."""
    tmp_path.chmod(0)
    code = (
        "import os, sys; os.chdir(sys.argv.pop(1)); from daemon import config\n"
        "from pathlib import Path; config.PLACES = (Path('config.yaml'), Path(sys.argv.pop(1)))\n"
        "from daemon.cli import main; main()"
    )
    try:
        done = subprocess.run(
            [*AS_ANYBODY, sys.executable, "-c", code, "/", str(place.config), "status"],
            check=False, capture_output=True, text=True, env=environment(), timeout=30,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"no permission to look for {place.config}\n" in done.stderr
    assert "hint: are you in the group wpp-sync-ops, or root?" in done.stderr


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_watch_goes_on_while_the_daemon_is_restarted(place: Place, option: list[str]) -> None:
    closed_password(place)
    found = {"/v1/status": {"instances": [status("nunes")]}}
    watching = None
    try:
        with answering(place.socket, replies(found)):
            watching = subprocess.Popen(
                [*AS_ANYBODY, *COMMAND, "status", "--watch", *option, "--interval", "0.1",
                 "-c", str(place.config)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
            )  # fmt: skip
            assert watching.stdout is not None
            assert any("nunes" in line for line in iter(watching.stdout.readline, ""))
        assert any("no daemon answers" in line for line in iter(watching.stdout.readline, ""))
        with answering(place.socket, replies(found)):
            assert any("messages" in line for line in iter(watching.stdout.readline, ""))
    finally:
        if watching is not None:
            watching.kill()
            watching.communicate()


@pytest.mark.parametrize("left", ["nothing", "a socket", "a file"])
def test_where_nobody_listens_a_reload_says_how_to_reach_one_that_moved(
    place: Place, left: str
) -> None:
    if left == "a socket":
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(place.socket))
    elif left == "a file":
        place.socket.touch()
    for option, path in (("-c", place.config), ("--socket", place.socket)):
        done = run_cli("reload", option, path)
        assert done.returncode == 3
        assert f"error: no daemon answers at {place.socket}\n" in done.stderr
        assert "wpp-sync reload --socket OLD_PATH" in done.stderr


# --- what is said -----------------------------------------------------------------------------

DONE = {"rows": {"messages": 7}, "late": 0, "quarantined": 0, "paused": [], "errors": {}}


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 0), (None, 0)])
def test_a_sync_that_the_daemon_broke_off_is_not_done(
    place: Place, interrupted: bool | None, code: int
) -> None:
    answer = DONE if interrupted is None else DONE | {"interrupted": interrupted}
    with answering(place.socket, replies({"/sync": answer})):
        said = run_cli("sync", "nunes", "-c", place.config)
        told = run_cli("sync", "nunes", "--json", "-c", place.config)
    assert (said.returncode, told.returncode) == (code, code)
    assert ("interrupted, goes on next time" in said.stdout) is bool(interrupted)
    assert json.loads(told.stdout)["instances"][0]["interrupted"] is bool(interrupted)


def on_terminal(columns: int, *arguments: str | Path) -> str:
    """What a verb shows on a terminal of that width, without colours."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=environment({"TERM": "xterm", "COLUMNS": "", "NO_COLOR": "1"}),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # so a terminal tells that the other side is closed
    os.close(ours)
    assert child.wait(20) == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("columns", "shown", "left_out"),
    [
        (160, ["1,234,567,891", "1,234,567,893", "2026-11-25T01:02:03Z"], []),
        (100, ["1,234,567,890", "lag rows", "2026-11-25T01:02:03Z"], ["settled"]),
        (80, ["watermark", "1,234,567,890", "123,456", "12345.6"], ["settled", "last synced"]),
        (40, ["nunes", "246,912", "12345.6"], ["watermark"]),
    ],
)
def test_no_terminal_is_too_narrow_for_a_status(
    place: Place, columns: int, shown: list[str], left_out: list[str]
) -> None:
    with answering(place.socket, replies({"/status": {"instances": [status("nunes")]}})):
        screen = on_terminal(columns, "status", "-c", place.config)
    assert "…" not in screen
    for word in shown:
        assert word in screen
    for word in left_out:
        assert word not in screen
    if columns >= 80:
        assert all(len(line) <= columns for line in screen.splitlines()), screen


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_terminal_cannot_show_is_no_error(place: Place, encoding: str) -> None:
    error = {"code": "x", "message": "größer → kleiner", "hint": ""}
    found = status("Núñez→", error=error, sync_state=[entity("chats", head=None)])
    environ = {"PYTHONIOENCODING": encoding}
    with answering(place.socket, replies({"/status": {"instances": [found]}}, "Núñez→")):
        done = subprocess.run(
            [*COMMAND, "status", "-c", str(place.config)],
            check=False, capture_output=True, env=environment(environ), timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"1,234,567,890" in done.stdout
        # A machine loses nothing.
        told = run_cli("status", "--json", "-c", place.config, environ=environ)
        assert json.loads(told.stdout)["instances"] == [found]
        unknown = subprocess.run(
            [*COMMAND, "sync", "→", "-c", str(place.config)],
            check=False, capture_output=True, env=environment(environ), timeout=30,
        )  # fmt: skip
    assert unknown.returncode == 2
    assert b"there is no instance '" in unknown.stderr


@pytest.mark.parametrize("many", [False, True])
def test_never_is_something_else_than_not_known(place: Place, many: bool) -> None:
    unknown = {"last_synced_id": None, "settled_id": None, "last_synced_at": None}
    found = [
        status("down", state="backoff", sync_state=[entity("chats", **unknown)]),
        status("new", sync_state=[entity("chats", last_synced_id=0, last_synced_at=None)]),
    ] * (20 if many else 1)
    with answering(place.socket, replies({"/status": {"instances": found}})):
        shown = run_cli("status", "-c", place.config).stdout
    (down, new) = [line for line in shown.splitlines() if line.startswith(("down ", "new "))][:2]
    assert (down.split()[-1], new.split()[-1]) == ("–", "never")
    assert "backoff" in down


def test_an_entity_that_is_resumed_may_be_paused_still(place: Place) -> None:
    pause = {"since": "2026-11-25T01:02:03Z", "reason": "backup"}
    answer = {"instance": "nunes", "paused": pause, "at_once": True}
    with answering(place.socket, replies({"/resume": answer})):
        done = run_cli("resume", "nunes", "--entity", "messages", "-c", place.config)
    assert done.stdout == (
        "nunes  messages resumed, but all of it is still paused since 2026-11-25T01:02:03Z"
        " (backup)\n"
    )


# --- many at once -----------------------------------------------------------------------------

MANY = [f"i{number:02}" for number in range(24)]


def test_orders_are_given_to_many_at_once_and_told_in_order(place: Place) -> None:
    def reply(_method: str, path: str) -> Reply:
        if path == "/v1/alive":
            return 200, alive(*MANY)
        name = path.split("/")[3]
        time.sleep(1.0 if name == "i00" else 0.3)
        if name == "i07":
            return 503, {"error": {"code": "unreachable", "message": "i07 is away", "hint": "go"}}
        return 200, {"instance": name, "paused": None, "at_once": True}

    with answering(place.socket, reply):
        began = time.monotonic()
        done = run_cli("pause", "--all", "-c", place.config)
        took = time.monotonic() - began
        told = run_cli("resume", "--all", "--json", "-c", place.config)
    assert done.returncode == 3
    assert done.stderr == "error: i07 is away\nhint: go\n"
    assert done.stdout.splitlines() == [f"{name}  paused" for name in MANY if name != "i07"]
    assert took < 5.0, "one after the other they take 8 s"
    assert told.returncode == 3
    found = json.loads(told.stdout)["instances"]
    assert [each["instance"] for each in found] == MANY
    assert [each["instance"] for each in found if "error" in each] == ["i07"]
    assert found[7]["error"] == {"code": "unreachable", "message": "i07 is away", "hint": "go"}


def test_without_a_daemon_silent_servers_are_waited_for_together(place: Place) -> None:
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        port = frozen.getsockname()[1]
        defaults = {**NUNES, "port": port, "connect_timeout": "3s"}
        place.change(defaults=defaults, instances=dict.fromkeys(MANY[:8]))
        began = time.monotonic()
        done = run_cli("throttle", "--all", "500", "-c", place.config)
        took = time.monotonic() - began
    assert done.returncode == 3
    named = re.findall(r"error: local (i\d\d): ", done.stderr)
    assert named == MANY[:8]
    assert took < 15.0, "one after the other they take 24 s"


# --- for machines -----------------------------------------------------------------------------

JSON_VERBS = (
    *VERBS, ["migrate"], ["check"], ["quarantine", "nunes", "retry"],
    ["quarantine", "nunes", "discard"], ["sync", "--all"],
)  # fmt: skip


@pytest.mark.parametrize("verb", JSON_VERBS, ids=" ".join)
def test_whatever_is_wrong_is_one_document(place: Place, verb: list[str]) -> None:
    """No server is there; then the configuration is broken; then the arguments are."""
    away = run_cli(*verb, "--json", "-c", place.config)
    assert away.returncode == 3, away.stderr
    assert away.stdout.startswith(("{", "["))
    assert any(word in away.stdout for word in ('"unreachable"', '"daemon_unreachable"', '"fail"'))
    json.loads(away.stdout)
    place.config.write_text("central: [")
    broken = run_cli(*verb, "--json", "-c", place.config)
    assert broken.returncode == 2
    assert json.loads(broken.stdout)["error"]["code"] == "config"
    assert broken.stderr.startswith("error: "), "people are told, too"
    wrong = run_cli(*verb, "--json", "--no-such-option")
    assert wrong.returncode == 2
    error = json.loads(wrong.stdout)["error"]
    assert (error["code"], error["hint"]) == ("usage", f"wpp-sync {verb[0]} --help")


def test_the_version_for_machines() -> None:
    done = run_cli("version", "--json")
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) == {"version"}


def test_the_version_as_an_option_and_the_help_as_a_whole() -> None:
    assert run_cli("--version").stdout == run_cli("version").stdout
    page = run_cli("--help").stdout
    assert re.search(r"Examples:\n +wpp-sync check\n", page), page
    assert "130 interrupted" in page


def test_the_shell_completes_the_name_of_a_configuration() -> None:
    for words in ("wpp-sync -c con", "wpp-sync status -c con"):
        done = run_cli(environ={
            "_WPP_SYNC_COMPLETE": "bash_complete", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        })  # fmt: skip
        assert (done.stdout, done.stderr) == ("file,con\n", "")


# --- help, and how soon it comes ----------------------------------------------------------------


@pytest.mark.parametrize("verb", [name for name, command in cli.commands.items()])
def test_every_verb_has_an_example(verb: str) -> None:
    page = run_cli(verb, "--help").stdout
    assert re.search(rf"Examples:\n +wpp-sync {verb}\b", page), page


def test_through_a_daemon_nothing_heavy_is_imported(place: Place) -> None:
    """It answers in under 0.3 s; what a database needs takes longer than all the rest."""
    answers = {
        "/sync": DONE, "/reset": {"reset": ["chats"]},
        "/pause": {"instance": "nunes", "paused": None, "at_once": True},
        "/status": {"instances": [status("nunes")]}, "/quarantine": {"rows": []},
        "/reconcile": {"entities": [], "differences": 0},
        "/reload": {"added": [], "changed": [], "removed": [], "unchanged": 1},
    }  # fmt: skip
    with answering(place.socket, replies(answers)):
        for verb in (["sync", "nunes"], ["reset", "nunes", "chats"], ["pause", "nunes"],
                     ["status"], ["quarantine", "nunes"], ["reconcile", "nunes"],
                     ["reload"]):  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-X", "importtime", *COMMAND[1:], *verb, "-c", str(place.config)],
                check=False, capture_output=True, text=True, env=environment(), timeout=30,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
            assert "daemon.client" in imported
            heavy = {"asyncio", "asyncmy", "aiohttp", "structlog", "prometheus_client", "jinja2"}
            assert not imported & heavy, verb
