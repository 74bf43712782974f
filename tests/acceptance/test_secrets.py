"""One secret stands everywhere it can, and the daemon never says it: not in the log, not in an
answer, not on the command line, whatever fails.

Rows are not secrets in this sense: a server's own words about a row that it refuses may quote a
part of a value, and are kept with it in quarantine.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import yaml

from tests import mirror
from tests.acceptance.test_log import idle, place, running, wait
from tests.daemon_process import DaemonProcess, ask, run_cli
from tests.secrets import LONG, ODD, PLAIN, leaks

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

STRANGE = "n0body-knows-this-one"
"""What somebody sends over HTTP, and no configuration holds."""

EVERYWHERE = {"log": {"level": "debug"}, "defaults": {"poll_interval": "100ms"}}


def account(servers: Servers, name: str, secret: str) -> dict[str, object]:
    """An account with that password on both servers; what the configuration says of it."""
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    for server in (servers.central, servers.local):
        server.execute(
            "SET sql_mode = '';"
            f"CREATE OR REPLACE USER {name}@'%' IDENTIFIED BY '{quoted}';"
            f"GRANT ALL ON *.* TO {name}@'%'"
        )
    return {"user": name, "password": secret}


def encrypted_key(directory: Path, passphrase: str) -> dict[str, str]:
    """A certificate and its key, which only the passphrase opens."""
    cert, key = directory / "client.pem", directory / "client.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=x", "-days", "9",
            "-passout", f"pass:{passphrase}", "-keyout", str(key), "-out", str(cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {"cert": str(cert), "key": str(key)}


def all_pages(daemon: DaemonProcess) -> str:
    """What the port and the socket say, asked with the secret in query, header, body and method."""
    told = ""
    host, _, port = daemon.logged("started")[-1]["http"].rpartition(":")
    asked = quote(ODD, safe="")
    for target in (
        "/", "/metrics", "/healthz", "/readyz", "/v1/status", "/style.css", "/refresh.js",
        "/icon.svg", "/instances/nunes", "/instances/wrong", "/instances/database-is-it",
    ):  # fmt: skip
        for query in ("", f"?password={asked}&token={STRANGE}"):
            connection = http.client.HTTPConnection(host, int(port), timeout=10)
            connection.request(
                "GET", target + query, headers={"Authorization": f"Bearer {STRANGE}"}
            )
            answer = connection.getresponse()
            told += f"{answer.headers} {answer.read().decode()}"
            connection.close()
    for line in (f"{STRANGE} / HTTP/1.1", f"GET / HTTP/{STRANGE}", f"GET {PLAIN}\x01 HTTP/1.1"):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(f"{line}\r\nX: {PLAIN}\r\nBad\x01{STRANGE}\r\n\r\n".encode())
            raw.recv(1 << 16)  # who sent it may be told what it was
    nunes = "/v1/instances/nunes"
    for method, target, body in (
        ("GET", f"/v1/status?password={asked}", None),
        ("GET", f"/v1/openapi.json?password={asked}", None),
        ("GET", f"{nunes}?password={asked}", None),
        ("GET", f"/v1/instances/{PLAIN}", None),
        ("POST", f"{nunes}/sync?password={asked}", b"{}"),
        ("POST", f"{nunes}/sync", json.dumps({ODD: 1}).encode()),
        ("POST", f"{nunes}/reset", json.dumps({"entity": ODD}).encode()),
        ("POST", f"/v1/instances/{asked}/reset", json.dumps({"entity": ODD}).encode()),
        ("POST", f"{nunes}/sync", f"{{{PLAIN}".encode()),
    ):
        told += f"{ask(daemon.socket, method, target, body)}"
    return told


@pytest.fixture
def planted(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A configuration in which one instance works and each of the others fails by a secret."""
    monkeypatch.setenv("PLANTED", ODD)
    monkeypatch.setenv("PLANTED_PLAIN", PLAIN)
    keeper = account(servers, "keeper", ODD)
    (tmp_path / "pw").write_text(f"{ODD}\n")
    (tmp_path / "long").write_text(LONG)
    (tmp_path / "no.key").write_text(
        f"-----BEGIN PRIVATE KEY-----\n{PLAIN}\n{LONG}\n-----END PRIVATE KEY-----\n"
    )
    locked = encrypted_key(tmp_path, PLAIN)
    local = {**databases.local, **keeper}
    del local["password"]
    port = int(str(local["port"]))

    def other(number: int, **more: object) -> dict[str, object]:
        return {**local, "database": f"other{number}", "password": PLAIN, **more}

    from_file = {**other(5), "password_file": "long"}
    del from_file["password"]
    instances: dict[str, dict[str, object]] = {
        "nunes": {**local, "password_file": "pw"},
        "wrong": other(1),
        "wrong-odd": {**databases.local, "database": "other2", "user": "nobody", "password": ODD},
        "no-host": other(3, host=f"{PLAIN}.invalid", connect_timeout="1s"),
        "environment": other(4, password="${PLANTED}", port=1),
        "from-file": from_file,
        "user-is-it": other(6, user=PLAIN),
        "database-is-it": {**local, "password": ODD, "database": PLAIN, "port": port},
        "no-tls": other(7, tls={"verify": False}, password="${PLANTED}"),
        "locked-key": other(8, tls=locked),
        "no-key": other(9, tls={"cert": locked["cert"], "key": "no.key"}),
        "no-ca": other(10, tls={"ca": "no.key"}),
    }
    instances["socket"] = other(11, socket=f"/run/{PLAIN}.sock")
    return write_config(
        {**databases.central, **keeper, "password": "${PLANTED}"},
        instances,
        **EVERYWHERE,
        http={"listen": "127.0.0.1:0", "status": True},
    )


