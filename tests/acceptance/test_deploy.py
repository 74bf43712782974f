"""The units, as systemd's own tools judge them; and the installation, into a directory."""

from __future__ import annotations

import ctypes.util
import grp
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from daemon import config as configuration
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("wpp-sync.service", "wpp-sync@.service")

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True,
        env={**os.environ, **environ}, timeout=110,
    )  # fmt: skip


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    program = tmp_path / "wpp-sync"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "systemd" / unit).read_text()
    copy = tmp_path / unit.replace("@", "@north")
    copy.write_text(text.replace("/opt/wpp-sync/bin/wpp-sync", str(program)))
    done = run("systemd-analyze", "verify", copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_the_service_is_shut_in(unit: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", DEPLOY / "systemd" / unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.5


@analyze
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="there is no libseccomp")
@pytest.mark.parametrize("unit", UNITS)
def test_the_daemon_does_with_the_system_calls_that_the_unit_allows(
    unit: str, databases: Databases, write_config: Callable[..., Path]
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    document = yaml.safe_load(config.read_text())
    document["control"]["group"] = grp.getgrgid(os.getegid()).gr_name
    config.write_text(yaml.safe_dump(document))
    through = (sys.executable, "-m", "tests.filtered", str(DEPLOY / "systemd" / unit))
    with DaemonProcess(config, through) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert daemon.socket.stat().st_mode & 0o777 == 0o660
        done = run_cli("reload", "-c", config)
        assert done.returncode == 0, done.stderr
        assert daemon.stop() == 0


def directives(unit: str) -> list[str]:
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_template_is_the_same_service_for_each_of_several_daemons() -> None:
    """What differs is where things are."""
    one, many = (directives(unit) for unit in UNITS)
    assert len(one) == len(many)
    differing = {
        line.partition("=")[0] for line, other in zip(one, many, strict=True) if line != other
    }
    assert differing == {
        "Description", "ExecStart", "ExecReload", "User", "RuntimeDirectory", "LoadCredential",
    }  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_every_hardening_line_has_a_reason(unit: str) -> None:
    """A comment stands above it, or above the group that it belongs to."""
    text = (DEPLOY / "systemd" / unit).read_text()
    hardening = text.partition("# What it may touch.")[2].partition("[Install]")[0]
    for group in re.split(r"\n(?=#)", hardening)[1:]:
        settings = [line for line in group.splitlines() if "=" in line and not line.startswith("#")]
        assert len(settings) <= 6, group


# What no prefix may be: whole directories are swapped and removed there.
REFUSED = ("/usr/local", "/usr/local/", "//usr//local", "/usr", "/opt", "/", "opt/x", "/opt/../usr",
           "/opt/a b", "/var/lib/mysql", "/link")  # fmt: skip


@pytest.mark.parametrize("verb", [(), ("--uninstall",)], ids=["install", "uninstall"])
@pytest.mark.parametrize("prefix", REFUSED)
def test_a_directory_of_others_is_not_touched(
    prefix: str, verb: tuple[str, ...], tmp_path: Path
) -> None:
    there = tmp_path / "root"
    others = [there / at / "precious" for at in ("usr/local", "opt/x", "usr", "var/lib/mysql")]
    for each in others:
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text("")
    (there / "link").symlink_to(there / "var/lib/mysql")
    before = sorted(there.rglob("*"))
    done = run(DEPLOY / "install", *verb, DESTDIR=str(there), PREFIX=prefix)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr
    assert sorted(there.rglob("*")) == before


@pytest.mark.parametrize("beside", ["/opt/wpp-sync.old", "/opt/wpp-sync.new"])
def test_what_stands_beside_the_prefix_is_not_touched_either(beside: str, tmp_path: Path) -> None:
    kept = tmp_path / beside.lstrip("/") / "precious"
    kept.parent.mkdir(parents=True)
    kept.write_text("")
    done = run(DEPLOY / "install", DESTDIR=str(tmp_path), PREFIX="/opt/wpp-sync")
    assert (done.returncode, beside in done.stderr, kept.exists()) == (2, True, True)


def clone(to: Path) -> Path:
    """The sources, as they lie in a clone."""
    leave = shutil.ignore_patterns(
        ".*", "build", "*.egg-info", "__pycache__", "tests", "bench", "node_modules"
    )
    shutil.copytree(ROOT, to, ignore=leave)
    return to


def test_install_and_uninstall(tmp_path: Path) -> None:
    sources, there = clone(tmp_path / "clone"), tmp_path / "root"
    stale = sources / "build/lib/daemon/migrations/versions/2099-01-01-001-of-another-version.sql"
    stale.parent.mkdir(parents=True)
    stale.write_text("-- description: built before\nSELECT 1;\n")
    before = sorted(sources.rglob("*"))
    environ = {"DESTDIR": f"{there}/", "PREFIX": "/opt/wpp-sync/"}
    for _ in range(2):  # the second time is an upgrade
        done = run(sources / "deploy/install", **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        config = there / "etc/wpp-sync/config.yaml"
        assert config.stat().st_mode & 0o777 == 0o640
        config.write_text("# mine\n")
        said = run(there / "opt/wpp-sync/bin/python3", "-I", "-m", "daemon.cli", "version")
        assert said.stdout.startswith("wpp-sync ")
    assert config.read_text() == "# mine\n", "an upgrade leaves the configuration alone"
    assert list(there.rglob(stale.name)) == []
    assert sorted(sources.rglob("*")) == before, "nothing of root's is left in the clone"
    script = (there / "opt/wpp-sync/bin/wpp-sync").read_text()
    assert script.startswith("#!/opt/wpp-sync/bin/python")
    python = (there / "opt/wpp-sync/bin/python3").resolve()
    assert not re.match("/(root|home|tmp)/", str(python)), "which the unit does not see"
    unit = (there / "usr/lib/systemd/system/wpp-sync.service").read_text()
    assert "ExecStart=/opt/wpp-sync/bin/wpp-sync run" in unit
    docs = there / "usr/share/doc/wpp-sync"
    assert (docs / "alerts.md").exists()
    installed = {path.name for path in (docs / "prometheus").iterdir()}
    assert installed == {"scrape.yml", "rules.yml", "alerts.yml"}
    completions = there / "usr/share/bash-completion/completions/wpp-sync"
    assert "_WPP_SYNC_COMPLETE" in completions.read_text()
    dashboard = docs / "grafana/wpp-sync.json"
    assert dashboard.read_text() == (DEPLOY / "grafana/wpp-sync.json").read_text()
    assert [link for page in docs.rglob("*.md") for link in dead_links(page)] == []
    done = run(sources / "deploy/install", "--uninstall", **environ)
    assert done.returncode == 0, done.stderr
    left = [path for path in there.rglob("*") if path.is_file() or path.is_symlink()]
    assert left == [config]
    wrong = run(sources / "deploy/install", "--what", **environ)
    assert (wrong.returncode, "usage" in wrong.stderr) == (2, True)


def test_what_was_installed_elsewhere_is_found_to_be_removed(tmp_path: Path) -> None:
    """As an installation leaves it: a mark in its directory, and a link to its command."""
    command = tmp_path / "usr/bin/wpp-sync"
    command.parent.mkdir(parents=True)
    program = tmp_path / "srv/wpp"
    (program / "bin").mkdir(parents=True)
    (program / ".made-by-wpp-sync-install").touch()
    command.symlink_to("/srv/wpp/bin/wpp-sync")
    for words in (["--uninstall", "extra"], ["--uninstall", "--uninstall"], ["--help", "me"]):
        done = run(DEPLOY / "install", *words, DESTDIR=str(tmp_path))
        assert (done.returncode, program.exists()) == (2, True), words
        assert done.stderr.startswith("error: ")
    asked = run(DEPLOY / "install", "--help", DESTDIR=str(tmp_path))
    assert (asked.returncode, asked.stderr, program.exists()) == (0, "", True)
    assert "[--uninstall]" in asked.stdout
    done = run(DEPLOY / "install", "--uninstall", DESTDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert not program.exists()
    assert not command.is_symlink()
    # A link that leads to what is not ours.
    command.symlink_to("/usr/local/bin/wpp-sync")
    done = run(DEPLOY / "install", "--uninstall", DESTDIR=str(tmp_path))
    assert (done.returncode, command.is_symlink()) == (2, True)


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    return [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]


def test_a_python_that_the_unit_does_not_see_is_refused(tmp_path: Path) -> None:
    # A real one, in a place that ProtectHome or PrivateTmp hides.
    own = tmp_path / "bin/python3"
    own.parent.mkdir()
    shutil.copy(Path("/usr/bin/python3").resolve(), own)
    there = tmp_path / "root"
    done = run(DEPLOY / "install", DESTDIR=str(there), PYTHON=str(own))
    assert (done.returncode, there.exists()) == (2, False)
    assert f"{own} is {own}, of which the unit sees nothing" in done.stderr
    done = run(DEPLOY / "install", DESTDIR=str(there), PREFIX="/home/ana/wpp-sync")
    assert (done.returncode, there.exists()) == (2, False)


def secret(server: configuration.Server) -> str:
    return server.password.get_secret_value()


def test_the_configuration_that_is_installed_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("central", "local"):
        (tmp_path / name).write_text(f"{name}'s\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    loaded = configuration.load(DEPLOY / "config.yaml")
    assert secret(loaded.central) == "central's"
    assert secret(loaded.instances["nunes"]) == "local's"
    assert loaded.control.group == "wpp-sync-ops"
    # For a verb outside of the unit, the same files.
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    text = (DEPLOY / "config.yaml").read_text()
    copy = tmp_path / "config.yaml"
    copy.write_text(text.replace("/etc/wpp-sync/credentials", str(tmp_path)))
    assert secret(configuration.load(copy).central) == "central's"
    lines = directives("wpp-sync.service")
    assert "LoadCredential=central:/etc/wpp-sync/credentials/central" in lines
    assert "LoadCredential=local:/etc/wpp-sync/credentials/local" in lines
    assert f"Group={loaded.control.group}" in lines
    assert str(loaded.control.socket) == "/run/wpp-sync/control.sock"