def broken(good: str) -> list[tuple[str, str]]:
    """The configuration with one mistake in it, which is or holds a secret."""
    found = []
    for path, value in [
        (("central", "port"), PLAIN), (("central", "password"), [ODD]),
        (("central", "password"), 77701234567), (("central", "host"), [PLAIN]),
        (("defaults", "poll_interval"), ODD), (("instances", "wrong", "port"), PLAIN),
        (("instances", "wrong", "password_file"), ODD), (("entities", "messages", "key"), {ODD: 1}),
        (("sync", ), {"settle": ODD}), (("migrations",), {"directory": f"/{PLAIN}"}),
        (("control", "socket"), PLAIN), (("control", "mode"), ODD), (("control", "group"), PLAIN),
        (("http", "listen"), f"{PLAIN}:80"), (("http", "listen"), f"{LONG}:x"),
        (("signals",), {"sighup_reset": [PLAIN]}), (("log", "level"), ODD), (("log", PLAIN), 1),
        ((PLAIN,), ODD),
    ]:  # fmt: skip
        document: dict[str, Any] = yaml.safe_load(good)
        below = document
        for key in path[:-1]:
            below = below.setdefault(key, {})
        below[path[-1]] = value
        found.append((".".join(path), yaml.safe_dump(document, allow_unicode=True)))
    odd = json.dumps(ODD)
    found.append(("twice", good + f"\nlog: {{}}\ncentral:\n  password: {odd}\n  password: {odd}\n"))
    found.append(("no yaml", good + f"\n'{PLAIN}\n"))
    return found


def test_the_daemon_says_no_secret(planted: Path) -> None:
    good = planted.read_text()
    with DaemonProcess(planted) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        trouble = [each for each in yaml.safe_load(good)["instances"] if each != "nunes"]
        daemon.wait_until(
            lambda: all(daemon.state(name) in {"failed", "backoff"} for name in trouble), 60
        )
        errors = [daemon.status(name)["error"] for name in trouble]
        daemon.usr1()
        daemon.wait_until(lambda: len(daemon.logged("status")) == len(trouble) + 1)
        pages = all_pages(daemon)
        verbs = ""
        for verb in (["status", "--json"], ["status"], ["status", "nunes", "--json"], ["check"],
                     ["sync", "--all"], ["migrate", "--dry-run"], ["reconcile", "nunes"],
                     ["quarantine", "nunes", "list"], ["reset", PLAIN, "all"]):  # fmt: skip
            done = run_cli(*verb, "-c", planted)
            # What stands on the command line is the shell's: it is cleaned all the same.
            verbs += done.stdout + done.stderr
        refused = ""
        for number, (where, text) in enumerate(broken(good), 1):
            planted.write_text(text)
            answer = daemon.request("POST", "/v1/reload", {})
            assert answer.status == 409, (where, answer)
            refused += f"{answer} {run_cli('reload', '-c', planted).stderr}"
            daemon.hup()
            daemon.wait_until(
                lambda n=number: len(daemon.logged("nothing was reset")) == n  # type: ignore[misc]
            )
        planted.write_text(good)
        assert daemon.request("POST", "/v1/reload", {}).status == 200
        pages += all_pages(daemon)
        log = daemon.log_file.read_text()
    assert {error["code"] for error in errors} == {"access", "unreachable"}
    assert "pass failed" in log
    assert "Error handling request" in log, "malformed ones"
    assert not leaks(log, STRANGE)
    for told in (log, pages, verbs, refused, str(errors)):
        assert len(told) > 1000
        assert not leaks(told), told[:5000]


def test_the_command_line_says_no_secret(planted: Path) -> None:
    """Without a daemon: the verbs do it themselves, and `run` does not start."""
    good = planted.read_text()
    told = ""
    for verb in (["check"], ["sync", "--all"], ["status", "--json"], ["migrate", "--all"]):
        done = run_cli(*verb, "-c", planted)
        told += done.stdout + done.stderr
    assert "Access denied" in told
    for where, text in broken(good):
        planted.write_text(text)
        for word in ("run", "check"):
            done = run_cli(word, "-c", planted)
            if word == "run":
                assert done.returncode in {1, 2}, where
            told += done.stdout + done.stderr
    assert not leaks(told), told


def test_the_journal_gets_no_secret(planted: Path, tmp_path: Path) -> None:
    written = tmp_path / "stderr"
    with written.open("wb") as file, running(planted, file, place(file)) as control:
        wait(idle(control))
        wait(lambda: written.read_text().count("pass failed") >= 10, 60)
    text = written.read_text()
    assert text.startswith("<")
    assert not leaks(text), text


def test_it_works_with_that_secret_all_the_same(planted: Path, databases: Databases) -> None:
    """Hidden where it is told, and nowhere else."""
    mirror.insert_messages(databases.central, [1, 2, 3])
    done = run_cli("sync", "nunes", "-c", planted)
    assert done.returncode == 0, done.stderr
    assert mirror.local_ids(databases.local) == [1, 2, 3]


def test_no_terminal_is_asked_for_the_passphrase_of_a_key(planted: Path) -> None:
    """OpenSSL would, and the daemon would wait for an answer."""
    parent, child = os.openpty()
    process = subprocess.Popen(
        ["setsid", "-c", "-w", *_command("check", planted)],
        stdin=child, stdout=child, stderr=subprocess.STDOUT, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(child)
    said = b""
    try:
        while piece := _read(parent):
            said += piece
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    assert b"pass phrase" not in said
    assert b"TLS files cannot be used" in said


def _command(verb: str, config: Path) -> list[str]:
    from tests.daemon_process import COMMAND

    return [*COMMAND, verb, "-c", str(config)]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: nobody has it open any more
        return b""
